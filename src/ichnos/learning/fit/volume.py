"""Fit intervals of volumes: split-conformal limits of the errors in patients of known true volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ichnos.errors import InputRefused
from ichnos.prognosis.volume import VolumeCalibration, VolumeErrors

_LEAST_PATIENTS = 20  # with something measured; from fewer no interval of a target is fitted


def fit_volume_calibration(
    pairs_ml: Mapping[str, Sequence[tuple[float, float]]], *, cohort: str, level: float = 0.8
) -> VolumeCalibration:
    """Return the calibration model of (measured, true) millilitres per target; both tails are alike.

    >>> rng = np.random.default_rng(0)
    >>> true = np.exp(rng.uniform(0, 4, 400))
    >>> read = true * np.exp(rng.normal(0, 0.2, 400))
    >>> pairs = {"ICH": list(zip(read[:200], true[:200])), "IVH": []}
    >>> model = fit_volume_calibration(pairs, cohort="made up")
    >>> intervals = [model.interval_ml("ICH", r) for r in read[200:]]
    >>> inside = [low <= t <= high for (low, high), t in zip(intervals, true[200:])]
    >>> sorted(model.targets), bool(0.72 < np.mean(inside) < 0.88)
    (['ICH'], True)
    """
    fitted = {target: _errors(pairs, level) for target, pairs in pairs_ml.items()}
    targets = {target: errors for target, errors in fitted.items() if errors is not None}
    if not targets:
        counts = ", ".join(f"{t} in {sum(pair[0] > 0 for pair in p)}" for t, p in pairs_ml.items())
        raise InputRefused(
            f"too little was measured to fit intervals ({counts}); {_LEAST_PATIENTS} patients of a target are"
            " needed"
        )
    return VolumeCalibration(cohort=cohort, level=level, targets=targets)


def _errors(pairs_ml: Sequence[tuple[float, float]], level: float) -> VolumeErrors | None:
    """Return the limits of ln(1 + true) - ln(1 + measured); None if too few patients were measured."""
    measured = np.asarray([pair for pair in pairs_ml if pair[0] > 0], np.float64).reshape(-1, 2)
    if len(measured) < _LEAST_PATIENTS:
        return None
    low, high = _limits(np.log1p(measured[:, 1]) - np.log1p(measured[:, 0]), level)
    return VolumeErrors(low=round(low, 4), high=round(high, 4), patients=len(measured))


def _limits(errors: np.ndarray, level: float) -> tuple[float, float]:
    """Return the order statistics that hold a new patient's error with at least this probability."""
    ordered, n = np.sort(errors), len(errors)
    outside = max(1, int(np.floor((n + 1) * (1 - level) / 2)))
    return float(ordered[outside - 1]), float(ordered[n - outside])
