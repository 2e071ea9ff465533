"""Whether a probability means what it says: intercept, slope, smoothed curve, Brier score, expected error,
and net benefit.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.discrimination import Booleans
from ichnos.evidence.metrics.intervals import LEVEL, Estimate, normal_quantile, two_classes, undefined


@dataclass(frozen=True, eq=False)
class CalibrationBin:
    """Cases of similar predicted probability."""

    predicted: float  # mean of the bin
    observed: Estimate  # share with the event, Wilson interval


@dataclass(frozen=True, eq=False)
class Calibration:
    """How predicted probabilities relate to observed outcomes."""

    observed_over_expected: float  # events / sum of probabilities; 1 is calibrated in the large
    intercept: Estimate  # 0: right on average, given slope 1
    slope: Estimate  # 1: neither too extreme (< 1) nor too timid (> 1)
    brier: float
    brier_skill: float  # 1 - brier / that of always predicting the prevalence
    ece: float  # expected calibration error over bins of equal count
    ici: float  # mean |smoothed observed - predicted|
    curve_predicted: Floats  # (m,) a smooth curve to draw
    curve_observed: Floats  # (m,)
    bins: tuple[CalibrationBin, ...]
    n: int
    events: int


def calibration(
    outcome: npt.ArrayLike, probability: npt.ArrayLike, *, bins: int = 10, level: float = LEVEL
) -> Calibration:
    """Measure calibration (Van Calster et al. 2019, BMC Med 17:230; ICI: Austin & Steyerberg 2019, Stat Med
    38:4051); intercept and slope are NaN where the likelihood has no maximum (separation, constant scores).
    """
    events, p = checked_probabilities(outcome, probability)
    slope, intercept = _line(events, p, level)
    at, observed = _smoothed(events, p)
    groups = tuple(_bin(events[part], p[part], level) for part in _equal_parts(p, bins))
    brier, share = float(np.mean((p - events) ** 2)), float(events.mean())
    return Calibration(
        observed_over_expected=float(events.sum() / p.sum()) if p.sum() else float("nan"),
        intercept=intercept,
        slope=slope,
        brier=brier,
        brier_skill=1 - brier / (share * (1 - share)),
        ece=float(sum(b.observed.n * abs(b.observed.value - b.predicted) for b in groups) / p.size),
        ici=float(np.mean(np.abs(np.interp(p, at, observed) - p))),
        curve_predicted=at,
        curve_observed=observed,
        bins=groups,
        n=p.size,
        events=int(events.sum()),
    )


def checked_probabilities(outcome: npt.ArrayLike, probability: npt.ArrayLike) -> tuple[Booleans, Floats]:
    """Return outcome and probability, or refuse a score that is no probability.

    >>> checked_probabilities([0, 1], [0.2, 1.4])
    Traceback (most recent call last):
    ichnos.errors.InputRefused: the probability ranges from 0.2 to 1.4; calibration needs 0 to ...
    """
    events, (p,) = two_classes(outcome, probability)
    if ((p < 0) | (p > 1)).any():
        raise InputRefused(
            f"the probability ranges from {p.min():g} to {p.max():g}; calibration needs 0 to 1: fit Platt"
            " scaling first"
        )
    return events, p


def logit(p: npt.ArrayLike) -> Floats:
    """Return log odds, with probabilities kept 1e-7 away from 0 and 1.

    >>> logit([0.5, 0.8]).round(3).tolist()
    [0.0, 1.386]
    """
    kept = np.clip(np.asarray(p, np.float64), 1e-7, 1 - 1e-7)
    odds: Floats = np.log(kept / (1 - kept))
    return odds


def _line(events: Booleans, p: Floats, level: float) -> tuple[Estimate, Estimate]:
    """Fit outcome ~ slope * logit(p) + c, and outcome ~ intercept with logit(p) as offset."""
    import statsmodels.api as sm
    from statsmodels.tools.sm_exceptions import PerfectSeparationError, PerfectSeparationWarning

    x, binomial = logit(p), sm.families.Binomial()
    slope = intercept = undefined(p.size, level)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PerfectSeparationWarning)
        with suppress(PerfectSeparationError, PerfectSeparationWarning):
            if p.size > 2 and x.std() >= 1e-12:  # as many parameters as patients fit anything
                fitted = sm.GLM(events, sm.add_constant(x), family=binomial).fit()
                slope = _parameter(fitted, 1, p.size, level)
        if p.size > 1:
            fitted = sm.GLM(events, np.ones(p.size), family=binomial, offset=x).fit()
            intercept = _parameter(fitted, 0, p.size, level)
    return slope, intercept


def _parameter(fitted: Any, at: int, n: int, level: float) -> Estimate:
    """Return a parameter with its interval; undefined where the likelihood has no maximum."""
    value, se = float(fitted.params[at]), float(fitted.bse[at])
    if not np.isfinite(se) or se >= 1e3:
        return undefined(n, level)
    z = normal_quantile(level)
    return Estimate(value, value - z * se, value + z * se, n, level)


def _smoothed(events: Booleans, p: Floats, points: int = 200) -> tuple[Floats, Floats]:
    """Smooth the outcome over the probability by local linear regression (lowess without robust steps, as
    for a 0/1 outcome).
    """
    from statsmodels.nonparametric.smoothers_lowess import lowess

    if p.std() < 1e-12:
        return np.array([p[0]]), np.array([events.mean()])
    at = np.linspace(p.min(), p.max(), points)
    share = min(1.0, max(0.3, 30 / p.size))
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        # empty neighbourhoods come back as NaN and are dropped below
        warnings.simplefilter("ignore", RuntimeWarning)
        observed = lowess(events.astype(float), p, frac=share, it=0, xvals=at)
    kept = np.isfinite(observed)
    if not kept.any():  # so few different probabilities that no neighbourhood holds two of them
        levels = np.unique(p)
        return levels, np.array([events[p == level].mean() for level in levels])
    return at[kept], np.clip(observed[kept], 0, 1)


def _equal_parts(p: Floats, bins: int) -> list[npt.NDArray[np.intp]]:
    """Split cases into parts of equal count; equal probabilities stay together."""
    edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)))
    if edges.size < 2:
        return [np.arange(p.size)]
    index = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, edges.size - 2)
    return [part for i in range(edges.size - 1) if (part := np.flatnonzero(index == i)).size]


def _bin(events: Booleans, p: Floats, level: float) -> CalibrationBin:
    from ichnos.evidence.metrics.intervals import proportion

    return CalibrationBin(float(p.mean()), proportion(int(events.sum()), events.size, level=level))


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit over threshold probabilities (Vickers & Elkin 2006, Med Decis Making 26:565), in true
    positives per case.
    """

    threshold: Floats  # (t,)
    model: Floats  # (t,)
    treat_all: Floats  # (t,); treating none is zero everywhere


def decision_curve(
    outcome: npt.ArrayLike, probability: npt.ArrayLike, *, thresholds: Sequence[float] | None = None
) -> DecisionCurve:
    """Return net benefit = TP/n - FP/n * t/(1-t) at each threshold t.

    >>> decision_curve([0, 1, 1, 0], [0.1, 0.9, 0.8, 0.2], thresholds=[0.5]).model.tolist()
    [0.5]
    """
    events, p = checked_probabilities(outcome, probability)
    t = np.arange(0.01, 1.0, 0.01) if thresholds is None else np.asarray(thresholds, np.float64)
    if ((t <= 0) | (t >= 1)).any():
        raise InputRefused("thresholds of a decision curve must lie strictly between 0 and 1")
    odds, n = t / (1 - t), events.size
    cases, others = np.sort(p[events]), np.sort(p[~events])
    true = cases.size - np.searchsorted(cases, t, side="left")
    false = others.size - np.searchsorted(others, t, side="left")
    return DecisionCurve(t, true / n - false / n * odds, cases.size / n - others.size / n * odds)
