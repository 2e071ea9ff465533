"""Gates: what a network does when a scan is changed in ways that must not matter, or that it must notice.

They foretell behaviour on real scans better than Dice on simulated ones. Each takes a reader (Scan -> Masks),
so that any model can be tried, on simulated scans or on a group's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import ndimage

from ichnos.errors import InputRefused
from ichnos.inference import Prediction
from ichnos.reading.masks import Masks, consistent_masks
from ichnos.scan import Scan
from ichnos.volume import Volume, volume_ml

Reader = Callable[[Scan], Masks]

CLOTS_ML = (1.0, 3.0, 10.0, 30.0)
SHIFTS_HU = (-8.0, -4.0, 0.0, 4.0, 8.0)
_BLUR_MM = 0.9


def reader_of(predictor: Callable[[Scan], Prediction]) -> Reader:
    """Return the function that reads masks with a Predictor and nothing else."""

    def read(scan: Scan) -> Masks:
        prediction = predictor(scan)
        return consistent_masks(prediction, prediction.atlas_coordinates())

    return read


def blood_ml(masks: Masks) -> float:
    """Return all blood that was found, mL."""
    return volume_ml(masks.ich) + volume_ml(masks.ivh)


def dice(found: Volume, truth: Volume) -> float:
    """Return the overlap of two masks on one grid; NaN where both are empty."""
    a, b = np.asarray(found.array).astype(bool), np.asarray(truth.array).astype(bool)
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else float("nan")


def with_clot(scan: Scan, brain: Volume, *, ml: float, rng: np.random.Generator) -> tuple[Scan, Volume]:
    """Paste a clot into a scan without blood; return the scan and the clot's mask (RAS).

    The clot is an uneven ball of 55 to 72 HU in the brain, at least its own radius under the surface where
    there is room, blurred as the scan is and with the grain of the tissue that it replaces. `brain` in RAS on
    the scan's grid.
    """
    ras = scan.volume.reoriented("RAS")
    radius_mm = (ml * 1000 * 3 / 4 / np.pi) ** (1 / 3)
    spacing = np.asarray(ras.spacing_mm)
    inside = np.asarray(brain.array).astype(bool)
    depth = ndimage.distance_transform_edt(inside[::4, ::4], sampling=spacing * [4, 4, 1])
    deep = np.argwhere(depth > min(radius_mm + 1, 0.8 * depth.max())) * [4, 4, 1]
    if len(deep) == 0:
        raise InputRefused("there is no brain to paste a clot into")
    centre = deep[rng.integers(len(deep))]
    box = tuple(
        slice(max(0, int(c - 1.9 * radius_mm / s) - 2), min(n, int(c + 1.9 * radius_mm / s) + 3))
        for c, s, n in zip(centre, spacing, ras.shape, strict=True)
    )
    at = np.meshgrid(
        *[(np.arange(b.start, b.stop) - c) * s for b, c, s in zip(box, centre, spacing, strict=True)],
        indexing="ij",
    )
    squeeze = np.exp(rng.normal(0, 0.15, 3))
    distance = np.sqrt(
        sum((a * q) ** 2 for a, q in zip(at, squeeze / np.prod(squeeze) ** (1 / 3), strict=True))
    )
    unrest = ndimage.gaussian_filter(
        rng.standard_normal(distance.shape), [0.35 * radius_mm / s for s in spacing]
    )
    distance = distance * (1 + 0.12 * unrest / (unrest.std() + 1e-9))
    wanted = max(1, round(ml / ras.voxel_ml))
    order = np.where(inside[box], distance, np.inf)
    clot = order <= np.partition(order.ravel(), wanted - 1)[wanted - 1]
    clot &= np.isfinite(order)
    share = ndimage.gaussian_filter(clot.astype(np.float32), [_BLUR_MM / s for s in spacing])
    hu = np.array(ras.array, np.float32)
    part = hu[box]
    grain = part - ndimage.gaussian_filter(part, [2.0 / s for s in spacing])
    blood = rng.uniform(55, 72) + np.where(np.abs(grain) < 15, grain, 0)
    hu[box] = part * (1 - share) + blood * share
    mask = np.zeros(ras.shape, bool)
    mask[box] = clot
    return _with_hu(scan, ras, hu), ras.with_array(mask)


def shifted(scan: Scan, *, hu: float) -> Scan:
    """Return the scan as a scanner with another zero would have made it."""
    ras = scan.volume.reoriented("RAS")
    return _with_hu(scan, ras, np.asarray(ras.array, np.float32) + np.float32(hu))


def _with_hu(scan: Scan, ras: Volume, hu: np.ndarray) -> Scan:
    volume = ras.with_array(hu.round().clip(-1024, 3071).astype(np.int16))
    return replace(scan, volume=volume.reoriented(scan.volume.orientation), source=None, quality=None)


def deviation_percent(volumes_ml: dict[float, float], reference: float) -> float:
    """Return the greatest deviation from the volume at the reference, per cent of it; NaN where that is 0.

    >>> deviation_percent({-8.0: 9.0, 0.0: 10.0, 8.0: 10.5}, 0.0)
    10.0
    """
    base = volumes_ml[reference]
    return 100 * max(abs(v - base) for v in volumes_ml.values()) / base if base > 0 else float("nan")
