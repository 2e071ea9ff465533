"""Fréchet and kernel distance of synthetic images to real ones, beside real against real at the same number.

Both depend on how many images there are, so a distance alone says nothing: the floor is the same distance
between two disjoint halves of the real patients. Where the floor is large beside the images' own variance,
the number of images cannot tell a perfect generator from a poor one, and the distance is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ichnos.arrays import Array, Floats
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.intervals import Estimate

FeatureDistance = Callable[[Floats, Floats], float]
_LEAST_IMAGES = 10  # on either side
_MOST_FLOOR = 0.1  # of the images' own variance, above which a distance of 0 cannot be told from the floor
_SPLITS = 60  # random subsets behind an interval


def frechet_distance(a: Floats, b: Floats) -> float:
    """Return the Fréchet distance of two sets of features (n, d), as FID has it; biased for few images.

    >>> x = np.random.default_rng(0).normal(size=(500, 3))
    >>> round(frechet_distance(x, x), 6), round(frechet_distance(x, x + 1), 3)
    (0.0, 3.0)
    """
    _check_sides(a, b, "the Fréchet distance")
    first, second = (np.atleast_2d(np.cov(part, rowvar=False)) for part in (a, b))
    roots = np.sqrt(np.clip(np.real(np.linalg.eigvals(first @ second)), 0, None))
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return max(0.0, float(shift + np.trace(first) + np.trace(second) - 2 * roots.sum()))


def kernel_distance(a: Floats, b: Floats) -> float:
    """Return the unbiased squared maximum mean discrepancy with KID's cubic kernel; 0 on average for two
    samples of one distribution.
    """
    _check_sides(a, b, "the kernel distance")
    return _within(a) + _within(b) - 2 * float(_kernel(a, b).mean())


def _kernel(x: Floats, y: Floats) -> Floats:
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)


def _within(x: Floats) -> float:
    k = _kernel(x, x)
    return float((k.sum() - np.trace(k)) / (len(x) * (len(x) - 1)))


def _check_sides(a: Floats, b: Floats, name: str) -> None:
    if min(len(a), len(b)) < 2:
        raise InputRefused(f"{name} needs at least 2 images on either side; there are {len(a)} and {len(b)}")


@dataclass(frozen=True)
class FloorDistance:
    """A distance beside its floor, both of the same number of images."""

    distance: Estimate  # synthetic against real
    floor: Estimate  # real against real: two disjoint halves of the patients
    images: int  # on either side
    features: str  # what the images are described by; distances of other features are not comparable


def frechet_over_floor(
    synthetic: Floats, real: Floats, patients: Sequence[str], *, features: str, rng: np.random.Generator
) -> FloorDistance:
    """Return the Fréchet distance of synthetic to real features beside its floor; too few are refused."""
    variance = float(np.trace(np.atleast_2d(np.cov(real, rowvar=False)))) if len(real) > 1 else 0.0
    return _over_floor(frechet_distance, variance, synthetic, real, patients, features, rng)


def kernel_over_floor(
    synthetic: Floats, real: Floats, patients: Sequence[str], *, features: str, rng: np.random.Generator
) -> FloorDistance:
    """Return the kernel distance of synthetic to real features beside its floor, or refuse too few images."""
    variance = float(np.mean(np.diag(_kernel(real, real)))) - _within(real) if len(real) > 1 else 0.0
    return _over_floor(kernel_distance, variance, synthetic, real, patients, features, rng)


def _over_floor(
    distance: FeatureDistance,
    variance: float,
    synthetic: Floats,
    real: Floats,
    patients: Sequence[str],
    features: str,
    rng: np.random.Generator,
) -> FloorDistance:
    people = np.asarray(patients)
    count = min(len(synthetic), len(real) // 2)
    if count < _LEAST_IMAGES or np.unique(people).size < 4:
        raise InputRefused(
            f"{len(synthetic)} synthetic and {len(real)} real images of {np.unique(people).size} patients are"
            f" too few for a distance; {_LEAST_IMAGES} and {2 * _LEAST_IMAGES} of 4 are the least"
        )
    floors, distances = [], []
    for _ in range(_SPLITS):
        first, second = _halves(people, count, rng)
        floors.append(distance(real[first], real[second]))
        some = rng.choice(len(synthetic), len(first), replace=False)
        distances.append(distance(synthetic[some], real[first]))
    floor = _spread(floors, count)
    if max(abs(floor.low), abs(floor.high)) > _MOST_FLOOR * variance:
        raise InputRefused(
            f"{count} images on either side cannot tell a distance of 0 from the floor: real against real"
            f" reaches {max(abs(floor.low), abs(floor.high)) / variance:.0%} of the images' own variance"
            f" ({_MOST_FLOOR:.0%} is the most)"
        )
    return FloorDistance(_spread(distances, count), floor, count, features)


def _halves(people: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return the images of two disjoint halves of the patients, as many on either side, at most `count`."""
    order = rng.permutation(np.unique(people))
    sides = [np.flatnonzero(np.isin(people, half)) for half in np.array_split(order, 2)]
    size = min(count, *(len(side) for side in sides))
    first, second = (rng.choice(side, size, replace=False) for side in sides)
    return first, second


def _spread(values: Sequence[float], n: int) -> Estimate:
    low, high = np.quantile(values, (0.025, 0.975))
    return Estimate(float(np.mean(values)), float(low), float(high), n)
