"""Fit the prognostic and calibration models of `prognosis`, and write their cards."""
