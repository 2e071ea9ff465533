"""Intervals by resampling patients, for numbers whose distribution is skewed: volumes, and Dice near one.

Fisher's z and Student's t assume what volumes (log-normal) and Dice (skewed, bounded) are not. Here patients
are resampled with both of their values. Statistics of volumes are functions of the moments of a resample,
which are counted for thousands of resamples at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichnos.arrays import Array, Floats
from ichnos.evidence.metrics.intervals import LEVEL, Estimate, mean_interval, paired, undefined

PairStatistic = Callable[[Floats, Floats], Floats]  # (…, n), (…, n) -> (…,)
_PERFECT = 1 - 1e-12  # of an agreement: every resample of it agrees as well, which bounds nothing
_OUTER, _INNER = 100, 80  # resamples, and resamples of each, on which percentiles are calibrated
_LEAST_TO_RESAMPLE = 5  # values, below which resampling says nothing


@dataclass(frozen=True)
class PairMoments:
    """Means, variances and covariance (all divided by n) of pairs, or of each of many resamples of them."""

    n: int
    mean_x: Floats
    mean_y: Floats
    var_x: Floats
    var_y: Floats
    covariance: Floats


MomentStatistic = Callable[[PairMoments], Floats]


def pair_moments(x: Floats, y: Floats) -> PairMoments:
    """Return the moments of pairs (…, n) along the last axis.

    >>> pair_moments(np.array([1.0, 2, 3]), np.array([2.0, 4, 6])).covariance.round(3).item()
    1.333
    """
    covariance = ((x - x.mean(-1, keepdims=True)) * (y - y.mean(-1, keepdims=True))).mean(-1)
    return PairMoments(x.shape[-1], x.mean(-1), y.mean(-1), x.var(-1), y.var(-1), np.asarray(covariance))


def resampled_moments(x: Floats, y: Floats, at: Array) -> PairMoments:
    """Return the moments of resamples of pairs (n,), which `at` (resamples, n) names by their indices.

    How often each pair was drawn is all that the moments need, so that no resample is ever written out.
    """
    n, about = x.size, (x.mean() + y.mean()) / 2  # differences of large numbers would lose their digits
    shifted = (at + n * np.arange(len(at))[:, None]).ravel()
    times = np.bincount(shifted, minlength=n * len(at)).reshape(len(at), n)
    u, v = x - about, y - about
    mean_x, mean_y, xx, yy, xy = (times @ np.stack([u, v, u * u, v * v, u * v], axis=1) / n).T
    var_x, var_y = _true_variance(xx - mean_x**2, x), _true_variance(yy - mean_y**2, y)
    return PairMoments(n, mean_x + about, mean_y + about, var_x, var_y, xy - mean_x * mean_y)


def _true_variance(variance: Floats, values: Floats) -> Floats:
    """Return variances of resamples, 0 for a resample of one value, which rounding would leave a little."""
    return np.where(variance > 1e-12 * values.var(), variance, 0.0)


def concordance_of(moments: PairMoments) -> Floats:
    """Return Lin's concordance correlation.

    >>> x = np.array([1.0, 2, 3, 4])
    >>> [concordance_of(pair_moments(x, y)).round(3).item() for y in (x, x + 1)]
    [1.0, 0.714]
    """
    m = moments
    spread = np.where(m.var_x + m.var_y > 0, m.var_x + m.var_y, np.nan)  # of one value nothing is known
    return np.asarray(2 * m.covariance / (spread + (m.mean_x - m.mean_y) ** 2))


def pearson_of(moments: PairMoments) -> Floats:
    """Return Pearson's correlation.

    >>> x = np.array([1.0, 2, 3, 4])
    >>> [pearson_of(pair_moments(x, y)).round(3).item() for y in (x + 1, -x)]
    [1.0, -1.0]
    """
    return np.asarray(moments.covariance / np.sqrt(moments.var_x * moments.var_y))


def icc_of(moments: PairMoments) -> Floats:
    """Return ICC(2,1) of two measurements: absolute agreement, single measurement.

    >>> x = np.array([1.0, 2, 3, 4])
    >>> [icc_of(pair_moments(x, y)).round(3).item() for y in (x, x + 1)]
    [1.0, 0.769]
    """
    m, n = moments, moments.n
    total, double = np.where(m.var_x + m.var_y > 0, m.var_x + m.var_y, np.nan), 2 * m.covariance
    between, within = n / (n - 1) * (total + double) / 2, n / (n - 1) * (total - double) / 2
    methods = n * (m.mean_x - m.mean_y) ** 2 / 2
    return np.asarray((between - within) / (between + within + 2 * (methods - within) / n))


def spearman_of(x: Floats, y: Floats) -> Floats:
    """Return Spearman's rank correlation along the last axis; ties take their mean rank.

    >>> x = np.array([1.0, 2, 3, 4])
    >>> spearman_of(x, np.exp(x)).round(3).item()
    1.0
    """
    from scipy.stats import rankdata

    return pearson_of(pair_moments(rankdata(x, axis=-1), rankdata(y, axis=-1)))


def resampled_concordance(a: npt.ArrayLike, b: npt.ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Return Lin's concordance with a calibrated bootstrap interval, as volumes need.

    >>> rng = np.random.default_rng(0)
    >>> volume = np.exp(rng.normal(3, 0.8, 60))
    >>> found = resampled_concordance(volume, volume * np.exp(rng.normal(0, 0.2, 60)))
    >>> found.low < found.value < found.high
    True
    """
    return calibrated_bootstrap(concordance_of, a, b, level=level)


def resampled_pearson(a: npt.ArrayLike, b: npt.ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Return Pearson's r with a calibrated bootstrap interval, as volumes need."""
    return calibrated_bootstrap(pearson_of, a, b, level=level)


def resampled_icc(a: npt.ArrayLike, b: npt.ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Return ICC(2,1) of two measurements with a calibrated bootstrap interval, as volumes need."""
    return calibrated_bootstrap(icc_of, a, b, level=level)


def resampled_spearman(a: npt.ArrayLike, b: npt.ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Return Spearman's rho with a percentile bootstrap interval; ranks need no calibration."""
    return percentile_bootstrap(spearman_of, a, b, level=level)


def percentile_bootstrap(
    statistic: PairStatistic,
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    rng: np.random.Generator | None = None,
    repeats: int = 1000,
    level: float = LEVEL,
) -> Estimate:
    """Return a statistic of pairs with its percentile interval over resampled patients."""
    x, y = _pairs(a, b)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return undefined(x.size, level)
    rng = rng or np.random.default_rng(0)
    draws = _resampled(statistic, x, y, rng.integers(0, x.size, (repeats, x.size)))
    value = float(statistic(x, y))
    if abs(value) >= _PERFECT:
        return Estimate(value, float("nan"), float("nan"), x.size, level)
    low, high = _quantiles(draws, (1 - level) / 2, (1 + level) / 2)
    return Estimate(value, low, high, x.size, level)


def calibrated_bootstrap(
    statistic: MomentStatistic,
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    rng: np.random.Generator | None = None,
    repeats: int = 1000,
    level: float = LEVEL,
) -> Estimate:
    """Return a statistic of pairs with a percentile interval, calibrated on resamples of resamples (Beran
    1987, Biometrika 74:457), expanded for few cases and never narrower than the plain one.
    """
    from scipy.special import ndtr, ndtri

    x, y = _pairs(a, b)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return undefined(x.size, level)
    rng = rng or np.random.default_rng(0)
    value = float(statistic(pair_moments(x, y)))
    if abs(value) >= _PERFECT:
        return Estimate(value, float("nan"), float("nan"), x.size, level)
    at = rng.integers(0, x.size, (repeats, x.size))
    below = _share_below(statistic, x, y, at[:_OUTER], value, rng)
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = statistic(resampled_moments(x, y, at))
    z, quantile = ndtri(below), _expanded_quantile(x.size, level)
    tail, reach = float(ndtr(-quantile)), quantile * float(z.std())
    lower, upper = float(ndtr(z.mean() - reach)), float(ndtr(z.mean() + reach))
    low, high = _quantiles(draws[np.isfinite(draws)], min(lower, tail), max(upper, 1 - tail))
    return Estimate(value, low, high, x.size, level)


def _expanded_quantile(n: int, level: float) -> float:
    """Return the normal quantile that few cases need (Hesterberg 2015, Am Stat 69:371): 1.96 for many."""
    from scipy.special import stdtrit

    return float(np.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.5 + level / 2))


def _share_below(
    statistic: MomentStatistic, x: Floats, y: Floats, outer: Array, value: float, rng: np.random.Generator
) -> Floats:
    """Return for each resample the share of its own resamples whose statistic lies below the value."""
    shares = []
    for resample in outer:
        at = resample[rng.integers(0, x.size, (_INNER, x.size), dtype=np.int32)]
        with np.errstate(invalid="ignore", divide="ignore"):
            draws = statistic(resampled_moments(x, y, at))
        shares.append(((draws < value).sum() + 0.5) / (np.isfinite(draws).sum() + 1))
    return np.array(shares)


def _resampled(statistic: PairStatistic, x: Floats, y: Floats, at: Array) -> Floats:
    """Return the statistic of each resample; those in which it is undefined are left out."""
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = statistic(x[at], y[at])
    return draws[np.isfinite(draws)]


def _quantiles(draws: Floats, low: float, high: float) -> tuple[float, float]:
    edge = 1 / (draws.size + 1)
    levels = np.clip([low, high], edge, 1 - edge)
    first, last = np.quantile(draws, levels, method="weibull")
    return float(first), float(last)


def _pairs(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[Floats, Floats]:
    return paired("the first measurement", a, "the second measurement", b, least=_LEAST_TO_RESAMPLE)


def bca_mean(
    values: npt.ArrayLike,
    *,
    rng: np.random.Generator | None = None,
    repeats: int = 2000,
    level: float = LEVEL,
) -> Estimate:
    """Return a mean with the BCa interval (Efron 1987, JASA 82:171) at the level that Hesterberg (2015, Am
    Stat 69:371) expands for few cases; NaN values are left out. Student's interval below five values.

    >>> str(bca_mean([0.9, 0.92, 0.88, 0.95, 0.4, 0.93]))
    '0.83 (0.56 to 0.93)'
    """
    array = np.asarray(values, np.float64).ravel()
    array = array[~np.isnan(array)]
    n = array.size
    if n < _LEAST_TO_RESAMPLE or np.ptp(array) == 0:
        return mean_interval(array, level=level)
    rng = rng or np.random.default_rng(0)
    draws = array[rng.integers(0, n, (repeats, n))].mean(axis=1)
    low, high = _quantiles(draws, *_bca_levels(draws, array, _expanded_quantile(n, level)))
    return Estimate(float(array.mean()), low, high, n, level)


def _bca_levels(draws: Floats, values: Floats, quantile: float) -> tuple[float, float]:
    """Return the percentiles of resampled means that correct for bias and skewness."""
    from scipy.special import ndtr, ndtri

    mean, edge = float(values.mean()), 1 / (draws.size + 1)
    bias = float(ndtri(np.clip((draws < mean).mean(), edge, 1 - edge)))
    centred = values - mean
    skew = float((centred**3).sum() / (6 * (centred**2).sum() ** 1.5))
    low, high = (ndtr(bias + (bias + s) / (1 - skew * (bias + s))) for s in (-quantile, quantile))
    return float(low), float(high)
