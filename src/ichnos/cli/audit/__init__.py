"""Verbs of the audit: pair, audit, adapt, pool."""
