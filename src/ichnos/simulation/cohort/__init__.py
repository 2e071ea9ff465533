"""Cohorts of virtual patients: design, subjects, files."""
