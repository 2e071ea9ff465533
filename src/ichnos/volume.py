"""The one geometry: an array with axes (x, y, z) and the affine that takes voxel indices to RAS+ millimetres.

Everything inside ichnos is a `Volume`. LPS and (z, y, x) exist only in `formats/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ichnos.arrays import Array as Array  # re-exported: a Volume is made of them
from ichnos.arrays import Floats as Floats
from ichnos.errors import InputRefused, UsageError
from ichnos.sampling import SPLINE_ORDER, SitkMemory, sample
from ichnos.sampling import Interpolation as Interpolation

_AXIS_OF = {"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}
_TIE = 1e-5  # weights nearer than this are equal: they are sums of rounded products


@dataclass(frozen=True, eq=False)
class Affine:
    """An affine map of RAS millimetres (or of voxel indices) with the algebra of mathematics: `~T`, `A @ B`.

    >>> shift = Affine(np.array([[1, 0, 0, 5.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    >>> (~shift @ shift).map(np.array([[1.0, 2.0, 3.0]])).tolist()
    [[1.0, 2.0, 3.0]]
    """

    matrix: Floats  # (4, 4)

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", checked_affine(self.matrix))

    def __invert__(self) -> Affine:
        return Affine(np.linalg.inv(self.matrix).astype(np.float64))

    def __matmul__(self, other: Affine) -> Affine:
        return Affine(self.matrix @ other.matrix)

    def map(self, points: Floats) -> Floats:
        """Map points (..., 3)."""
        mapped: Floats = np.asarray(points, np.float64) @ self.matrix[:3, :3].T + self.matrix[:3, 3]
        return mapped


def checked_affine(affine: npt.ArrayLike) -> Floats:
    """Return the affine as float64, or refuse one that is not an invertible 4 x 4 matrix."""
    matrix = np.array(affine, np.float64)
    if matrix.shape != (4, 4):
        raise InputRefused(f"the affine has shape {matrix.shape}; a 4 x 4 matrix is expected")
    if not np.isfinite(matrix).all() or not np.allclose(matrix[3], (0, 0, 0, 1)):
        raise InputRefused(
            "the affine holds values that are not finite, or its last row is not (0, 0, 0, 1): the image has"
            " no usable position"
        )
    scale = np.prod(np.linalg.norm(matrix[:3, :3], axis=0))
    if scale == 0 or abs(np.linalg.det(matrix[:3, :3])) < 1e-6 * scale:
        raise InputRefused("the affine is singular: two image axes point the same way or have no length")
    matrix.setflags(write=False)
    return matrix


@dataclass(frozen=True, eq=False)
class Volume:
    """An image in space.

    >>> v = Volume(np.zeros((4, 5, 6), np.uint8), np.diag([0.5, 0.5, 5.0, 1.0]))
    >>> v.spacing_mm, round(v.voxel_ml, 6), v.orientation
    ((0.5, 0.5, 5.0), 0.00125, 'RAS')
    """

    array: Array  # (x, y, z) or (x, y, z, c)
    affine: Floats  # (4, 4), voxel index -> RAS+ mm, of the voxel's centre

    def __post_init__(self) -> None:
        if self.array.ndim not in (3, 4):
            raise InputRefused(
                f"the image has {self.array.ndim} axes; three (x, y, z) or four (x, y, z, channel) are"
                " expected"
            )
        object.__setattr__(self, "affine", checked_affine(self.affine))

    # ---- what it is

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the number of voxels along x, y and z."""
        x, y, z = self.array.shape[:3]
        return x, y, z

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Return the distance between neighbouring voxel centres along each array axis, in mm."""
        x, y, z = (float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0))
        return x, y, z

    @property
    def voxel_ml(self) -> float:
        """Return the volume of one voxel in millilitres, shear included."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def orientation(self) -> str:
        """Return the anatomical direction that each axis points to, such as "RAS".

        >>> Volume(np.zeros((2, 2, 2)), np.diag([-1.0, -1.0, 1.0, 1.0])).orientation
        'LPS'
        """
        import nibabel

        return "".join(nibabel.orientations.aff2axcodes(self.affine))

    @property
    def is_orthogonal(self) -> bool:
        """Say whether the axes stand at right angles, to 0.05 degrees; SimpleITK and NIfTI's qform know no
        others.
        """
        direction = self.affine[:3, :3] / np.array(self.spacing_mm)
        return bool(np.abs(direction.T @ direction - np.eye(3)).max() < 1e-3)

    @property
    def centre_mm(self) -> Floats:
        """Return the middle of the grid in RAS mm."""
        return self.world((np.array(self.shape) - 1) / 2)

    def world(self, index: npt.ArrayLike) -> Floats:
        """Return RAS mm of voxel indices (..., 3).

        >>> Volume(np.zeros((2, 2, 2)), np.diag([2.0, 2.0, 5.0, 1.0])).world((1, 1, 1)).tolist()
        [2.0, 2.0, 5.0]
        """
        return Affine(self.affine).map(np.asarray(index, np.float64))

    def index(self, world_mm: npt.ArrayLike) -> Floats:
        """Return voxel indices (..., 3), fractional, of points in RAS mm.

        >>> Volume(np.zeros((2, 2, 2)), np.diag([2.0, 2.0, 5.0, 1.0])).index((1.0, 2.0, 5.0)).tolist()
        [0.5, 1.0, 1.0]
        """
        return (~Affine(self.affine)).map(np.asarray(world_mm, np.float64))

    def same_grid(self, other: Volume, *, tolerance_mm: float = 1e-3) -> bool:
        """Say whether both have the same shape and the same voxel centres."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1).T
        return bool(np.abs(self.world(corners) - other.world(corners)).max() <= tolerance_mm)

    # ---- new values from it

    def with_array(self, array: Array) -> Volume:
        """Return another image on the same grid."""
        if array.shape[:3] != self.shape:
            raise InputRefused(f"an array of shape {array.shape} does not fit the grid {self.shape}")
        return Volume(array, self.affine)

    def astype(self, dtype: npt.DTypeLike) -> Volume:
        """Return the image in another number type; shares memory where it is that type already."""
        return Volume(self.array.astype(dtype, copy=False), self.affine)

    def reoriented(self, orientation: str = "RAS") -> Volume:
        """Return the same image with its axes in another of the 48 orders; no voxel value changes, no
        interpolation.

        >>> v = Volume(np.arange(24).reshape(2, 3, 4), np.eye(4))
        >>> w = v.reoriented("LPS")
        >>> w.orientation, int(w.array[1, 2, 0]) == int(v.array[0, 0, 0])
        ('LPS', True)
        """
        from nibabel import orientations

        codes = tuple(orientation.upper())
        if len(codes) != 3 or {_AXIS_OF.get(code) for code in codes} != {0, 1, 2}:
            raise InputRefused(
                f"orientation {orientation!r} is not one of the 48: give one letter each of L/R, P/A and I/S,"
                " as 'RAS'"
            )
        change = orientations.ornt_transform(
            orientations.io_orientation(self.affine), orientations.axcodes2ornt(codes)
        )
        return Volume(
            orientations.apply_orientation(self.array, change),
            self.affine @ orientations.inv_ornt_aff(change, self.shape),
        )

    def on_grid(self, grid: Volume, *, interpolation: Interpolation = "linear", fill: float = 0.0) -> Volume:
        """Resample onto the voxel centres of another image; outside the own field of view the value is
        `fill`.
        """
        if interpolation not in SPLINE_ORDER:
            raise UsageError(
                f"interpolation {interpolation!r} is unknown; there is {', '.join(SPLINE_ORDER)}"
            )
        matrix = np.linalg.inv(self.affine) @ grid.affine
        return Volume(sample(self.array, matrix, grid.shape, SPLINE_ORDER[interpolation], fill), grid.affine)

    def labels_on_grid(self, grid: Volume) -> Volume:
        """Resample a label map: the label with the greatest linear weight wins, so that no label is invented
        between two others.

        A tie goes to the label rather than to the background, and to the smaller label. Parts thinner than a
        voxel of the new grid may still be lost; resample `array == label` as a probability where they matter.
        """
        if self.array.ndim == 4:
            parts = [
                self.with_array(self.array[..., c]).labels_on_grid(grid).array
                for c in range(self.array.shape[3])
            ]
            return Volume(np.stack(parts, axis=-1), grid.affine)
        matrix = np.linalg.inv(self.affine) @ grid.affine
        out = np.zeros(grid.shape, self.array.dtype)
        # outside lies background
        best = sample((self.array == 0).astype(np.float32), matrix, grid.shape, 1, 1.0)
        for label in (label for label in np.unique(self.array) if label != 0):
            weight = sample((self.array == label).astype(np.float32), matrix, grid.shape, 1, 0.0)
            wins = (weight > best + _TIE) | ((weight >= best - _TIE) & (out == 0) & (weight > 0))
            out[wins], best[wins] = label, weight[wins]
        return Volume(out, grid.affine)

    def resampled(
        self,
        spacing_mm: float | Sequence[float],
        *,
        interpolation: Interpolation = "linear",
        fill: float = 0.0,
    ) -> Volume:
        """Resample to another voxel size over the same field of view, axes kept."""
        return self.on_grid(self.grid_with_spacing(spacing_mm), interpolation=interpolation, fill=fill)

    def grid_with_spacing(self, spacing_mm: float | Sequence[float]) -> Volume:
        """Return an empty grid (one byte per voxel, zero) of another voxel size that covers the same field
        of view.

        >>> Volume(np.zeros((4, 4, 2)), np.diag([1.0, 1.0, 5.0, 1.0])).grid_with_spacing(1.0).shape
        (4, 4, 10)
        """
        new = np.broadcast_to(np.asarray(spacing_mm, np.float64), 3)
        if not (np.isfinite(new).all() and (new > 0).all()):
            raise InputRefused(
                f"a voxel size of {tuple(new)} mm is not possible; every side must be positive"
            )
        old = np.array(self.spacing_mm)
        shape = np.maximum(1, np.round(np.array(self.shape) * old / new).astype(int))
        affine = np.array(self.affine)
        affine[:3, :3] = self.affine[:3, :3] * (new / old)
        # keep the middle of the field of view
        first = (np.array(self.shape) - 1) / 2 - (shape - 1) / 2 * new / old
        affine[:3, 3] = self.world(first)
        return Volume(np.broadcast_to(np.uint8(0), tuple(int(n) for n in shape)), affine)

    def orthogonal_grid(self) -> Volume:
        """Return an empty grid with right angles around a sheared one: x kept, z along the slice normal, no
        voxel left outside.

        >>> tilted = np.array([[1, 0, 0, 0], [0, 1, 2, 0], [0, 0, 5, 0], [0, 0, 0, 1.0]])
        >>> grid = Volume(np.zeros((4, 4, 3)), tilted).orthogonal_grid()
        >>> grid.shape, grid.spacing_mm
        ((4, 8, 3), (1.0, 1.0, 5.0))
        """
        q, r = np.linalg.qr(self.affine[:3, :3])
        axes = q * np.sign(np.diag(r))
        step = np.abs(np.diag(r))
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1).T
        along = self.world(corners) @ axes / step
        first = along.min(axis=0)
        shape = np.ceil(along.max(axis=0) - first - 1e-6).astype(int) + 1
        affine = np.eye(4)
        affine[:3, :3] = axes * step
        affine[:3, 3] = axes @ (first * step)
        return Volume(np.broadcast_to(np.uint8(0), tuple(int(n) for n in shape)), affine)

    def cropped(self, box: Box) -> Volume:
        """Cut out a box of voxels (a view, no copy).

        >>> part = Volume(np.zeros((4, 4, 4)), np.eye(4)).cropped(Box((1, 1, 1), (3, 3, 2)))
        >>> part.shape, part.world((0, 0, 0)).tolist()
        ((2, 2, 1), [1.0, 1.0, 1.0])
        """
        affine = np.array(self.affine)
        affine[:3, 3] = self.world(box.start)
        return Volume(self.array[box.slices], affine)

    def padded(self, before: Sequence[int], after: Sequence[int], *, fill: float = 0.0) -> Volume:
        """Add voxels on both sides of each axis."""
        if min(*before, *after) < 0:
            raise UsageError(
                f"cannot pad by {tuple(before)} and {tuple(after)} voxels; the numbers must not be negative,"
                " use cropped"
            )
        widths = [*zip(before, after, strict=True), *[(0, 0)] * (self.array.ndim - 3)]
        affine = np.array(self.affine)
        affine[:3, 3] = self.world(-np.asarray(before))
        return Volume(np.pad(self.array, widths, constant_values=fill), affine)

    def pasted(self, part: Volume) -> Volume:
        """Return a copy in which a crop of this grid has been put back in its place."""
        start = np.round(self.index(part.world((0, 0, 0)))).astype(int)
        box = Box(
            tuple(int(s) for s in start), tuple(int(s + n) for s, n in zip(start, part.shape, strict=True))
        )
        fits = all(0 <= a and b <= n for a, b, n in zip(box.start, box.stop, self.shape, strict=True))
        if not fits or not self.cropped(box).same_grid(part, tolerance_mm=1e-2):
            raise InputRefused("the part is not a crop of this grid; resample it with on_grid first")
        if not np.can_cast(part.array.dtype, self.array.dtype, "same_kind"):
            raise InputRefused(
                f"a part of {part.array.dtype} values does not fit into an image of {self.array.dtype}"
                " values; convert one of them"
            )
        array = self.array.copy()
        array[box.slices] = part.array
        return self.with_array(array)

    def map_array(self, function: Callable[[Array], Array]) -> Volume:
        """Return `function(array)` on the same grid."""
        return self.with_array(function(self.array))

    # ---- bridges

    @classmethod
    def from_nibabel(cls, image: Any) -> Volume:
        """Take a nibabel image; integer data without scaling keeps its type, scaled data becomes float32."""
        if image.affine is None:
            raise InputRefused("the nibabel image has no affine, so its place in space is unknown")
        slope, inter = getattr(image.dataobj, "slope", 1.0), getattr(image.dataobj, "inter", 0.0)
        scaled = (slope, inter) != (1.0, 0.0)
        array = np.asarray(image.dataobj, np.float32) if scaled else np.asanyarray(image.dataobj)
        if array.ndim == 4 and array.shape[3] == 1:
            array = array[..., 0]
        return cls(array, image.affine)

    def to_nibabel(self) -> Any:
        """Return a nibabel NIfTI image that shares this array's memory where NIfTI has its type; others
        become 8 or 32 bits.
        """
        import nibabel

        image = nibabel.Nifti1Image(_storable(self.array), None)
        image.header.set_xyzt_units("mm", "sec")
        image.set_sform(self.affine, code=1)
        if self.is_orthogonal:
            image.set_qform(self.affine, code=1)
        else:
            image.header.set_zooms((*self.spacing_mm, *image.header.get_zooms()[3:]))
        return image

    @classmethod
    def from_sitk(cls, image: Any) -> Volume:
        """Take a three-dimensional SimpleITK image (LPS) as a read-only view of its memory, which the view
        keeps alive.

        Do not change the image in place afterwards (`image *= 2`): the view would point at memory that is
        gone.
        """
        if image.GetDimension() != 3:
            raise InputRefused(
                f"the SimpleITK image has {image.GetDimension()} dimensions; three are expected, take one"
                " frame of it"
            )
        view = np.asarray(SitkMemory(image))  # (z, y, x[, c])
        axes = (2, 1, 0, 3)[: view.ndim]
        affine = np.eye(4)
        affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
        affine[:3, 3] = image.GetOrigin()
        return cls(view.transpose(axes), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)

    def to_sitk(self) -> Any:
        """Return a SimpleITK image (LPS, a copy). A sheared grid has no such image: resample it first."""
        import SimpleITK as sitk

        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ self.affine
        direction = lps[:3, :3] / np.array(self.spacing_mm)
        if np.abs(direction.T @ direction - np.eye(3)).max() > 1e-4:
            raise InputRefused(
                "the grid is sheared and SimpleITK knows only right angles; resample it onto an orthogonal"
                " grid first"
            )
        array = self.array.astype(np.uint8) if self.array.dtype == bool else self.array
        axes = (2, 1, 0, 3)[: array.ndim]
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(axes)), isVector=array.ndim == 4)
        image.SetSpacing(self.spacing_mm)
        image.SetOrigin([float(v) for v in lps[:3, 3]])
        # the nearest exactly orthonormal matrix: ITK checks to 1e-6
        left, _, right = np.linalg.svd(direction)
        image.SetDirection([float(v) for v in (left @ right).ravel()])
        return image


@dataclass(frozen=True)
class Box:
    """A box of voxels, half-open: start <= index < stop."""

    start: tuple[int, ...]  # (x, y, z)
    stop: tuple[int, ...]  # (x, y, z)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Return the three slices that cut the box out of an array."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))


def box_around(mask: Volume, *, margin_mm: float = 0.0) -> Box:
    """Return the smallest box that holds every voxel of a mask, grown by a margin and cut at the grid.

    >>> box_around(sphere(radius_mm=10, spacing_mm=2.0)).start
    (1, 1, 1)
    """
    filled = np.asarray(mask.array) != 0
    if not filled.any():
        raise InputRefused("the mask is empty, so there is nothing to crop to")
    start, stop = [], []
    for axis, (n, step) in enumerate(zip(mask.shape, mask.spacing_mm, strict=True)):
        hit = np.flatnonzero(filled.any(axis=tuple(a for a in range(filled.ndim) if a != axis)))
        grow = int(np.ceil(margin_mm / step))
        start.append(max(0, int(hit[0]) - grow))
        stop.append(min(n, int(hit[-1]) + 1 + grow))
    return Box(tuple(start), tuple(stop))


def volume_ml(mask: Volume) -> float:
    """Return the volume of a mask in millilitres: voxels that are not zero, or the sum of a probability map.

    >>> round(volume_ml(sphere(radius_mm=10)), 1)
    4.2
    """
    if mask.array.dtype.kind == "f":
        return float(np.sum(mask.array, dtype=np.float64)) * mask.voxel_ml
    return float(np.count_nonzero(mask.array)) * mask.voxel_ml


def centroid_mm(mask: Volume) -> Floats:
    """Return the centre of mass of a three-dimensional mask in RAS mm; NaN for an empty one.

    >>> centroid_mm(sphere(radius_mm=4, centre_mm=(10.0, -20.0, 5.0))).round(6).tolist()
    [10.0, -20.0, 5.0]
    """
    index = np.argwhere(np.asarray(mask.array) != 0)
    return mask.world(index.mean(axis=0)) if len(index) else np.full(3, np.nan)


def sphere(
    *,
    radius_mm: float,
    spacing_mm: float | Sequence[float] = 0.5,
    centre_mm: Sequence[float] = (0.0, 0.0, 0.0),
) -> Volume:
    """Make a mask of a ball, for examples and tests."""
    step = np.broadcast_to(np.asarray(spacing_mm, np.float64), 3)
    half = np.ceil(radius_mm / step).astype(int) + 1
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = np.asarray(centre_mm) - half * step
    axes = np.ogrid[tuple(slice(-h, h + 1) for h in half)]
    distance2 = sum((a * s) ** 2 for a, s in zip(axes, step, strict=True))
    return Volume(np.asarray(distance2 <= radius_mm**2), affine)


def _storable(array: Array) -> Array:
    """Return the array in a number type that NIfTI readers know; shares memory where it is one already."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return array.view(np.uint8)
    if kind == "f" and size != 4:
        return array.astype(np.float32)
    if kind in "iu" and size == 8:
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        if low < -(2**31) or high >= 2**31:
            raise InputRefused(
                f"integers from {low} to {high} do not fit the 32 bits of a NIfTI file; use smaller labels"
            )
        return array.astype(np.int32)
    return array
