"""How well a score separates two outcomes: areas under curves with their intervals, and tests between
models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichnos.arrays import Floats
from ichnos.evidence.metrics.intervals import LEVEL, Estimate, bootstrap, normal_quantile, two_classes

Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Auc:
    """Area under the ROC curve with DeLong's standard error; the interval is built on the logit scale, so
    that it stays inside 0 to 1.
    """

    value: float
    se: float
    low: float
    high: float
    events: int
    n: int
    level: float = LEVEL

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.value:.3f} (no interval)"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class AucDifference:
    """Difference of two areas with its interval and two-sided test."""

    value: float  # first minus second
    low: float
    high: float
    z: float
    p: float


def auc(outcome: npt.ArrayLike, score: npt.ArrayLike, *, level: float = LEVEL) -> Auc:
    """Return the area under the ROC curve (DeLong et al. 1988, Biometrics 44:837; sorting as Sun & Xu 2014,
    IEEE SPL 21:1389).

    A constant score gives 0.5 with a standard error of 0; perfect separation gives 1 with an undefined (NaN)
    interval.

    >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]).value
    0.75
    """
    events, (values,) = two_classes(outcome, score)
    of_events, of_others = _placements(events, values)
    area, se = float(of_events.mean()), float(np.sqrt(_variance(of_events) + _variance(of_others)))
    low, high = _logit_interval(area, se, level)
    return Auc(area, se, low, high, int(events.sum()), events.size, level)


def compare_paired(
    outcome: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike, *, level: float = LEVEL
) -> AucDifference:
    """Compare two scores of the same cases (DeLong's test with the covariance of the two areas).

    >>> first, second = [0.1, 0.4, 0.3, 0.9], [0.4, 0.1, 0.3, 0.2]
    >>> compare_paired([0, 0, 1, 1], first, second).value
    0.25
    """
    events, columns = two_classes(outcome, first, second)
    (a1, a0), (b1, b0) = (_placements(events, column) for column in columns)
    se = float(np.sqrt(_variance(a1 - b1) + _variance(a0 - b0)))
    return _difference(float(a1.mean() - b1.mean()), se, level)


def _difference(value: float, se: float, level: float) -> AucDifference:
    from scipy.special import ndtr

    if not se > 0 and not (se == 0 and value == 0):  # too few of a class, or no spread: nothing is known
        return AucDifference(value, *[float("nan")] * 4)
    half = normal_quantile(level) * se
    z = value / se if se > 0 else 0.0
    return AucDifference(value, value - half, value + half, z, float(2 * ndtr(-abs(z))))


def _placements(events: Booleans, values: Floats) -> tuple[Floats, Floats]:
    """Return for each event the share of others it beats, and for each other the share of events that beat
    it; ties count half.
    """
    cases, others = np.sort(values[events]), np.sort(values[~events])
    of_events: Floats = (np.searchsorted(others, cases, "left") + np.searchsorted(others, cases, "right")) / (
        2.0 * others.size
    )
    of_others: Floats = 1 - (
        np.searchsorted(cases, others, "left") + np.searchsorted(cases, others, "right")
    ) / (2.0 * cases.size)
    back_events, back_others = np.argsort(np.argsort(values[events])), np.argsort(np.argsort(values[~events]))
    return of_events[back_events], of_others[back_others]


def _variance(placements: Floats) -> float:
    return float(placements.var(ddof=1) / placements.size) if placements.size > 1 else float("nan")


def _logit_interval(area: float, se: float, level: float) -> tuple[float, float]:
    if not 0 < area < 1 or not np.isfinite(se):
        return float("nan"), float("nan")
    middle, half = np.log(area / (1 - area)), normal_quantile(level) * se / (area * (1 - area))
    return float(1 / (1 + np.exp(-(middle - half)))), float(1 / (1 + np.exp(-(middle + half))))


def _slow_auc(outcome: npt.ArrayLike, score: npt.ArrayLike) -> tuple[float, float]:
    """Return area and standard error from every pair of an event and another case: the oracle of `auc`."""
    events, (values,) = two_classes(outcome, score)
    cases, others = values[events][:, None], values[~events][None, :]
    wins = (cases > others) + 0.5 * (cases == others)
    of_events, of_others = wins.mean(axis=1), wins.mean(axis=0)
    return float(wins.mean()), float(np.sqrt(_variance(of_events) + _variance(of_others)))


def precision_recall_auc(
    outcome: npt.ArrayLike,
    score: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    repeats: int = 1000,
    level: float = LEVEL,
) -> Estimate:
    """Return the average precision (area under the precision-recall steps, no interpolation) with a bootstrap
    interval.

    Its value without skill is the prevalence, not 0.5.
    """
    events, (values,) = two_classes(outcome, score)
    return bootstrap(
        lambda at: _average_precision(events[at], values[at]), events, rng=rng, repeats=repeats, level=level
    )


def _average_precision(events: Booleans, values: Floats) -> float:
    order = np.argsort(-values, kind="stable")
    hits, last_of_tie = np.cumsum(events[order]), np.append(np.diff(values[order]) != 0, True)
    true, positive = hits[last_of_tie], np.flatnonzero(last_of_tie) + 1
    return float(np.sum(np.diff(true, prepend=0) * true / positive) / events.sum())


@dataclass(frozen=True, eq=False)
class RocCurve:
    """Points of the ROC curve, one per distinct score, from (0, 0) to (1, 1)."""

    false_positive_rate: Floats
    true_positive_rate: Floats
    threshold: Floats  # a case is positive from here on; infinite at (0, 0)


def roc_curve(outcome: npt.ArrayLike, score: npt.ArrayLike) -> RocCurve:
    """Return the points of the ROC curve.

    >>> curve = roc_curve([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.9])
    >>> curve.false_positive_rate.tolist(), curve.true_positive_rate.tolist()
    ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0])
    """
    events, (values,) = two_classes(outcome, score)
    order = np.argsort(-values, kind="stable")
    last_of_tie = np.append(np.diff(values[order]) != 0, True)
    true = np.cumsum(events[order])[last_of_tie] / events.sum()
    false = np.cumsum(~events[order])[last_of_tie] / (~events).sum()
    return RocCurve(
        np.append(0.0, false), np.append(0.0, true), np.append(np.inf, values[order][last_of_tie])
    )


def holm(p_values: Sequence[float]) -> Floats:
    """Adjust p values for the number of comparisons (Holm 1979); NaN stays NaN and does not count.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, np.float64)
    adjusted = np.full(p.size, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * (known.size - np.arange(known.size))))
    return adjusted
