"""From cases to centres to one number, and from two models to a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.discrimination import holm
from ichnos.evidence.metrics.intervals import Estimate, bootstrap
from ichnos.evidence.metrics.pooling import RandomEffects, random_effects
from ichnos.evidence.metrics.resampling import bca_mean


@dataclass(frozen=True)
class MeasureSummary:
    """A measure over the cases of one centre, or of all."""

    centre: str  # "" for all
    mean: Estimate  # over the cases for which it is defined, BCa interval
    se: float  # of that mean; NaN with fewer than two cases
    median: float
    quartiles: tuple[float, float]
    undefined: int  # cases left out because a mask is empty


def summarise(values: npt.ArrayLike, *, centre: str = "") -> MeasureSummary:
    """Describe one measure; NaN is undefined and counted.

    >>> summarise([0.5, 0.7, float("nan")]).undefined
    1
    """
    array = np.asarray(values, np.float64).ravel()
    known = array[~np.isnan(array)]
    quartiles = np.percentile(known, (25, 50, 75)) if known.size else np.full(3, np.nan)
    return MeasureSummary(
        centre,
        bca_mean(array),
        float(known.std(ddof=1) / np.sqrt(known.size)) if known.size > 1 else float("nan"),
        float(quartiles[1]),
        (float(quartiles[0]), float(quartiles[2])),
        array.size - known.size,
    )


def by_centre(values: npt.ArrayLike, centres: Sequence[str]) -> tuple[MeasureSummary, ...]:
    """Describe one measure per centre, in the order of their names.

    >>> [(s.centre, s.mean.value) for s in by_centre([0.5, 0.7, 0.9], ["B", "A", "A"])]
    [('A', 0.8), ('B', 0.5)]
    """
    array, where = np.asarray(values, np.float64), np.asarray(centres)
    return tuple(summarise(array[where == name], centre=str(name)) for name in np.unique(where))


def over_centres(summaries: Sequence[MeasureSummary]) -> RandomEffects | None:
    """Pool the centres' means with a prediction interval for the next centre; None with fewer than three
    centres that have a spread.

    >>> over_centres(by_centre([0.5, 0.7, 0.9, 0.8], ["B", "A", "A", "B"])) is None
    True
    """
    known = [s for s in summaries if s.se > 0]
    if len(known) < 3:
        return None
    return random_effects([s.mean.value for s in known], [s.se for s in known])


@dataclass(frozen=True)
class ModelDifference:
    """One measure of two models on the same cases: first minus second."""

    measure: str
    difference: Estimate  # mean of the pairs, bootstrap interval
    p: float  # Wilcoxon signed rank, two-sided; NaN where all pairs are equal
    p_holm: float  # adjusted for the measures compared


def compare_models(
    first: Mapping[str, npt.ArrayLike], second: Mapping[str, npt.ArrayLike], *, rng: np.random.Generator
) -> tuple[ModelDifference, ...]:
    """Compare two models case by case: mean difference with a bootstrap interval, Wilcoxon's test, and
    Holm's correction.
    """
    measures = [name for name in first if name in second]
    if not measures:
        raise InputRefused(
            f"the two models share no measure: {', '.join(first) or 'none'} against"
            f" {', '.join(second) or 'none'}"
        )
    found = [(name, *_paired(name, first[name], second[name], rng)) for name in measures]
    adjusted = holm([p for _, _, p in found])
    return tuple(
        ModelDifference(name, gap, p, float(h)) for (name, gap, p), h in zip(found, adjusted, strict=True)
    )


def _paired(
    name: str, first: npt.ArrayLike, second: npt.ArrayLike, rng: np.random.Generator
) -> tuple[Estimate, float]:
    from scipy.stats import wilcoxon

    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape:
        raise InputRefused(
            f"{name}: the two models have {a.size} and {b.size} cases; compare them on the same cases in the"
            " same order"
        )
    gap: Floats = (a - b)[~np.isnan(a - b)]
    if not gap.size:
        return Estimate(float("nan"), float("nan"), float("nan"), 0), float("nan")
    estimate = bootstrap(lambda at: float(gap[at].mean()), np.zeros(gap.size), rng=rng, repeats=2000)
    return estimate, float(wilcoxon(gap).pvalue) if np.any(gap != 0) else float("nan")


def measure_column(
    rows: Sequence[Mapping[str, Any]], target: str, measure: str, *, scored: bool = False
) -> Floats:
    """Return one measure of one target over the case rows; NaN where a row lacks it. JSON's null is NaN
    too.

    >>> measure_column([{"ICH": {"dice": 0.9}}, {"IVH": {"dice": 0.5}}], "ICH", "dice").tolist()
    [0.9, nan]
    """

    def value(row: Mapping[str, Any]) -> float:
        record = row.get(target) or {}
        held = (record.get("scored") or {}).get(measure) if scored else record.get(measure)
        return float("nan") if held is None else float(held)

    return np.array([value(row) for row in rows])
