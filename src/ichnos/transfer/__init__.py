"""Partner exams to targets on the CT grid, each pair with a verdict on its own quality.

`run.transfer_cohort` does a whole cohort; `flair`, `tractography` and `followup` hold the method of each
target.
"""
