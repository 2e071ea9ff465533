"""From a number to a level."""

from __future__ import annotations

import numpy as np

from ichnos.verdict import Level


def level_of(value: float, limits: tuple[float, float]) -> Level:
    """Return the level of a value that should be small; an undefined one warns.

    >>> [level_of(value, (5.0, 10.0)) for value in (3.0, 7.0, 12.0, float("nan"))]
    ['pass', 'warn', 'refuse', 'warn']
    """
    if np.isnan(value):
        return "warn"
    return "refuse" if value > limits[1] else "warn" if value > limits[0] else "pass"
