"""Agreement of two measurements of the same thing: concordance, correlation, limits of agreement, regression,
grades, calibration.

Correlation says whether two methods rank alike, concordance whether they give the same number. A model can
have the first without the second; both are always reported together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.intervals import LEVEL, Estimate, normal_quantile, paired, undefined


def concordance(a: npt.ArrayLike, b: npt.ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Return Lin's concordance correlation (1989, Biometrics 45:255; variance as corrected in 2000, 56:324),
    interval by Fisher's z.

    >>> round(concordance([1, 2, 3, 4], [1, 2, 3, 5]).value, 3)
    0.929
    """
    x, y = paired("the first measurement", a, "the second measurement", b, least=3)
    spread, shift2 = float(x.std() * y.std()), float((x.mean() - y.mean()) ** 2)
    if spread == 0:
        return undefined(x.size, level)
    r = float(np.corrcoef(x, y)[0, 1])
    value = float(2 * r * spread / (x.var() + y.var() + shift2))
    if abs(r) >= 1 - 1e-12 or abs(value) >= 1 or value == 0:
        return Estimate(value, float("nan"), float("nan"), x.size, level)
    u2 = shift2 / spread
    c2, r2 = value**2, r**2
    variance = (1 - r2) * c2 / ((1 - c2) * r2) + 2 * value**3 * (1 - value) * u2 / (r * (1 - c2) ** 2)
    variance -= value**4 * u2**2 / (2 * r2 * (1 - c2) ** 2)
    half = normal_quantile(level) * np.sqrt(max(variance, 0.0) / (x.size - 2))
    z = np.arctanh(value)
    return Estimate(value, float(np.tanh(z - half)), float(np.tanh(z + half)), x.size, level)


def pearson(a: npt.ArrayLike, b: npt.ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Return Pearson's r with Fisher's interval; undefined for a constant column.

    >>> str(pearson([1, 2, 3, 4], [1, 2, 3, 5]))
    '0.983 (0.389 to 1)'
    """
    return _correlation(
        *paired("the first measurement", a, "the second measurement", b, least=4), inflation=1.0, level=level
    )


def spearman(a: npt.ArrayLike, b: npt.ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Return Spearman's rho, interval by Fisher's z with the variance of Bonett & Wright (2000,
    Psychometrika 65:23).
    """
    from scipy.stats import rankdata

    x, y = paired("the first measurement", a, "the second measurement", b, least=4)
    ranks = rankdata(x), rankdata(y)
    rho = _correlation(*ranks, inflation=1.0, level=level)
    return _correlation(*ranks, inflation=1 + rho.value**2 / 2, level=level)


def _correlation(x: Floats, y: Floats, *, inflation: float, level: float) -> Estimate:
    if x.std() == 0 or y.std() == 0:
        return undefined(x.size, level)
    r = float(np.corrcoef(x, y)[0, 1])
    if abs(r) >= 1 - 1e-12:
        return Estimate(r, float("nan"), float("nan"), x.size, level)
    half = normal_quantile(level) * np.sqrt(inflation / (x.size - 3))
    return Estimate(
        r, float(np.tanh(np.arctanh(r) - half)), float(np.tanh(np.arctanh(r) + half)), x.size, level
    )


def intraclass(ratings: npt.ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Return ICC(2,1), two-way random effects, absolute agreement, single rater (Shrout & Fleiss 1979,
    Psychol Bull 86:420).

    `ratings` is (cases, raters).
    """
    table = _checked_ratings(ratings)
    n, k = table.shape
    rows = k * table.mean(axis=1).var(ddof=1)
    columns = n * table.mean(axis=0).var(ddof=1)
    residual = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    error = float((residual**2).sum() / ((n - 1) * (k - 1)))
    if rows <= 1e-12 * np.abs(table).max() ** 2:
        return undefined(n, level)
    value = float((rows - error) / (rows + (k - 1) * error + k * (columns - error) / n))
    if value > 1 - 1e-12:
        return Estimate(1.0, float("nan"), float("nan"), n, level)
    low, high = _icc_interval(value, (n, k), (rows, columns, error), level)
    return Estimate(value, low, high, n, level)


def _checked_ratings(ratings: npt.ArrayLike) -> Floats:
    table = np.asarray(ratings, np.float64)
    if table.ndim != 2 or table.shape[0] < 3 or table.shape[1] < 2 or not np.isfinite(table).all():
        raise InputRefused(
            f"the ratings have shape {table.shape} or missing values; at least 3 cases x 2 raters, all known,"
            " are expected"
        )
    return table


def _icc_interval(
    value: float, shape: tuple[int, int], mean_squares: tuple[float, float, float], level: float
) -> tuple[float, float]:
    """Return the interval of an ICC from the mean squares of cases, raters and error."""
    from scipy.stats import f

    (n, k), (rows, columns, error) = shape, mean_squares
    a, b = k * value / (n * (1 - value)), 1 + k * value * (n - 1) / (n * (1 - value))
    freedom = (a * columns + b * error) ** 2 / (
        (a * columns) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1))
    )
    upper, lower = f.ppf(0.5 + level / 2, n - 1, freedom), f.ppf(0.5 + level / 2, freedom, n - 1)
    other = k * columns + (k * n - k - n) * error
    low = n * (rows - upper * error) / (upper * other + n * rows)
    high = n * (lower * rows - error) / (other + n * lower * rows)
    return float(low), float(high)


@dataclass(frozen=True)
class BlandAltman:
    """Limits of agreement: where 95 % of differences lie, each with its interval. `unit` is that of the
    input, or % of the mean.
    """

    bias: Estimate
    lower: Estimate
    upper: Estimate
    sd: float  # of the differences
    slope: Estimate  # of the difference on the mean: 0 means no proportional bias
    percent: bool  # differences are in % of the pair's mean


def bland_altman(
    a: npt.ArrayLike, b: npt.ArrayLike, *, percent: bool = False, level: float = LEVEL
) -> BlandAltman:
    """Return bias and limits of agreement of a - b (Bland & Altman 1986, Lancet 327:307).

    `percent` takes each difference in % of the pair's mean (1999, Stat Methods Med Res 8:135), for errors
    that grow with size.
    """
    from scipy.special import stdtrit

    x, y = paired("the first measurement", a, "the second measurement", b, least=3)
    mean, difference = (x + y) / 2, x - y
    if percent:
        if (mean <= 0).any():
            raise InputRefused(
                "differences in % need pairs with a positive mean; leave out the pairs in which both are zero"
            )
        difference = 100 * difference / mean
    n, sd, bias = x.size, float(difference.std(ddof=1)), float(difference.mean())
    t, z = float(stdtrit(n - 1, 0.5 + level / 2)), normal_quantile(level)
    half_limit = t * sd * np.sqrt(1 / n + z**2 / (2 * (n - 1)))
    lower, upper = (_around(edge, half_limit, n, level) for edge in (bias - z * sd, bias + z * sd))
    middle = _around(bias, t * sd / np.sqrt(n), n, level)
    return BlandAltman(middle, lower, upper, sd, _slope(mean, difference, level), percent)


def _around(value: float, half: float, n: int, level: float) -> Estimate:
    return Estimate(value, float(value - half), float(value + half), n, level)


def _slope(x: Floats, y: Floats, level: float) -> Estimate:
    """Fit y on x by least squares."""
    from scipy.special import stdtrit

    if np.ptp(x) == 0:
        return undefined(x.size, level)
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    residual = y - y.mean() - slope * centred
    half = float(
        stdtrit(x.size - 2, 0.5 + level / 2)
        * np.sqrt(residual @ residual / (x.size - 2) / (centred @ centred))
    )
    return Estimate(slope, slope - half, slope + half, x.size, level)


@dataclass(frozen=True)
class StructuralLine:
    """y = intercept + slope * x, both measured with error."""

    slope: Estimate
    intercept: Estimate


def passing_bablok(x: npt.ArrayLike, y: npt.ArrayLike, *, level: float = LEVEL) -> StructuralLine:
    """Fit a line to two methods that both err, without a normal distribution (Passing & Bablok 1983, Clin
    Chem Lab Med 21:709).

    >>> line = passing_bablok([1, 2, 3, 4, 5, 6, 7], [3, 5, 7, 9, 11, 13, 15])
    >>> line.slope.value, line.intercept.value
    (2.0, 1.0)
    """
    a, b = paired("the first measurement", x, "the second measurement", y, least=5)
    slopes = _slopes_between(a, b)
    shift, count = int((slopes < -1).sum()), slopes.size
    middle = shift + (count - 1) / 2
    below, above = (slopes[min(int(at), count - 1)] for at in (np.floor(middle), np.ceil(middle)))
    slope = float((below + above) / 2)
    spread = normal_quantile(level) * np.sqrt(a.size * (a.size - 1) * (2 * a.size + 5) / 18)
    first = int(np.clip(round((count - spread) / 2) + shift - 1, 0, count - 1))
    last = int(np.clip(count - round((count - spread) / 2) + shift, 0, count - 1))
    low, high = float(slopes[first]), float(slopes[last])
    intercept = [float(np.median(b - s * a)) for s in (slope, high, low)]
    return StructuralLine(
        Estimate(slope, low, high, a.size, level),
        Estimate(intercept[0], intercept[1], intercept[2], a.size, level),
    )


def _slopes_between(a: Floats, b: Floats) -> Floats:
    """Return the slopes of the lines through all pairs of points, in order, without those of exactly -1."""
    i, j = np.triu_indices(a.size, 1)
    dx, dy = a[j] - a[i], b[j] - b[i]
    apart = (dx != 0) | (dy != 0)
    dx, dy = dx[apart], dy[apart]
    upright = dx == 0
    slopes = np.where(upright, np.copysign(np.inf, dy), dy / np.where(upright, 1, dx))
    slopes = np.sort(slopes[slopes != -1])
    if not slopes.size or not np.isfinite(slopes).any():
        raise InputRefused(
            "every pair of cases has the same first measurement, so no line can be fitted; check for a"
            " constant column"
        )
    return slopes


def weighted_kappa(a: npt.ArrayLike, b: npt.ArrayLike, *, grades: int, level: float = LEVEL) -> Estimate:
    """Return Cohen's kappa with quadratic weights for grades 0 … grades-1 (Fleiss, Cohen & Everitt 1969), as
    for Fazekas with 4.

    NaN where one of the two gives everybody the same grade: there is nothing to agree about beyond chance.
    """
    from statsmodels.stats.inter_rater import cohens_kappa

    x, y = paired("the first grades", a, "the second grades", b)
    for column in (x, y):
        if not np.isin(column, np.arange(grades)).all():
            raise InputRefused(
                f"a grade lies outside 0 to {grades - 1} or between two grades; give whole grades"
            )
    table = np.zeros((grades, grades))
    np.add.at(table, (x.astype(int), y.astype(int)), 1)
    if 1 in ((table.sum(axis=0) > 0).sum(), (table.sum(axis=1) > 0).sum()):
        return undefined(x.size, level)
    if not (table - np.diag(np.diag(table))).any():  # its variance, 0, would be rounded below 0
        return Estimate(1.0, float("nan"), float("nan"), x.size, level)
    result = cohens_kappa(table, wt="quadratic")
    half = normal_quantile(level) * float(result.std_kappa)
    return Estimate(
        float(result.kappa), float(result.kappa) - half, min(1.0, float(result.kappa) + half), x.size, level
    )


@dataclass(frozen=True)
class VolumeCalibrator:
    """A line from predicted to true volume, fitted on one set and frozen for the next; never below zero."""

    slope: float
    intercept_ml: float
    n: int  # cases it was fitted on
    fitted_on: str  # name of that set: it may not be evaluated on it

    def __call__(self, predicted_ml: npt.ArrayLike) -> Floats:
        calibrated: Floats = np.maximum(
            self.intercept_ml + self.slope * np.asarray(predicted_ml, np.float64), 0.0
        )
        return calibrated

    def as_dict(self) -> Mapping[str, float | int | str]:
        """Return the numbers that rebuild it: `VolumeCalibrator(**d)`."""
        return {
            "slope": self.slope,
            "intercept_ml": self.intercept_ml,
            "n": self.n,
            "fitted_on": self.fitted_on,
        }


def fit_volume_calibrator(
    predicted_ml: npt.ArrayLike, true_ml: npt.ArrayLike, *, fitted_on: str
) -> VolumeCalibrator:
    """Fit the line by Passing-Bablok, so that a few wild volumes do not tilt it."""
    line = passing_bablok(predicted_ml, true_ml)
    return VolumeCalibrator(line.slope.value, line.intercept.value, line.slope.n, fitted_on)
