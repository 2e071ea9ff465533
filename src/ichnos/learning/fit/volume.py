"""Learn the intervals of volumes: split-conformal limits of the errors in patients whose true volumes are
known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ichnos.errors import InputRefused
from ichnos.prognosis.volume import VolumeCalibration, VolumeErrors

LEAST_PATIENTS = 20  # with something measured; from fewer no interval of a target is learnt


def fit_volume_calibration(
    pairs_ml: Mapping[str, Sequence[tuple[float, float]]], *, cohort: str, level: float = 0.8
) -> VolumeCalibration:
    """Return the law of (measured, true) millilitres per target; either side of the interval misses half of
    what it may miss.

    >>> rng = np.random.default_rng(0)
    >>> true = np.exp(rng.uniform(0, 4, 400))
    >>> read = true * np.exp(rng.normal(0, 0.2, 400))
    >>> law = fit_volume_calibration({"ICH": list(zip(read[:200], true[:200])), "IVH": []}, cohort="made up")
    >>> intervals = [law.interval_ml("ICH", r) for r in read[200:]]
    >>> held = [low <= t <= high for (low, high), t in zip(intervals, true[200:])]
    >>> sorted(law.targets), bool(0.72 < np.mean(held) < 0.88)
    (['ICH'], True)
    """
    targets = {}
    for target, pairs in pairs_ml.items():
        found = np.asarray([pair for pair in pairs if pair[0] > 0], np.float64).reshape(-1, 2)
        if len(found) >= LEAST_PATIENTS:
            low, high = _limits(np.log1p(found[:, 1]) - np.log1p(found[:, 0]), level)
            targets[target] = VolumeErrors(low=round(low, 4), high=round(high, 4), patients=len(found))
    if not targets:
        counts = ", ".join(
            f"{target} in {sum(pair[0] > 0 for pair in pairs)}" for target, pairs in pairs_ml.items()
        )
        raise InputRefused(
            f"too little was measured to learn intervals from ({counts}); {LEAST_PATIENTS} patients of a"
            " target are needed"
        )
    return VolumeCalibration(cohort=cohort, level=level, targets=targets)


def _limits(errors: np.ndarray, level: float) -> tuple[float, float]:
    """Return the order statistics that hold a new patient's error with at least this probability."""
    ordered, n = np.sort(errors), len(errors)
    outside = max(1, int(np.floor((n + 1) * (1 - level) / 2)))
    return float(ordered[outside - 1]), float(ordered[n - outside])
