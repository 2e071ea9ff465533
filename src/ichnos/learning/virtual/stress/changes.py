"""Changes of a scan: a pasted clot, another zero of HU; and a reader of masks to see what they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import ndimage

from ichnos.arrays import Floats, Floats32, Mask
from ichnos.errors import InputRefused
from ichnos.inference import Prediction
from ichnos.reading.masks import Masks, consistent_masks
from ichnos.scan import Scan
from ichnos.volume import Volume

MaskReader = Callable[[Scan], Masks]
_Box = tuple[slice, slice, slice]
_Voxel = tuple[int, int, int]

CLOTS_ML = (1.0, 3.0, 10.0, 30.0)
SHIFTS_HU = (-8.0, -4.0, 0.0, 4.0, 8.0)
_BLUR_MM = 0.9
_CLOT_HU = (55, 72)  # of acute blood


def mask_reader(predictor: Callable[[Scan], Prediction]) -> MaskReader:
    """Return the function that reads masks with a Predictor and nothing else."""

    def masks_of(scan: Scan) -> Masks:
        prediction = predictor(scan)
        return consistent_masks(prediction, prediction.atlas_coordinates())

    return masks_of


def with_clot(scan: Scan, brain: Volume, *, ml: float, rng: np.random.Generator) -> tuple[Scan, Volume]:
    """Paste a clot into a scan without blood; return the scan and the clot's mask (RAS).

    The clot is an uneven ball of 55 to 72 HU in the brain, at least its own radius under the surface where
    there is room, blurred as the scan is and with the grain of the tissue that it replaces. `brain` in RAS
    on the scan's grid.
    """
    ras = scan.volume.reoriented("RAS")
    inside = np.asarray(brain.array).astype(bool)
    radius_mm = (ml * 1000 * 3 / 4 / np.pi) ** (1 / 3)
    centre = _clot_centre(inside, ras, radius_mm, rng)
    box = _box_around(centre, ras, 1.9 * radius_mm)
    distance = _uneven_distance(box, centre, ras, radius_mm, rng)
    clot = _nearest_voxels(np.where(inside[box], distance, np.inf), max(1, round(ml / ras.voxel_ml)))
    hu = np.array(ras.array, np.float32)
    hu[box] = _clotted(hu[box], clot, ras, rng)
    mask = np.zeros(ras.shape, bool)
    mask[box] = clot
    return _with_hu(scan, ras, hu), ras.with_array(mask)


def _clot_centre(inside: Mask, ras: Volume, radius_mm: float, rng: np.random.Generator) -> _Voxel:
    """Choose a voxel at least the clot's radius under the brain's surface, or as deep as there is room."""
    spacing = np.asarray(ras.spacing_mm)
    depth = ndimage.distance_transform_edt(inside[::4, ::4], sampling=spacing * [4, 4, 1])
    deep = np.argwhere(depth > min(radius_mm + 1, 0.8 * depth.max())) * [4, 4, 1]
    if len(deep) == 0:
        raise InputRefused("there is no brain to paste a clot into")
    x, y, z = (int(c) for c in deep[rng.integers(len(deep))])
    return x, y, z


def _box_around(centre: _Voxel, ras: Volume, reach_mm: float) -> _Box:
    x, y, z = (
        slice(max(0, int(c - reach_mm / s) - 2), min(n, int(c + reach_mm / s) + 3))
        for c, s, n in zip(centre, ras.spacing_mm, ras.shape, strict=True)
    )
    return x, y, z


def _uneven_distance(
    box: _Box, centre: _Voxel, ras: Volume, radius_mm: float, rng: np.random.Generator
) -> Floats:
    """Return each voxel's distance from the centre, squeezed along the axes and roughened, mm."""
    spacing = np.asarray(ras.spacing_mm)
    offsets = np.meshgrid(
        *[(np.arange(b.start, b.stop) - c) * s for b, c, s in zip(box, centre, spacing, strict=True)],
        indexing="ij",
    )
    squeeze = np.exp(rng.normal(0, 0.15, 3))
    factors = squeeze / np.prod(squeeze) ** (1 / 3)
    distance = np.sqrt(sum((a * q) ** 2 for a, q in zip(offsets, factors, strict=True)))
    texture = ndimage.gaussian_filter(
        rng.standard_normal(distance.shape), [0.35 * radius_mm / s for s in spacing]
    )
    uneven: Floats = distance * (1 + 0.12 * texture / (texture.std() + 1e-9))
    return uneven


def _nearest_voxels(distance: Floats, count: int) -> Mask:
    """Return the mask of so many voxels of the least finite distance."""
    nearest: Mask = (distance <= np.partition(distance.ravel(), count - 1)[count - 1]) & np.isfinite(distance)
    return nearest


def _clotted(part: Floats32, clot: Mask, ras: Volume, rng: np.random.Generator) -> Floats32:
    """Replace tissue by blood, blurred at the border, keeping the tissue's grain."""
    share = ndimage.gaussian_filter(clot.astype(np.float32), [_BLUR_MM / s for s in ras.spacing_mm])
    grain = part - ndimage.gaussian_filter(part, [2.0 / s for s in ras.spacing_mm])
    blood = rng.uniform(*_CLOT_HU) + np.where(np.abs(grain) < 15, grain, 0)
    mixed: Floats32 = part * (1 - share) + blood * share
    return mixed


def shifted(scan: Scan, *, hu: float) -> Scan:
    """Return the scan as a scanner with another zero of HU would give it.

    >>> from ichnos.scan import Acquisition
    >>> scan = Scan(Volume(np.full((2, 2, 2), 30, np.int16), np.eye(4)), Acquisition())
    >>> int(shifted(scan, hu=-8).volume.array.max())
    22
    """
    ras = scan.volume.reoriented("RAS")
    return _with_hu(scan, ras, np.asarray(ras.array, np.float32) + np.float32(hu))


def _with_hu(scan: Scan, ras: Volume, hu: Floats32) -> Scan:
    volume = ras.with_array(hu.round().clip(-1024, 3071).astype(np.int16))
    return replace(scan, volume=volume.reoriented(scan.volume.orientation), source=None, quality=None)
