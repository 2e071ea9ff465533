"""Sections on yes/no outcomes: data, discrimination, probability, adjusted effects, and the whole."""
