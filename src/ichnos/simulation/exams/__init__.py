"""Exams of a virtual patient: CT, FLAIR, T1, diffusion, and the truth on their grids."""
