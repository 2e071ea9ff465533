"""Stress tests: how a model behaves on heads it never saw, and when a scan is changed.

Some changes must not matter (another zero of HU, slice thickness, tilt), some must be noticed (a clot pasted
into a scan without blood). They predict behaviour on real scans better than Dice on simulated ones.
"""

from ichnos.learning.virtual.stress.changes import (
    CLOTS_ML,
    SHIFTS_HU,
    MaskReader,
    mask_reader,
    shifted,
    with_clot,
)
from ichnos.learning.virtual.stress.tables import stress_markdown, stress_measures, stress_tables
from ichnos.learning.virtual.stress.trial import StressTrial, stress_patient

__all__ = [
    "CLOTS_ML",
    "SHIFTS_HU",
    "MaskReader",
    "StressTrial",
    "mask_reader",
    "shifted",
    "stress_markdown",
    "stress_measures",
    "stress_patient",
    "stress_tables",
    "with_clot",
]
