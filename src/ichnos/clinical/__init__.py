"""Definitions that simulation, reading and evidence share: expansion, injury, scores."""
