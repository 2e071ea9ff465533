"""Fit Fazekas grades to measured volumes of leukoaraiosis, and evaluate the fit on patients left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import optimize

from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.prognosis.fazekas import OrdinalModel

_GRADES = 4
_LEAST_CASES = 20
_RIDGE = 0.02  # pulls towards _PLAIN, so that a grade that nobody has cannot send its cut to infinity
# ln slope, first cut, ln steps to the next cuts
_PLAIN = np.array([np.log(1.5), 1.0, np.log(1.5), np.log(1.5)])


def fit_ordinal(volumes_ml: Sequence[float], grades: Sequence[int]) -> OrdinalModel:
    """Return the ordinal model of greatest penalised likelihood.

    >>> model = fit_ordinal([0.1, 1.0, 5.0, 30.0] * 10, [0, 1, 2, 3] * 10)
    >>> [max(range(4), key=model.probabilities(ml).__getitem__) for ml in (0.1, 1.0, 5.0, 30.0)]
    [0, 1, 2, 3]
    """
    if len(volumes_ml) < _LEAST_CASES or len(set(grades)) < 2:
        raise InputRefused(
            f"{len(volumes_ml)} patients of grades {sorted(set(grades))} were given; {_LEAST_CASES} of two"
            " grades are needed"
        )
    log_ml, grade = np.log1p(np.asarray(volumes_ml, np.float64)), np.asarray(grades, np.int64)
    best = optimize.minimize(
        _cost,
        _PLAIN,
        args=(log_ml, grade),
        method="Nelder-Mead",
        options={"maxiter": 4000, "xatol": 1e-6, "fatol": 1e-9},
    )
    slope, cuts = _numbers(best.x)
    first, second, third = (float(round(cut, 4)) for cut in cuts)
    return OrdinalModel(slope=float(round(slope, 4)), cuts=(first, second, third))


def _cost(values: Floats, log_ml: Floats, grade: npt.NDArray[np.int64]) -> float:
    """Return the negative log likelihood of the grades, with the penalty of being far from _PLAIN."""
    slope, cuts = _numbers(values)
    at_least = 1 / (1 + np.exp(np.clip(cuts[None] - slope * log_ml[:, None], -60, 60)))
    steps = np.column_stack([np.ones(len(grade)), at_least, np.zeros(len(grade))])
    chance = (steps[:, :-1] - steps[:, 1:])[np.arange(len(grade)), grade]
    return float(-np.log(chance.clip(1e-9)).mean() + _RIDGE * ((values - _PLAIN) ** 2).sum())


def left_out(volumes_ml: Sequence[float], grades: Sequence[int], *, folds: int = 5) -> tuple[float, float]:
    """Return how often the likeliest grade is right, and right within one, in patients left out of the fit.

    >>> left_out([0.1, 1.0, 5.0, 30.0] * 10, [0, 1, 2, 3] * 10)
    (1.0, 1.0)
    """
    miss = np.zeros(len(grades), np.int64)
    for fold in range(folds):
        kept = [k for k in range(len(grades)) if k % folds != fold]
        model = fit_ordinal([volumes_ml[k] for k in kept], [grades[k] for k in kept])
        for k in range(fold, len(grades), folds):
            miss[k] = abs(max(range(_GRADES), key=model.probabilities(volumes_ml[k]).__getitem__) - grades[k])
    return float((miss == 0).mean()), float((miss <= 1).mean())


def _numbers(values: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
    slope, first, steps = np.exp(values[0]), values[1], np.exp(values[2:])
    return float(slope), np.array([first, first + steps[0], first + steps[0] + steps[1]])
