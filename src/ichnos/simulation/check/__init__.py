"""Compare a simulated cohort with published figures."""
