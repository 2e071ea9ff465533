"""The scan thinned out for the checks: what is air, body, skull and the space it encloses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichnos.arrays import Array, Floats, Floats32, Mask, largest_component
from ichnos.quality.slices import slice_axis
from ichnos.scan import FEWEST_SLICES, Scan

_BRIDGE_VOXELS = 8  # of about 2 mm, each way
_AIR_SHARE = 0.05  # a frontal sinus may lie behind an opening of the skull, a nose may not
_WORK_MM = 2.0  # the checks look at voxels of about this size
_CROSS = np.zeros((3, 3, 3), bool)  # a voxel and its neighbours in the plane
_CROSS[:, 1, 1] = _CROSS[1, :, 1] = True


@dataclass(frozen=True, eq=False)
class HeadView:
    """The scan thinned out for the checks: (right, front, head) axes, about 2 mm in plane, one plane per
    slice (or 2.5 mm).
    """

    hu: Array  # (x, y, z) float32
    step_mm: tuple[float, float]  # in plane
    depth_mm: Floats  # (z,): place of each plane, feet to head
    frame: Mask  # (x, y, z): pixels that were acquired (a tilted stack fills its grid only in part)
    body: Mask
    skull: Mask  # denser than 250 HU, within the body, small openings closed in plane
    inside: Mask  # enclosed by skull in plane, soft
    air: Mask  # acquired, outside the body

    @property
    def pixel_cm2(self) -> float:
        return self.step_mm[0] * self.step_mm[1] / 100.0

    @property
    def slab_mm(self) -> Floats:
        """Thickness that each plane stands for."""
        return np.abs(np.gradient(self.depth_mm))

    @property
    def inside_cm2(self) -> Floats:
        """Area enclosed by the skull on each plane."""
        return np.asarray(self.inside.sum(axis=(0, 1)) * self.pixel_cm2, np.float64)


def head_view(scan: Scan) -> HeadView:
    """Thin a scan out for the checks and find body, skull and the space it encloses."""
    from scipy import ndimage

    volume = scan.volume.reoriented("RAS")
    x_mm, y_mm, z_mm = volume.spacing_mm
    thin = [max(1, round(_WORK_MM / step)) for step in (x_mm, y_mm)]
    flipped = bool(scan.volume.affine[2, slice_axis(scan)] < 0)
    planes = _planes(scan, volume.shape[2], z_mm, flipped=flipped)

    def thinned(array: Array) -> Array:
        return scan.volume.with_array(array).reoriented("RAS").array[:: thin[0], :: thin[1]][..., planes]

    hu = thinned(scan.hu).astype(np.float32)
    step = (x_mm * thin[0], y_mm * thin[1])
    body = largest_component(ndimage.binary_opening(hu > -300, _CROSS))
    skull, inside = _skull_and_inside(hu, body)
    frame = _acquired(scan, thinned, hu.shape)
    air = frame & ~ndimage.binary_dilation(body, _CROSS, iterations=2)
    return HeadView(hu, step, planes.astype(np.float64) * z_mm, frame, body, skull, inside, air)


def _skull_and_inside(hu: Floats32, body: Mask) -> tuple[Mask, Mask]:
    """Return the skull, its small gaps closed, and the soft tissue that it encloses."""
    from scipy import ndimage

    bone = (hu > 250) & body
    skull = ndimage.binary_closing(bone, _CROSS, iterations=3)
    filled = _bridged(skull, _filled(skull), hu, _CROSS)
    soft = filled & ~bone & (hu > -60) & (hu < 150)
    return skull, largest_component(ndimage.binary_opening(soft, _CROSS, iterations=2))


def _bridged(skull: Mask, filled: Mask, hu: Array, cross: Mask) -> Mask:
    """Fill the planes in which a craniotomy, a fracture or an orbit leaves the skull open, where no air lies
    behind the opening.

    A gap of up to 3 cm is bridged; where that does not close the skull either, its convex hull does.
    """
    from scipy import ndimage

    n = _BRIDGE_VOXELS
    padded = np.pad(skull, [(n, n), (n, n), (0, 0)])
    wide = _filled(ndimage.binary_closing(padded, cross, iterations=n)[n:-n, n:-n])
    out = filled.copy()
    for k in range(skull.shape[2]):
        for whole in (wide[..., k], convex_hull(skull[..., k])):
            added = whole & ~out[..., k]
            if (
                out[..., k].sum() < 0.7 * whole.sum()
                and np.count_nonzero(hu[..., k][added] < -150) <= _AIR_SHARE * added.sum()
            ):
                out[..., k] |= whole
    return out


def convex_hull(plane: Mask) -> Mask:
    """Return the convex hull of a plane's mask; the mask itself where that has no area."""
    from scipy.spatial import ConvexHull, QhullError

    points = np.argwhere(plane)
    try:
        edges = ConvexHull(points).equations if len(points) > 3 else np.empty((0, 3))
    except QhullError:
        return plane
    if not len(edges):
        return plane
    x, y = np.indices(plane.shape)
    inside = np.ones(plane.shape, bool)
    for a, b, c in edges:
        inside &= a * x + b * y + c <= 1e-9
    return inside


def _planes(scan: Scan, count: int, spacing_mm: float, *, flipped: bool) -> npt.NDArray[np.intp]:
    """Return which planes of the RAS grid to look at: the middle of each source slice, or every 2.5 mm."""
    if scan.source is not None and len(scan.source.slices) > 1 and spacing_mm < 2.5:
        at = [scan.volume.index(s.affine[:3, 3])[slice_axis(scan)] for s in scan.source.slices]
        found = np.clip(np.round(at), 0, count - 1).astype(np.intp)
        planes = np.unique(count - 1 - found if flipped else found)
        if len(planes) >= FEWEST_SLICES:
            return np.asarray(planes[:: max(1, round(2.5 * len(planes) / (count * spacing_mm)))], np.intp)
    return np.arange(0, count, max(1, round(2.5 / spacing_mm)))


def _acquired(scan: Scan, thinned: Callable[[Array], Array], shape: tuple[int, ...]) -> Mask:
    """Return where the thinned grid holds acquired pixels; everywhere for a scan without tilt."""
    volume = scan.volume
    if scan.source is None or len(scan.source.slices) < 2 or scan.source.slices[0].shape == volume.shape[:2]:
        return np.broadcast_to(np.True_, shape)
    corners = volume.index(np.array([s.affine[:3, 3] for s in scan.source.slices]))
    nearest = np.abs(corners[:, 2, None] - np.arange(volume.shape[2])).argmin(axis=0)  # slice of each plane
    x, y, plane = (
        thinned(np.broadcast_to(ramp, volume.shape))
        for ramp in np.ogrid[tuple(slice(n) for n in volume.shape)]
    )
    first = np.round(corners[nearest, :2]).astype(np.intp)[plane]  # (x, y, z, 2)
    columns, rows = scan.source.slices[0].shape
    return np.asarray(
        (x >= first[..., 0])
        & (x < first[..., 0] + columns)
        & (y >= first[..., 1])
        & (y < first[..., 1] + rows)
    )


def _filled(mask: Mask) -> Mask:
    """Fill what a mask encloses, plane by plane."""
    from scipy import ndimage

    return np.stack([ndimage.binary_fill_holes(mask[..., k]) for k in range(mask.shape[2])], axis=2)
