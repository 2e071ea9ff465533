"""From acquired slices to one regular orthogonal grid, and masks back and forth between the two, voxel for
voxel.

No value is interpolated. Each acquired slice fills the slab that reaches half-way to its neighbours, and is
moved within its plane by whole pixels:

- even steps: one grid plane per slice, the plain stack;
- uneven steps (4 and 7 mm, a missing slice): the planes are as thin as it takes for every slab to hold a
  whole number of them, as far as memory and time stay within half as much again of an even stack's; beyond
  that every slab is right to half a plane at either end, and every slice still owns a plane;
- gantry tilt: the grid's third axis is the slices' normal, and each slice is moved so that it keeps its
  place, at most half a
  pixel off.

A mask drawn on the grid therefore goes back to the very pixels it was seen on, and its volume is that of
slices weighted by their spacing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichnos.errors import InputRefused
from ichnos.scan import Scan, SourceSlice
from ichnos.volume import Array, Floats, Volume

Ints = npt.NDArray[np.intp]

SAME_PLACE_MM = 0.01  # slices must lie at least this far apart
_EVEN = (
    0.1  # steps that stay within this share of the mean step, and within _EVEN_MM, of a regular grid are even
)
_EVEN_MM = 0.25
_MAX_PLANES = 600  # of a grid for uneven steps, or half as many again as slices if that is more
# What a reading costs beside its planes is about what 10 million voxels of them cost (benchmarks/uneven.py).
_SPARE_VOXELS = 5_000_000


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each source slice lies in the regular grid. Index order of `offset` and `slab_mm` is that of
    the slices, feet to head.
    """

    affine: Floats  # (4, 4) of the grid: (column, row, plane) -> RAS mm
    shape: tuple[int, int, int]  # grid: columns, rows, planes
    owner: Ints  # (planes,): the slice that fills each plane
    offset: Ints  # (slices, 2): grid (column, row) of the slice's first pixel
    source_shape: tuple[int, int]  # of each slice: columns, rows
    slab_mm: Floats  # (slices,): thickness that each slice stands for, half-way to its neighbours

    @property
    def plain(self) -> bool:
        """Say whether the grid is the plain stack of the slices: every pixel one voxel, nothing added."""
        return (
            len(self.owner) == len(self.offset)
            and not self.offset.any()
            and self.shape[:2] == self.source_shape
        )

    @property
    def grid(self) -> Volume:
        """Return the grid without content (one byte in all)."""
        return Volume(np.broadcast_to(np.uint8(0), self.shape), self.affine)

    def window(self, k: int) -> tuple[slice, slice]:
        """Return the (columns, rows) of the grid that slice k fills."""
        (column, row), (columns, rows) = self.offset[k], self.source_shape
        return slice(column, column + columns), slice(row, row + rows)

    def spread(self, array: Array, *, fill: float) -> Array:
        """Return the grid's array (x, y, z) from slices (slices, rows, columns); shares memory when the
        layout is plain.
        """
        if self.plain:
            return array.transpose(2, 1, 0)
        out = np.full(self.shape[::-1], fill, array.dtype).transpose(2, 1, 0)
        for plane, k in enumerate(self.owner):
            columns, rows = self.window(k)
            out[columns, rows, plane] = array[k].T
        return out

    def gathered(self, array: Array) -> Array:
        """Return slices (slices, rows, columns) from the grid's array (x, y, z): the value that most
        planes of a slab hold.
        """
        if self.plain:
            return np.ascontiguousarray(array.transpose(2, 1, 0))
        columns, rows = self.source_shape
        out = np.zeros((len(self.offset), rows, columns), array.dtype)
        for k in range(len(self.offset)):
            planes = np.flatnonzero(self.owner == k)
            if not len(planes):  # a slab thinner than a plane: the plane where it lies
                planes = np.array([min(np.searchsorted(self.owner, k), len(self.owner) - 1)])
            out[k] = _majority(array[self.window(k)][..., planes]).T
        return out


def _majority(planes: Array) -> Array:
    """Return the commonest value along the last axis; the lowest of those equally common."""
    commonest = planes[..., 0].copy()
    mixed = (planes != planes[..., :1]).any(axis=-1)
    if mixed.any():
        unsure = planes[mixed]  # few: the rest agree
        labels = np.unique(unsure)
        votes = np.stack([np.count_nonzero(unsure == label, axis=-1) for label in labels])
        commonest[mixed] = labels[votes.argmax(axis=0)]
    return commonest


def layout_of(affines: Sequence[Floats], source_shape: tuple[int, int]) -> Layout:
    """Lay slices, sorted along their common normal, out on a regular orthogonal grid.

    >>> step = [np.eye(4), np.eye(4), np.eye(4)]
    >>> step[1][2, 3], step[2][2, 3] = 4.0, 11.0  # 4 mm, then 7 mm
    >>> layout = layout_of(step, (2, 2))
    >>> layout.slab_mm.tolist(), layout.grid.spacing_mm, len(layout.owner)
    ([4.0, 5.5, 7.0], (1.0, 1.0, 0.5), 33)
    """
    if len(affines) < 2:
        raise InputRefused(
            "the series has 1 slice; at least 2 at different positions are needed to know the space between"
            " them"
        )
    size_mm = [float(np.linalg.norm(affines[0][:3, axis])) for axis in (0, 1)]
    column, row, normal = _right_angles(affines[0])
    origins = np.array([affine[:3, 3] for affine in affines])
    away = origins - origins[0]
    first, step, owner, slab = _planes(away @ normal, limit=_most_planes(len(affines), source_shape))
    across = np.stack([away @ column / size_mm[0], away @ row / size_mm[1]], axis=1)  # in pixels
    offset, corner = _whole_pixels(across)
    columns, rows = _extent(source_shape, offset)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([column * size_mm[0], row * size_mm[1], normal * step], axis=1)
    affine[:3, 3] = origins[0] + affine[:3, 0] * corner[0] + affine[:3, 1] * corner[1] + normal * first
    return Layout(affine, (columns, rows, len(owner)), owner, offset, source_shape, slab)


def _whole_pixels(across: Floats) -> tuple[Ints, Floats]:
    """Return by how many whole pixels each slice lies aside, and where the grid's corner lies, in pixels."""
    whole = np.round(across).astype(np.intp)
    # what whole pixels leave over on average belongs to the grid's place
    residual = (across - whole).mean(axis=0)
    return whole - whole.min(axis=0), whole.min(axis=0) + residual


def _extent(source_shape: tuple[int, int], offset: Ints) -> tuple[int, int]:
    """Return the columns and rows that hold all slices; refuse slices beside each other."""
    columns, rows = np.asarray(source_shape) + offset.max(axis=0)
    if columns * rows > 16 * source_shape[0] * source_shape[1]:
        raise InputRefused(
            "the slices lie beside each other rather than in a stack; give a series whose slices follow one"
            " line"
        )
    return int(columns), int(rows)


def _right_angles(affine: Floats) -> tuple[Floats, Floats, Floats]:
    """Return unit vectors of columns, rows and normal, at right angles to the last digit (headers round
    their cosines).
    """
    column = affine[:3, 0] / np.linalg.norm(affine[:3, 0])
    row = affine[:3, 1] - (affine[:3, 1] @ column) * column
    row = row / np.linalg.norm(row)
    normal = np.cross(column, row)
    return column, row, normal if normal @ affine[:3, 2] > 0 else -normal


def _most_planes(slices: int, source_shape: tuple[int, int]) -> int:
    """Return how many planes a grid may have so that it costs at most half as much again as an even one."""
    most = 1.5 * slices + _SPARE_VOXELS / (source_shape[0] * source_shape[1])
    return int(min(most, max(_MAX_PLANES, 1.5 * slices)))


def _planes(depth: Floats, *, limit: int) -> tuple[float, float, Ints, Floats]:
    """Return the first plane's depth, the distance of planes, which slice fills each, and the slab of each
    slice in mm.
    """
    steps = np.diff(depth)
    if steps.min() < SAME_PLACE_MM:
        raise InputRefused(
            f"two slices lie {steps.min():.3f} mm apart; positions must grow along the slices' normal"
        )
    edges = np.concatenate(
        [[depth[0] - steps[0] / 2], (depth[1:] + depth[:-1]) / 2, [depth[-1] + steps[-1] / 2]]
    )
    slab = np.diff(edges)
    count = np.arange(len(depth))
    step, first = np.polyfit(count, depth, 1)
    if np.abs(depth - (first + step * count)).max() <= min(_EVEN * step, _EVEN_MM):
        return float(first), float(step), count.astype(np.intp), slab
    planes = _plane_count(edges, slab, max(limit, len(depth)))
    step = float(edges[-1] - edges[0]) / planes
    centres = edges[0] + (np.arange(planes) + 0.5) * step
    owner = np.clip(np.searchsorted(edges, centres) - 1, 0, len(depth) - 1).astype(np.intp)
    return float(centres[0]), step, _every_slice(owner, len(depth)), slab


def _plane_count(edges: Floats, slab: Floats, limit: int) -> int:
    """Return the least number of planes of which every slab is a whole multiple, or the nearest to it."""
    thickness = float(edges[-1] - edges[0])
    fewest = min(limit, int(np.ceil(thickness / float(slab.min()) - 1e-6)))
    best, best_error = fewest, np.inf
    for planes in range(fewest, limit + 1):
        step = thickness / planes
        at = (edges - edges[0]) / step
        error = float(np.abs(at - np.round(at)).max()) * step
        if error <= 0.002 * float(slab.min()):
            return planes
        if error < best_error - 1e-9:
            best, best_error = planes, error
    return best


def _every_slice(owner: Ints, slices: int) -> Ints:
    """Give each slice that is thinner than a plane a plane of its own, from a neighbour with several."""
    owner = owner.copy()
    for k in np.setdiff1d(np.arange(slices), owner):
        at = int(np.searchsorted(owner, k))  # planes stay in the order of the slices
        beside = [plane for plane in (at - 1, at) if 0 <= plane < len(owner)]
        count, plane = max((int(np.sum(owner == owner[plane])), plane) for plane in beside)
        if count > 1:
            owner[plane] = k
    return owner


# ---- for a scan


def source_layout(scan: Scan) -> Layout:
    """Return how a scan's source slices lie in its grid, or refuse a scan that did not come from DICOM."""
    slices = _source_slices(scan)
    return layout_of([s.affine for s in slices], slices[0].shape)


def _source_slices(scan: Scan) -> tuple[SourceSlice, ...]:
    if scan.source is None or not scan.source.slices:
        raise InputRefused(
            "the scan has no source slices (it was not opened from DICOM), so a mask cannot be put on them;"
            " save it as NIfTI"
        )
    return scan.source.slices


@dataclass(frozen=True, eq=False)
class SharedSlabs:
    """Planes of a scan in RAS of which several are filled by one slice, as where the steps are uneven."""

    axis: int  # along which the planes follow each other
    owner: Ints  # (planes,): the slice that fills each

    def one_each(self, mask: Volume) -> Volume:
        """Return a mask (RAS) whose planes of one slice all hold what the middle one of them holds.

        >>> slabs = SharedSlabs(2, np.array([0, 0, 0, 1]))
        >>> mask = Volume(np.array([[[False, True, False, False]]]), np.eye(4))
        >>> slabs.one_each(mask).array.ravel().tolist()
        [True, True, True, False]
        """
        planes = [np.flatnonzero(self.owner == k) for k in self.owner]
        middle = [same[(len(same) - 1) // 2] for same in planes]
        return mask.map_array(lambda a: np.take(a, middle, axis=self.axis))


def shared_slabs(scan: Scan) -> SharedSlabs | None:
    """Return which planes of a scan in RAS share a slice; None where none do, or it is not from DICOM."""
    if scan.source is None or not scan.source.slices:
        return None
    layout = source_layout(scan)
    if len(np.unique(layout.owner)) == len(layout.owner) or not scan.volume.same_grid(layout.grid):
        return None
    owner = Volume(np.broadcast_to(layout.owner, layout.shape), layout.affine).reoriented("RAS").array
    lines = (owner[:, 0, 0], owner[0, :, 0], owner[0, 0, :])
    axis = next(axis for axis, line in enumerate(lines) if line[0] != line[-1])
    return SharedSlabs(axis, lines[axis])


def mask_on_source(scan: Scan, mask: Volume) -> Array:
    """Put a mask or label map onto the source slices: (slices, rows, columns), slices in the order of
    `scan.source.slices`.

    The mask may lie on the scan's grid, where it goes back pixel by pixel, or on any other, from which it is
    first resampled.
    """
    layout = source_layout(scan)
    on_grid = mask if mask.same_grid(layout.grid) else mask.labels_on_grid(layout.grid)
    return layout.gathered(np.asarray(on_grid.array))


def mask_from_source(scan: Scan, array: Array) -> Volume:
    """Bring a mask or label map drawn on the source slices, (slices, rows, columns), to the scan's grid."""
    layout = source_layout(scan)
    columns, rows = layout.source_shape
    if array.shape != (len(layout.offset), rows, columns):
        raise InputRefused(
            f"the array has shape {array.shape}; the source has (slices, rows, columns) ="
            f" {(len(layout.offset), rows, columns)}"
        )
    drawn = Volume(layout.spread(array, fill=0), layout.affine)
    return drawn if drawn.same_grid(scan.volume) else drawn.labels_on_grid(scan.volume)
