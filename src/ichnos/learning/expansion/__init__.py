"""Learners of haematoma expansion: classifiers, forecasts of the follow-up lesion, generators of slices."""
