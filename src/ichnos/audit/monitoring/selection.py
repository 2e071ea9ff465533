"""Who gets a partner exam: shown, and weighted for, so that those who came speak for those who did not.

Inverse-probability weights hold only if what decides on the exam is among the columns given (no unmeasured
selection); nothing in the data can prove that, and the page says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichnos.arrays import Floats
from ichnos.audit.score import Score
from ichnos.errors import InputRefused

LARGEST_WEIGHT = 10.0  # an exam with a chance below a tenth counts as ten patients, no more
_LEAST_EACH = 10  # patients with and without the exam below which nothing is estimated


@dataclass(frozen=True, eq=False)
class Selection:
    """Who got the exam, and the weights that make them stand for everybody."""

    chance: Floats  # (n,) estimated probability of the exam, of everybody
    weights: Floats  # (m,) of those with the exam, in their order; mean 1
    differences: Mapping[
        str, tuple[float, float]
    ]  # column -> standardised difference to all, before and after
    effective: float  # of how many equally weighted pairs the weighted ones are worth


def weigh_selection(columns: Mapping[str, npt.ArrayLike], came: npt.ArrayLike) -> Selection:
    """Estimate each patient's chance of the exam from what is known of everybody, and weigh those who came.

    A logistic model of the standardised columns; unknown values take the mean, and count as a column.
    """
    chosen = np.asarray(came, bool)
    if min(chosen.sum(), (~chosen).sum()) < _LEAST_EACH:
        raise InputRefused(
            f"{chosen.sum()} patients with and {(~chosen).sum()} without the exam; at least {_LEAST_EACH} of"
            " each are needed to say who gets it"
        )
    if not columns:
        raise InputRefused("no volume and no probability was read, so nothing is known of who gets the exam")
    from sklearn.linear_model import LogisticRegression

    table = _standardised(columns)
    model = LogisticRegression(C=10.0, max_iter=500).fit(table, chosen)
    chance = np.asarray(model.predict_proba(table)[:, 1], np.float64)
    weights = np.minimum(chosen.mean() / chance[chosen], LARGEST_WEIGHT)
    weights = weights / weights.mean()
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    return Selection(chance, weights, _differences(columns, chosen, weights), effective)


def selection_of(
    scores: Sequence[Score], everyone: Mapping[str, Mapping[str, float]]
) -> tuple[Selection, dict[str, float]]:
    """Return who of everybody got the exam, and the weight of each patient who did."""
    names = list(everyone)
    came = {score.patient for score in scores}
    chosen = [name in came for name in names]
    columns = {key: [everyone[name].get(key, math.nan) for name in names] for key in _keys(everyone)}
    selection = weigh_selection(columns, chosen)
    judged = [name for name in names if name in came]
    return selection, dict(zip(judged, selection.weights.tolist(), strict=True))


def _keys(everyone: Mapping[str, Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(key for values in everyone.values() for key in values))


def _standardised(columns: Mapping[str, npt.ArrayLike]) -> Floats:
    parts = []
    for values in columns.values():
        x = np.asarray(values, np.float64)
        known = np.isfinite(x)
        filled = np.where(known, x, x[known].mean() if known.any() else 0.0)
        parts.append((filled - filled.mean()) / max(float(filled.std()), 1e-9))
        if not known.all():
            parts.append((~known).astype(np.float64))
    return np.stack(parts, axis=1)


def _differences(
    columns: Mapping[str, npt.ArrayLike], chosen: npt.NDArray[np.bool_], weights: Floats
) -> dict[str, tuple[float, float]]:
    found = {}
    for name, values in columns.items():
        x = np.asarray(values, np.float64)
        known = np.isfinite(x)
        sd = float(x[known].std()) or 1.0
        everyone, own = float(x[known].mean()), known & chosen
        w = weights[known[chosen]]
        after = float((w * x[own]).sum() / w.sum())
        found[name] = ((float(x[own].mean()) - everyone) / sd, (after - everyone) / sd)
    return found


def weighted_mean(values: npt.ArrayLike, weights: npt.ArrayLike) -> tuple[float, float]:
    """Return a weighted mean and its standard error (of the ratio estimator).

    >>> weighted_mean([1.0, 0.0], [1.0, 3.0])[0]
    0.25
    """
    x, w = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    mean = float((w * x).sum() / w.sum())
    error = float(np.sqrt(((w * (x - mean)) ** 2).sum()) / w.sum())
    return mean, error


def weighted_calibration(
    outcome: Sequence[float] | Floats,
    probability: Sequence[float] | Floats,
    weights: Sequence[float] | Floats,
) -> tuple[float, float]:
    """Return intercept and slope of the weighted logistic regression of the outcome on log odds.

    >>> rng = np.random.default_rng(0)
    >>> p = rng.uniform(0.05, 0.95, 4000)
    >>> intercept, slope = weighted_calibration(rng.uniform(size=4000) < p, p, np.ones(4000))
    >>> abs(intercept) < 0.15, abs(slope - 1) < 0.15
    (True, True)
    """
    from ichnos.evidence.metrics.calibration import logit

    x, y = logit(np.asarray(probability)), np.asarray(outcome, np.float64)
    w = np.asarray(weights, np.float64)
    at = np.array([0.0, 1.0])
    for _ in range(50):  # Newton's steps
        mean = 1 / (1 + np.exp(-(at[0] + at[1] * x)))
        design = np.stack([np.ones_like(x), x])
        gradient = design @ (w * (y - mean))
        information = (design * (w * mean * (1 - mean))) @ design.T + 1e-9 * np.eye(2)
        step = np.linalg.solve(information, gradient)
        at = at + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-8:
            break
    return float(at[0]), float(at[1])
