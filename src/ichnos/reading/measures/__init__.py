"""Measures of masks: each a number or grade with a unit and an interval, or the reason for none."""
