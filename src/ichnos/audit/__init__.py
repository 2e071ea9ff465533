"""Readings held against the partner exams that came: pairs, scores, monitoring, adaptation."""
