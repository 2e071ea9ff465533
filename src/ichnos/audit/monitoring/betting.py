"""Statistics that may be looked at after every pair: confidence sequences and e-values by betting.

A confidence sequence holds the true mean at every look at once with the promised probability. An e-value is
what one unit of money has become by fair bets against a claim: if the claim holds, it ever reaches 1 / alpha
with probability at most alpha (Ville's inequality), however often one looks. Confidence sequences:
Waudby-Smith and Ramdas 2024 (J R Stat Soc B 86:1), the hedged capital process. E-values for calibration:
Henzi and Ziegel 2022 (Biometrika 109:647). Two forecasters: Choe and Ramdas 2024 (Oper Res 72:1368).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.calibration import logit
from ichnos.evidence.metrics.intervals import LEVEL, Estimate, finite

_GRID = 401  # candidate means; half a step of the grid widens every interval
_BET_AT_MOST = 0.5  # share of the money that a bet may lose
_LOWER_COVERAGES = 60  # alternatives to a promised coverage, evenly from 0
_SHIFTS, _SLOPES = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0), (0.4, 0.7, 1.0, 1.4)  # of log odds


@dataclass(frozen=True, eq=False)
class ConfidenceSequence:
    """Interval of a mean after each value; all of them hold at once with probability `level`."""

    low: Floats  # (n,)
    high: Floats  # (n,)
    mean: Floats  # (n,) of the values so far
    level: float

    @property
    def last(self) -> Estimate:
        """Return the mean and interval after the last value."""
        if not len(self.mean):
            return Estimate(math.nan, math.nan, math.nan, 0, self.level)
        return Estimate(
            float(self.mean[-1]), float(self.low[-1]), float(self.high[-1]), len(self.mean), self.level
        )


def mean_sequence(
    values: npt.ArrayLike, *, low: float = 0.0, high: float = 1.0, level: float = LEVEL
) -> ConfidenceSequence:
    """Return the confidence sequence of the mean of values that lie in [low, high].

    >>> sequence = mean_sequence([1.0, 0.0] * 200)
    >>> bool(sequence.low[-1] < 0.5 < sequence.high[-1]), bool(sequence.high[-1] - sequence.low[-1] < 0.25)
    (True, True)
    """
    raw = finite("the values", values, least=0)
    if raw.size and not (raw.min() >= low - 1e-9 and raw.max() <= high + 1e-9):
        raise InputRefused(f"values from {raw.min():g} to {raw.max():g} do not lie in {low:g} to {high:g}")
    x = (raw - low) / (high - low)
    candidates = np.linspace(0, 1, _GRID)
    log_up, log_down = np.zeros(_GRID), np.zeros(_GRID)
    bets = _predictable_bets(x, 1 - level)
    inside = np.ones(_GRID, bool)
    bounds = np.empty((2, x.size))
    for t, (value, bet) in enumerate(zip(x, bets, strict=True)):
        up = np.minimum(bet, _BET_AT_MOST / np.maximum(candidates, 1e-9))
        down = np.minimum(bet, _BET_AT_MOST / np.maximum(1 - candidates, 1e-9))
        log_up += np.log1p(up * (value - candidates))
        log_down += np.log1p(-down * (value - candidates))
        inside &= np.maximum(log_up, log_down) - math.log(2) < -math.log(1 - level)
        kept = candidates[inside]
        step = 0.5 / (_GRID - 1)
        bounds[:, t] = (
            (max(0.0, kept[0] - step), min(1.0, kept[-1] + step)) if len(kept) else bounds[:, max(t - 1, 0)]
        )
    means = np.cumsum(raw) / np.arange(1, raw.size + 1)
    lower, upper = low + (high - low) * bounds
    return ConfidenceSequence(lower, upper, means, level)


def _predictable_bets(x: Floats, alpha: float) -> Floats:
    """Return the bet before each value, from the variance of those before it (their equation 26)."""
    t = np.arange(1, x.size + 1)
    means = (0.5 + np.cumsum(x)) / (t + 1)
    variances = (0.25 + np.cumsum((x - means) ** 2)) / (t + 1)
    before = np.concatenate([[0.25], variances])[: x.size]
    return np.asarray(np.sqrt(2 * math.log(2 / alpha) / (before * t * np.log1p(t))), np.float64)


def coverage_evidence(held: npt.ArrayLike, promised: npt.ArrayLike) -> Floats:
    """Return the log e-value, after each interval, against the claim that at least the promised share holds.

    Bets that coverage is lower, mixed evenly over all lower values; `promised` is one share, or one each.

    >>> evidence = coverage_evidence([True, True, False] * 60, 0.8)
    >>> bool(evidence[-1] > np.log(20)), bool(coverage_evidence([True] * 4 + [False], 0.8)[-1] < 1)
    (True, True)
    """
    hits = np.asarray(held, bool)
    claim = np.broadcast_to(np.asarray(promised, np.float64), hits.shape)
    share = (np.arange(_LOWER_COVERAGES) + 0.5) / _LOWER_COVERAGES  # of the promise
    truth = share * claim[:, None]
    steps = np.where(hits[:, None], np.log(share), np.log((1 - truth) / (1 - claim[:, None])))
    return _mixed(steps)


def calibration_evidence(outcome: npt.ArrayLike, probability: npt.ArrayLike) -> Floats:
    """Return the log e-value, after each case, against the claim that probabilities mean what they say.

    Bets on log odds that are shifted or scaled, mixed evenly.
    """
    y = np.asarray(outcome, bool)
    x = logit(probability)
    others = [(a, b) for a in _SHIFTS for b in _SLOPES if (a, b) != (0.0, 1.0)]
    said = expit(x)
    steps = np.stack(
        [
            np.where(y, np.log(q / said), np.log((1 - q) / (1 - said)))
            for q in (expit(a + b * x) for a, b in others)
        ],
        axis=1,
    )
    return _mixed(steps.reshape(len(y), len(others)))


def difference_sequence(
    first: npt.ArrayLike, second: npt.ArrayLike, *, bound: float = 1.0, level: float = LEVEL
) -> ConfidenceSequence:
    """Return the confidence sequence of the mean of first - second; each loss lies in 0 to `bound`.

    Above 0 throughout: the second has the smaller loss.
    """
    a, b = finite("the first losses", first, least=0), finite("the second losses", second, least=0)
    return mean_sequence(a - b, low=-bound, high=bound, level=level)


def _mixed(steps: Floats) -> Floats:
    """Return the log of the mean over bets (columns) of the product of what each has won so far."""
    if not len(steps):
        return np.zeros(0)
    return np.asarray(np.logaddexp.reduce(np.cumsum(steps, axis=0), axis=1) - math.log(steps.shape[1]))


def pairs_until_alarm(promised: float, true: float, *, alpha: float = 0.05, price: float = 1.0) -> float:
    """Return the pairs that even the best bet needs on average to notice that coverage has fallen.

    ln(price / alpha) over the information of one pair, the Kullback-Leibler divergence of both coverages: no
    procedure that is valid at every look can do better (Wald 1945). `price` counts the watched streams.

    >>> round(pairs_until_alarm(0.80, 0.75)), round(pairs_until_alarm(0.80, 0.60))
    (406, 29)
    """
    information = true * math.log(true / promised) + (1 - true) * math.log((1 - true) / (1 - promised))
    return math.log(price / alpha) / information
