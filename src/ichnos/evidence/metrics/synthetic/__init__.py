"""Synthetic images judged: distances against a floor, copies, membership, and use for a classifier."""
