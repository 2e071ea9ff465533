"""From a number to a level."""

from __future__ import annotations

import numpy as np

from ichnos.verdict import Level


def level_of(value: float, limits: tuple[float, float]) -> Level:
    """Return the level of a value that should be small; an undefined one warns."""
    if np.isnan(value):
        return "warn"
    return "refuse" if value > limits[1] else "warn" if value > limits[0] else "pass"
