"""Transforms of RAS millimetres with the algebra of mathematics: `~T`, `A @ B`, `T.map(points)`, and what
they do to images.

A transform maps points. To bring an image of space B onto a grid of space A one needs the map from A to B,
because each voxel of the grid asks where its value lies. Hence the names: `mri_from_ct.map(ct_points)` and
`mri_from_ct.pull(mri, ct_grid)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, reduce

import numpy as np

from ichnos.errors import InputRefused
from ichnos.volume import Affine, Array, Box, Floats, Interpolation, Volume

_ORDER: dict[Interpolation, int] = {"nearest": 0, "linear": 1, "cubic": 3}
# a thick voxel is looked at in places no farther apart than this, however thick the slices of the mask
FINEST_PLACE_MM = 1.5
REACH_STEP_MM = 6.0
_POINTS_AT_ONCE = 1_000_000  # bounds the memory of a pull to some 100 MB


@dataclass(frozen=True, eq=False)
class Displacement:
    """A map x -> x + u(x) with u given in RAS mm on a grid; beyond the grid the value at its border holds."""

    field: Volume  # (x, y, z, 3) float32, RAS mm

    def __post_init__(self) -> None:
        if self.field.array.ndim != 4 or self.field.array.shape[3] != 3:
            raise InputRefused(
                f"a displacement field has axes (x, y, z, 3); an array of shape {self.field.array.shape} was"
                " given"
            )
        if not np.isfinite(self.field.array).all():
            raise InputRefused(
                "the displacement field holds values that are not finite; register again or leave the"
                " warp out"
            )

    def map(self, points: Floats) -> Floats:
        """Map points (..., 3).

        >>> one = Displacement(Volume(np.ones((2, 2, 2, 3), np.float32), np.eye(4)))
        >>> one.map(np.array([0.0, 0.5, 9.0])).tolist()
        [1.0, 1.5, 10.0]
        """
        from scipy import ndimage

        points = np.asarray(points, np.float64)
        at = self.field.index(points).reshape(-1, 3).T
        shift = np.empty((at.shape[1], 3))
        for c in range(3):
            ndimage.map_coordinates(self.field.array[..., c], at, output=shift[:, c], order=1, mode="nearest")
        mapped: Floats = points + shift.reshape(points.shape)
        return mapped

    @cached_property
    def inverse(self) -> Displacement:
        """Return the inverse on the same grid, by fixed-point iteration v(x) = -u(x + v(x)), for each
        point until it stands still.

        >>> one = Displacement(Volume(np.ones((2, 2, 2, 3), np.float32), np.eye(4)))
        >>> one.inverse.map(one.map(np.array([0.5, 0.5, 0.5]))).tolist()
        [0.5, 0.5, 0.5]
        """
        points = grid_points(self.field).reshape(-1, 3)
        back = -np.asarray(self.field.array, np.float64).reshape(-1, 3)
        moving = np.flatnonzero(np.abs(back).max(axis=1) > 0)
        for _ in range(30):
            at = points[moving] + back[moving]
            change = at - self.map(at) - back[moving]
            back[moving] += change
            moving = moving[np.abs(change).max(axis=1) >= 0.005]  # mm
            if not len(moving):
                break
        return Displacement(
            Volume(back.reshape(self.field.array.shape).astype(np.float32), self.field.affine)
        )

    @cached_property
    def jacobian(self) -> Volume:
        """Return the determinant of the local derivative: 1 keeps volume, 2 doubles it, 0 or less folds
        space.

        >>> still = Displacement(Volume(np.ones((2, 2, 2, 3), np.float32), np.eye(4)))
        >>> float(still.jacobian.array.max())
        1.0
        """
        step = np.linalg.inv(self.field.affine[:3, :3])
        along: list[Array] = list(np.gradient(np.asarray(self.field.array, np.float64), axis=(0, 1, 2)))
        slopes = np.stack(along, axis=-1)  # (x, y, z, component, axis)
        return Volume(np.linalg.det(np.eye(3) + slopes @ step).astype(np.float32), self.field.affine)


TransformPart = Affine | Displacement


@dataclass(frozen=True, eq=False)
class Transform:
    """A chain of affine maps and displacements; the last part acts first, as in a product of matrices.

    >>> shift = Transform.of(Affine(np.array([[1, 0, 0, 5.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])))
    >>> (~shift @ shift).map(np.array([1.0, 2.0, 3.0])).tolist()
    [1.0, 2.0, 3.0]
    """

    parts: tuple[TransformPart, ...] = field(default=())

    @classmethod
    def of(cls, *parts: TransformPart) -> Transform:
        """Make a transform of parts; neighbouring affine maps become one.

        >>> len(Transform.of(Affine(np.eye(4)), Affine(np.diag([2.0, 2.0, 2.0, 1.0]))).parts)
        1
        """
        chain: tuple[TransformPart, ...] = ()
        for part in parts:
            chain = _joined(chain, part)
        return cls(chain)

    @property
    def is_affine(self) -> bool:
        """Say whether the whole transform is one affine map.

        >>> Transform.of(Affine(np.eye(4))).is_affine
        True
        """
        return all(isinstance(part, Affine) for part in self.parts)

    @property
    def affine(self) -> Affine:
        """Return the affine part alone: the product of all affine maps, displacements left out.

        >>> double = Affine(np.diag([2.0, 2.0, 2.0, 1.0]))
        >>> Transform.of(double, double).affine.matrix.diagonal().tolist()
        [4.0, 4.0, 4.0, 1.0]
        """
        return reduce(Affine.__matmul__, (p for p in self.parts if isinstance(p, Affine)), Affine(np.eye(4)))

    @property
    def displacements(self) -> tuple[Displacement, ...]:
        """Return the displacement fields in the chain."""
        return tuple(part for part in self.parts if isinstance(part, Displacement))

    def map(self, points: Floats) -> Floats:
        """Map points (..., 3) in RAS mm.

        >>> Transform.of(Affine(np.diag([2.0, 2.0, 2.0, 1.0]))).map(np.array([1.0, 2.0, 3.0])).tolist()
        [2.0, 4.0, 6.0]
        """
        mapped: Floats = reduce(
            lambda at, part: part.map(at), reversed(self.parts), np.asarray(points, np.float64)
        )
        return mapped

    def __matmul__(self, other: Transform) -> Transform:
        return Transform.of(*self.parts, *other.parts)

    def __invert__(self) -> Transform:
        return Transform.of(
            *(~part if isinstance(part, Affine) else part.inverse for part in reversed(self.parts))
        )

    # ---- what it does to images
    # -------------------------------------------------------------------------------------

    def pull(
        self, image: Volume, grid: Volume, *, interpolation: Interpolation = "linear", fill: float = 0.0
    ) -> Volume:
        """Bring an image onto a grid; the transform maps points of the grid's space to the image's.
        Outside the image comes `fill`.
        """
        if self.is_affine:
            moved = Volume(image.array, (~self.affine).matrix @ image.affine)
            return moved.on_grid(grid, interpolation=interpolation, fill=fill)
        return Volume(self._sampled(image, grid, _ORDER[interpolation], fill), grid.affine)

    def pull_labels(self, labels: Volume, grid: Volume) -> Volume:
        """Bring a label map onto a grid: the label with the greatest share of each voxel wins, so that no
        label mixes with another.
        """
        found = np.unique(labels.array)
        best = self.pull_share(labels.with_array(labels.array == 0), grid, outside=1.0).array
        out = np.zeros(grid.shape, labels.array.dtype)
        for label in found[found != 0]:
            share = self.pull_share(labels.with_array(labels.array == label), grid).array
            take = share > best
            out[take], best[take] = label, share[take]
        return Volume(out, grid.affine)

    def pull_share(self, mask: Volume, grid: Volume, *, outside: float = 0.0) -> Volume:
        """Return which share of each voxel of the grid a mask (or probability map) fills, in [0, 1].

        The share is the mean over places inside the voxel, so that a thin sheet on a thick slice becomes a
        small share rather than all or nothing.
        """
        soft = mask.astype(np.float32)
        box = Box((0, 0, 0), grid.shape) if outside else self._reach(mask, grid)
        part = grid.cropped(box)
        places = (
            np.ceil(np.array(grid.spacing_mm) / np.minimum(mask.spacing_mm, FINEST_PLACE_MM) - 0.25)
            .astype(int)
            .clip(1, 8)
        )
        total = np.zeros(part.shape, np.float32)
        offsets = [(np.arange(n) + 0.5) / n - 0.5 for n in places]
        for offset in np.stack(np.meshgrid(*offsets, indexing="ij"), axis=-1).reshape(-1, 3):
            affine = np.array(part.affine)
            affine[:3, 3] = part.world(offset)
            total += self.pull(soft, Volume(part.array, affine), fill=outside).array
        share = np.zeros(grid.shape, np.float32)
        share[box.slices] = np.clip(total / places.prod(), 0, 1)
        return Volume(share, grid.affine)

    def _reach(self, mask: Volume, grid: Volume) -> Box:
        """Return the box of the grid that what is in a mask can reach, found on a coarse grid with some
        millimetres to spare.
        """
        there = np.argwhere(mask.array != 0)
        if len(there) == 0:
            return Box((0, 0, 0), (1, 1, 1))
        coarse = grid.grid_with_spacing(np.maximum(grid.spacing_mm, REACH_STEP_MM).tolist())
        points = grid_points(coarse)
        at = mask.index(self.map(points))
        spare = 1.5 * np.max(coarse.spacing_mm) / np.array(mask.spacing_mm) + 1
        near = ((at >= there.min(0) - spare) & (at <= there.max(0) + spare)).all(axis=-1)
        if not near.any():
            return Box((0, 0, 0), (1, 1, 1))
        index = grid.index(points[near])
        spare = np.array(coarse.spacing_mm) / np.array(grid.spacing_mm)
        start = np.clip(np.floor(index.min(0) - spare), 0, np.array(grid.shape) - 1).astype(int)
        stop = np.clip(np.ceil(index.max(0) + spare) + 1, start + 1, grid.shape).astype(int)
        return Box(tuple(start.tolist()), tuple(stop.tolist()))

    def _sampled(self, image: Volume, grid: Volume, order: int, fill: float) -> Array:
        from scipy import ndimage

        source = image.array.astype(np.float32) if order else image.array
        channels = source[..., None] if source.ndim == 3 else source
        out = np.empty((*grid.shape, channels.shape[3]), source.dtype)
        for slab in _slabs(grid):
            at = image.index(self.map(grid_points(grid, slab))).reshape(-1, 3).T
            inside = np.ones(at.shape[1], bool)
            for row, n in zip(at, image.shape, strict=True):
                inside &= (row >= -0.5) & (row <= n - 0.5)
            for c in range(channels.shape[3]):
                values = ndimage.map_coordinates(channels[..., c], at, order=order, mode="nearest")
                out[:, :, slab, c] = np.where(inside, values, fill).reshape(out[:, :, slab, c].shape)
        return out if source.ndim == 4 else out[..., 0]


IDENTITY = Transform()


def grid_points(grid: Volume, slab: slice = slice(None)) -> Floats:
    """Return the voxel centres of a grid, or of some of its z-layers, in RAS mm: (x, y, z, 3).

    >>> grid_points(Volume(np.zeros((2, 1, 1)), np.diag([3.0, 3, 3, 1])))[:, 0, 0, 0].tolist()
    [0.0, 3.0]
    """
    x, y, z = (np.arange(n) for n in grid.shape)
    return grid.world(np.stack(np.meshgrid(x, y, z[slab], indexing="ij"), axis=-1))


def _slabs(grid: Volume) -> Iterator[slice]:
    layers = max(1, _POINTS_AT_ONCE // (grid.shape[0] * grid.shape[1]))
    return (slice(start, start + layers) for start in range(0, grid.shape[2], layers))


def _joined(done: tuple[TransformPart, ...], part: TransformPart) -> tuple[TransformPart, ...]:
    if done and isinstance(part, Affine) and isinstance(done[-1], Affine):
        return (*done[:-1], done[-1] @ part)
    return (*done, part)
