"""Values with intervals, and the checks that every statistic begins with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichnos.arrays import Floats
from ichnos.errors import InputRefused

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; NaN bounds mean that the data do not determine them.

    >>> str(Estimate(0.8123, 0.75, 0.861, n=100)), str(Estimate(float("nan"), 0.0, 1.0, n=2))
    ('0.812 (0.75 to 0.861)', 'undefined')
    """

    value: float
    low: float
    high: float
    n: int  # cases behind it
    level: float = LEVEL

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "undefined"
        interval = "no interval" if np.isnan(self.low) else f"{self.low:.3g} to {self.high:.3g}"
        return f"{self.value:.3g} ({interval})"


def undefined(n: int, level: float = LEVEL) -> Estimate:
    """Return the estimate of what the data do not determine.

    >>> str(undefined(12))
    'undefined'
    """
    return Estimate(float("nan"), float("nan"), float("nan"), n, level)


def finite(name: str, values: npt.ArrayLike, *, least: int = 1) -> Floats:
    """Return the values as float64, or refuse NaN, infinite or too few values by name.

    >>> finite("the age", [61, 70]).tolist()
    [61.0, 70.0]
    >>> finite("the age", [61, float("nan")])
    Traceback (most recent call last):
    ichnos.errors.InputRefused: the age holds 1 NaN or infinite value(s) among 2; leave out or ...
    """
    array = np.asarray(values, np.float64).ravel()
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise InputRefused(
            f"{name} holds {bad} NaN or infinite value(s) among {array.size}; leave out or impute those cases"
            " first"
        )
    if array.size < least:
        raise InputRefused(f"{name} holds {array.size} value(s); at least {least} are needed")
    return array


def paired(
    name_a: str, a: npt.ArrayLike, name_b: str, b: npt.ArrayLike, *, least: int = 2
) -> tuple[Floats, Floats]:
    """Return two columns of the same length, or refuse.

    >>> paired("CT", [1, 2, 3], "MRI", [1, 2])
    Traceback (most recent call last):
    ichnos.errors.InputRefused: CT has 3 values and MRI has 2; they must be pairs of the same cases
    """
    first, second = finite(name_a, a, least=least), finite(name_b, b, least=least)
    if first.size != second.size:
        raise InputRefused(
            f"{name_a} has {first.size} values and {name_b} has {second.size}; they must be pairs of the same"
            " cases"
        )
    return first, second


def two_classes(outcome: npt.ArrayLike, *scores: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], list[Floats]]:
    """Return a 0/1 outcome as booleans with its score columns, or refuse another coding, another length,
    or a single class.
    """
    events = finite("the outcome", outcome)
    if not np.isin(events, (0, 1)).all():
        raise InputRefused(
            f"the outcome holds values other than 0 and 1 (such as {events[~np.isin(events, (0, 1))][0]:g});"
            " code it as 0/1"
        )
    columns = [finite("the score", score) for score in scores]
    for column in columns:
        if column.size != events.size:
            raise InputRefused(
                f"the outcome has {events.size} values and the score {column.size}; they must be pairs of the"
                " same cases"
            )
    n_events = int(events.sum())
    if n_events in (0, events.size):
        raise InputRefused(
            f"all {events.size} cases have outcome {int(events[0])}; discrimination needs at least one case"
            " of each class"
        )
    return events.astype(bool), columns


def normal_quantile(level: float = LEVEL) -> float:
    """Return the two-sided standard normal quantile, 1.96 for 95 %.

    >>> round(normal_quantile(), 2), round(normal_quantile(0.9), 2)
    (1.96, 1.64)
    """
    from scipy.special import ndtri

    return float(ndtri(0.5 + level / 2))


def mean_interval(values: npt.ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Return the mean with Student's t interval; NaN values (undefined cases) are left out, and `n` counts
    the rest.

    >>> str(mean_interval([1.0, 2.0, 3.0, float("nan")]))
    '2 (-0.484 to 4.48)'
    """
    from scipy.special import stdtrit

    array = np.asarray(values, np.float64).ravel()
    array = array[~np.isnan(array)]
    n = array.size
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0, level)
    mean = float(array.mean())
    if n == 1:
        return Estimate(mean, float("nan"), float("nan"), 1, level)
    half = float(stdtrit(n - 1, 0.5 + level / 2) * array.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n, level)


def proportion(successes: int, n: int, *, level: float = LEVEL) -> Estimate:
    """Return a proportion with Wilson's interval (1927, JASA 22:209); undefined without cases.

    >>> str(proportion(8, 10))
    '0.8 (0.49 to 0.943)'
    """
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0, level)
    z2 = normal_quantile(level) ** 2
    share = successes / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Estimate(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)), n, level)


def bootstrap(
    statistic: Callable[[npt.NDArray[np.intp]], float],
    groups: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    repeats: int = 1000,
    level: float = LEVEL,
) -> Estimate:
    """Return a statistic with its percentile interval over case resamples, drawn within each group
    (stratified).

    `statistic` takes the indices of the cases; resamples for which it is NaN are left out. Bounds are the
    (repeats + 1) p-th values in order (Davison and Hinkley 1997, section 5.2): between the first and the last
    value, few resamples make too short an interval.
    """
    labels = np.asarray(groups).ravel()
    if labels.size == 1:  # every resample of one case is this case, which bounds nothing
        return Estimate(float(statistic(np.arange(1))), float("nan"), float("nan"), 1, level)
    strata = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    everyone = np.arange(labels.size)
    draws = [statistic(np.concatenate([rng.choice(s, s.size) for s in strata])) for _ in range(repeats)]
    kept = np.array(draws)[~np.isnan(draws)]
    tails = (1 - level) / 2, (1 + level) / 2
    low, high = np.quantile(kept, tails, method="weibull") if kept.size else (np.nan, np.nan)
    return Estimate(float(statistic(everyone)), float(low), float(high), labels.size, level)
