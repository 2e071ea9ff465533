"""From the scan's grid to the network's and back: separable, along the scan's own axes, with no aliasing.

A head CT is never rotated for reading: the network's grid has the scan's (RAS) axes and another voxel size.
Each axis is then one small, sparse matrix, and resampling is three products with it, far quicker than a
general affine pull. The products are summed in one fixed order, so that threads cannot change the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ichnos.formats.dicom.geometry import Ints, SharedSlabs
from ichnos.volume import Box, Volume

SLAB = 8  # slices of the scan that are brought back at a time
Weights = npt.NDArray[np.float32]  # (n_out, n_in), rows sum to one
SpacingMm = tuple[float, float, float]


def axis_weights(n_in: int, step_in: float, n_out: int, step_out: float) -> Weights:
    """Weights that take samples at one step to samples at another over the same centred extent.

    Linear interpolation where the grid gets finer; a triangle as wide as the new step where it gets coarser,
    so that noise averages out.

    >>> axis_weights(4, 1.0, 2, 2.0).round(2)
    array([[0.43, 0.43, 0.14, 0.  ],
           [0.  , 0.14, 0.43, 0.43]], dtype=float32)
    """
    at_in = (np.arange(n_in) - (n_in - 1) / 2) * step_in
    at_out = (np.arange(n_out) - (n_out - 1) / 2) * step_out
    at_out = np.clip(at_out, at_in[0], at_in[-1])  # beyond the last sample: the last sample
    reach = max(step_in, step_out)
    weights = np.maximum(0.0, 1.0 - np.abs(at_out[:, None] - at_in[None, :]) / reach)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def resampled(array: npt.NDArray[np.float32], weights: Sequence[Weights]) -> npt.NDArray[np.float32]:
    """Resample an array (x, y, z) along each of its axes."""
    for axis, along in enumerate(weights):
        array = _along(array, along, axis)
    return np.ascontiguousarray(array)


def _along(array: npt.NDArray[np.float32], weights: Weights, axis: int) -> npt.NDArray[np.float32]:
    """Apply weights along one axis: a sparse product, whose order of summation no thread count changes."""
    first = np.moveaxis(array, axis, 0)
    flat = np.ascontiguousarray(first).reshape(len(first), -1)
    out = sparse.csr_array(weights) @ flat
    return np.asarray(np.moveaxis(out.reshape(len(weights), *first.shape[1:]), 0, axis), np.float32)


@dataclass(frozen=True, eq=False)
class ReadingGrid:
    """The network's grid inside a RAS scan: a box of the scan, and a voxel size."""

    scan_shape: tuple[int, int, int]
    box: Box  # the head, in voxels of the scan
    shape: tuple[int, int, int]  # of the network's grid
    forward: tuple[Weights, Weights, Weights]  # scan box -> grid, per axis
    backward: tuple[Weights, Weights, Weights]  # grid -> scan box, per axis

    def levelled(self, slabs: SharedSlabs | None) -> ReadingGrid:
        """Return the grid that brings the mean of their values to all planes of one slice of the scan, so
        that a mask drawn on them is the slice's.
        """
        if slabs is None:
            return self
        owner = slabs.owner[self.box.slices[slabs.axis]]
        x, y, z = (
            _levelled(weights, owner) if axis == slabs.axis else weights
            for axis, weights in enumerate(self.backward)
        )
        return replace(self, backward=(x, y, z))

    def pull(self, array: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Resample the scan's array (x, y, z) onto the grid."""
        return resampled(np.ascontiguousarray(array[self.box.slices], np.float32), self.forward)

    def push(self, grid_array: npt.NDArray[np.float32], z_slab: slice) -> npt.NDArray[np.float32]:
        """Bring an array on the grid (x, y, z) back to some slices of the scan's box (box x, box y, slab)."""
        wx, wy, wz = self.backward
        return np.ascontiguousarray(_along(_along(_along(grid_array, wz[z_slab], 2), wy, 1), wx, 0))

    def above(
        self, grid_array: npt.NDArray[np.float32], least: float
    ) -> Iterator[tuple[tuple[slice, ...], npt.NDArray[np.float32]]]:
        """Bring an array back to the scan slab by slab, without what cannot exceed `least`.

        Yields where in the scan a slab lies, and its values. Interpolated values never exceed those they are
        made of, so that a sparse target costs little.
        """
        hit = grid_array > least
        if not hit.any():
            return
        reached = [
            _reached(w, np.asarray(hit.any(axis=tuple(b for b in range(3) if b != a))))
            for a, w in enumerate(self.backward)
        ]
        rows, columns = [r for r, _ in reached], [c for _, c in reached]
        wx, wy, wz = (w[r, c] for w, r, c in zip(self.backward, rows, columns, strict=True))
        part = np.ascontiguousarray(grid_array[tuple(columns)])
        place = [
            slice(first + r.start, first + r.stop) for first, r in zip(self.box.start, rows, strict=True)
        ]
        for z in range(0, len(wz), SLAB):
            values = _along(_along(_along(part, wz[z : z + SLAB], 2), wy, 1), wx, 0)
            at = place[2].start + z
            yield (place[0], place[1], slice(at, at + values.shape[2])), values


def _levelled(weights: Weights, owner: Ints) -> Weights:
    """Return weights whose rows of one owner are all their mean."""
    out = weights.copy()
    for k in np.unique(owner):
        out[owner == k] = weights[owner == k].mean(axis=0)
    return out


def _reached(weights: Weights, hit: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return which outputs draw on any hit input, and all inputs that these outputs draw on."""
    rows = np.flatnonzero((weights[:, hit] > 0).any(axis=1))
    row = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)
    columns = np.flatnonzero((weights[row] > 0).any(axis=0))
    return row, slice(int(columns[0]), int(columns[-1]) + 1) if len(columns) else slice(0, 0)


def reading_grid(scan_ras: Volume, box: Box, spacing_mm: SpacingMm) -> ReadingGrid:
    """Lay a grid of the network's voxel size over a box of the scan."""
    n_box = tuple(b - a for a, b in zip(box.start, box.stop, strict=True))
    steps = scan_ras.spacing_mm
    shape = tuple(
        max(1, int(np.ceil(n * s / t - 1e-6))) for n, s, t in zip(n_box, steps, spacing_mm, strict=True)
    )
    forward = [axis_weights(n, s, m, t) for n, s, m, t in zip(n_box, steps, shape, spacing_mm, strict=True)]
    backward = [axis_weights(m, t, n, s) for n, s, m, t in zip(n_box, steps, shape, spacing_mm, strict=True)]
    (x, y, z), (x_back, y_back, z_back) = forward, backward
    size = (shape[0], shape[1], shape[2])
    return ReadingGrid(scan_ras.shape, box, size, (x, y, z), (x_back, y_back, z_back))


def through_grid(label: Volume, spacing_mm: SpacingMm) -> Volume:
    """Return what is left of a label (RAS) that goes to a network's voxels and back, as a network would draw
    it that answers each voxel with its true share of the label.

    >>> from ichnos.volume import volume_ml
    >>> thin = Volume(np.pad(np.ones((9, 9, 1)), ((3, 3), (3, 3), (2, 2))), np.eye(4))
    >>> [volume_ml(through_grid(thin, (1.0, 1.0, step))) for step in (1.0, 5.0)]
    [0.081, 0.0]
    """
    grid = reading_grid(label, Box((0, 0, 0), label.shape), spacing_mm)
    share = grid.pull(np.asarray(label.array, np.float32))
    return label.with_array(grid.push(share, slice(None)) >= 0.5)
