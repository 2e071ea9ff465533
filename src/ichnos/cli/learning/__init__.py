"""Verbs around the models that ship: trained on virtual patients, fitted, stress-tested."""
