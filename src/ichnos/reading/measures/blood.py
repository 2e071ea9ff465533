"""Measures of a haematoma from its mask and the HU under it: ABC/2, shape, and the non-contrast signs that
go with growth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ichnos.arrays import Mask
from ichnos.volume import Volume, box_around

BLACK_HOLE_HU = 28.0  # Li 2016: an encapsulated dark area at least this much darker than the clot
SWIRL_HU = 40.0  # Selariu 2012: an area inside the clot as dark as brain or darker
BLEND_HU = 18.0  # Li 2015: two parts side by side that differ by at least this much
_SIGN_MIN_ML = 0.1  # a part smaller than this is noise, not a sign


@dataclass(frozen=True)
class DensitySigns:
    """Signs inside the largest clot; None where the clot is too small to tell."""

    mean_hu: float
    sd_hu: float
    black_hole: bool | None
    blend: bool | None
    swirl: bool | None
    island_count: int  # separate small clots around the largest


def abc2_ml(mask: Volume) -> float:
    """Return the ABC/2 estimate of a clot in mL, as a reader measures it; NaN for an empty mask.

    A: longest diameter on the axial slice with the largest area; B: longest diameter at right angles to it on
    the same slice; C: sum of slice steps, each slice counted fully from 75 % of the largest area, half from
    25 %, else not (Kothari 1996). The mask must have RAS axes.

    >>> from ichnos.volume import sphere
    >>> ball = sphere(radius_mm=15, spacing_mm=(1, 1, 5))  # 14.1 mL: half-counted slices cost volume
    >>> round(abc2_ml(ball), 1)
    9.6
    """
    areas = np.asarray(mask.array).astype(bool).sum(axis=(0, 1))
    if not areas.any():
        return float("nan")
    best = int(np.argmax(areas))
    points = np.argwhere(mask.array[:, :, best]) * np.array(mask.spacing_mm[:2])
    a, b = _diameters(points, max(mask.spacing_mm[:2]))
    share = areas / areas[best]
    c = mask.spacing_mm[2] * float(np.sum(share >= 0.75) + 0.5 * np.sum((share >= 0.25) & (share < 0.75)))
    return a * b * c / 2000.0


def _diameters(points_mm: npt.NDArray[np.float64], pixel_mm: float) -> tuple[float, float]:
    """Return the longest diameter of a planar point set and the extent at right angles to it, a pixel's
    width included, in mm.
    """
    from scipy.spatial import ConvexHull, QhullError

    try:
        hull = points_mm[ConvexHull(points_mm).vertices]
    except (QhullError, ValueError):
        hull = points_mm  # a line or a point
    difference = hull[:, None] - hull[None]
    distance = np.linalg.norm(difference, axis=2)
    i, j = np.unravel_index(int(np.argmax(distance)), distance.shape)
    along = difference[i, j] / max(distance[i, j], 1e-9)
    across = hull @ np.array([-along[1], along[0]])
    return float(distance[i, j]) + pixel_mm, float(np.ptp(across)) + pixel_mm


def density_signs(hu: Volume, mask: Volume) -> DensitySigns:
    """Describe the density of a clot (mask and HU on one RAS grid); the mask must not be empty.

    Two levels of density are separated by Otsu's threshold on smoothed HU inside the largest clot, one voxel
    off its edge. A darker part wholly inside is a black hole, one that reaches the edge is a blend, when the
    difference of the means reaches the published HU. A swirl is any part of the core as dark as brain,
    whatever its shape.
    """
    part = box_around(mask, margin_mm=3.0)
    inside = np.asarray(mask.cropped(part).array).astype(bool)
    values = np.asarray(hu.cropped(part).array, np.float32)
    labels, count = ndimage.label(inside)
    sizes = np.bincount(labels.ravel())[1:]
    clot = labels == 1 + int(np.argmax(sizes))
    islands = int(np.sum((sizes * mask.voxel_ml >= _SIGN_MIN_ML) & (sizes < sizes.max()))) if count > 1 else 0
    black_hole, blend, swirl = _dark_part(values, clot, mask)
    return DensitySigns(
        float(values[inside].mean()), float(values[inside].std()), black_hole, blend, swirl, islands
    )


def _dark_part(
    values: npt.NDArray[np.float32], clot: Mask, grid: Volume
) -> tuple[bool | None, bool | None, bool | None]:
    smooth = ndimage.gaussian_filter(values, [1.0 / step for step in grid.spacing_mm])
    core = ndimage.binary_erosion(clot, iterations=1, border_value=0)
    if core.sum() * grid.voxel_ml < 1.0:
        return None, None, None
    cut = otsu(smooth[core])
    dark, bright = core & (smooth < cut), core & (smooth >= cut)
    labels, count = ndimage.label(dark)
    swirl = bool(np.count_nonzero(core & (smooth < SWIRL_HU)) * grid.voxel_ml >= _SIGN_MIN_ML)
    black_hole = blend = False
    rim = ndimage.binary_dilation(clot & ~core, iterations=1)
    for label in range(1, count + 1):
        part = labels == label
        if part.sum() * grid.voxel_ml < _SIGN_MIN_ML or not bright.any():
            continue
        difference = float(smooth[bright].mean() - smooth[part].mean())
        touches = bool((part & rim).any())
        black_hole |= not touches and difference >= BLACK_HOLE_HU
        blend |= touches and difference >= BLEND_HU and part.sum() >= 0.1 * clot.sum()
    return bool(black_hole), bool(blend), swirl


def otsu(values: npt.NDArray[np.float32]) -> float:
    """Return the threshold between two classes with the greatest variance between them.

    >>> otsu(np.array([10.0, 11, 12, 60, 61, 62], np.float32)) < 60
    True
    """
    counts, edges = np.histogram(values, bins=64)
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sum_below = np.cumsum(counts * middle)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sum_below / below - (sum_below[-1] - sum_below) / above) ** 2
    return float(edges[1:][int(np.argmax(np.nan_to_num(between, nan=-1.0)))])  # NaN where a class is empty


def sphericity(mask: Volume) -> float:
    """Return (surface of a ball of the same volume) / (surface), 1 for a ball; by marching faces on a
    smoothed mask. NaN when empty.
    """
    filled = np.asarray(mask.array).astype(bool)
    if not filled.any():
        return float("nan")
    part = mask.cropped(box_around(mask))
    soft = ndimage.gaussian_filter(
        np.pad(np.asarray(part.array, np.float32), 3), [1.0 / step for step in mask.spacing_mm]
    )
    gradient = np.gradient(soft, *mask.spacing_mm)
    surface_mm2 = float(np.sqrt(sum(g**2 for g in gradient)).sum()) * mask.voxel_ml * 1000  # coarea formula
    volume_mm3 = float(soft.sum()) * mask.voxel_ml * 1000
    return float(np.pi ** (1 / 3) * (6 * volume_mm3) ** (2 / 3) / surface_mm2)
