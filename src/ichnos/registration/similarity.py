"""How much one image tells about another: normalised mutual information at sampled points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ichnos.registration.contrast import View
from ichnos.registration.transform import Transform
from ichnos.volume import Floats, Volume

BINS = 24


@dataclass(frozen=True, eq=False)
class Samples:
    """Points of the fixed image with its grey values there, binned."""

    points: Floats  # (n, 3) RAS mm
    bins: np.ndarray  # (n,) int64, 0 … BINS − 1


def samples(
    fixed: View,
    *,
    count: int,
    rng: np.random.Generator,
    exclude: Volume | None = None,
    margin_mm: float = 8.0,
) -> Samples:
    """Draw points in and around the head; none where `exclude` (a mask on any grid) is set."""
    from scipy import ndimage

    step = fixed.image.spacing_mm[0]
    where = ndimage.binary_dilation(fixed.head.array, iterations=max(1, round(margin_mm / step)))
    if exclude is not None:
        where &= exclude.astype(np.float32).on_grid(fixed.image).array < 0.5
    index = np.argwhere(where)
    if len(index) > count:
        index = index[rng.choice(len(index), count, replace=False)]
    return Samples(fixed.image.world(index), _binned(fixed.image.array[tuple(index.T)]))


def similarity(
    moving_from_fixed: Transform, chosen: Samples, moving: View, *, least_overlap: float = 0.35
) -> float:
    """Return the normalised mutual information (H(A) + H(B)) / H(A, B), 1 for none; 0 if too few points
    meet the moving image.
    """
    return _shared(moving.image.index(moving_from_fixed.map(chosen.points)).T, chosen, moving, least_overlap)


def similarity_at(matrix: Floats, chosen: Samples, moving: View, *, least_overlap: float = 0.35) -> float:
    """Return the same for a 4 x 4 matrix, without the checks that a transform goes through: for searches
    of thousands of poses.
    """
    whole = np.linalg.inv(moving.image.affine) @ matrix
    return _shared(whole[:3, :3] @ chosen.points.T + whole[:3, 3:], chosen, moving, least_overlap)


def _shared(at: Floats, chosen: Samples, moving: View, least_overlap: float) -> float:
    """Return the information shared at points (3, n), voxel indices of the moving image."""
    from scipy import ndimage

    last = np.array(moving.image.shape)[:, None] - 1
    inside = ((at >= 0) & (at <= last)).all(axis=0)
    if inside.mean() < least_overlap:
        return 0.0
    values = ndimage.map_coordinates(moving.image.array, at[:, inside], order=1, mode="nearest")
    joint = np.bincount(chosen.bins[inside] * BINS + _binned(values), minlength=BINS * BINS).reshape(
        BINS, BINS
    )
    return (_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / max(_entropy(joint.ravel()), 1e-9)


def _binned(values: np.ndarray) -> np.ndarray:
    return np.minimum((np.asarray(values) * BINS).astype(np.int64), BINS - 1)


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
