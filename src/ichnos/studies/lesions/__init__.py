"""Lesions of real people against their deficit: what the tract atlas adds to volume, age and sex."""

from ichnos.studies.lesions.study import lesion_study

__all__ = ["lesion_study"]
