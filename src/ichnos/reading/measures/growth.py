"""Measure a haematoma for the growth model: size, shape, and how uneven its density is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from scipy import ndimage

from ichnos.prognosis.growth import GrowthInputs
from ichnos.reading.measures.blood import density_signs, otsu, sphericity
from ichnos.volume import Volume, box_around, volume_ml

DARK_HU = 10.0  # a part of the clot that is darker than its median by this much
# Standard deviation, in plane: takes most of the scanner's noise out of the texture of the clot.
_SMOOTH_MM = 1.5


def growth_inputs(
    ich: Volume,
    ivh: Volume,
    hu: Volume,
    *,
    facts: Mapping[str, object] | None = None,
    forecast_ml: float | None = None,
) -> GrowthInputs:
    """Measure a haematoma for the model: masks and HU on one RAS grid, the ICH mask not empty.

    `facts` may hold `onset_to_ct_h` and `anticoagulation` (0 or 1).
    """
    signs = density_signs(hu, ich)
    known = facts or {}
    return GrowthInputs(
        ich_ml=volume_ml(ich),
        ivh_ml=volume_ml(ivh),
        sphericity=sphericity(ich),
        roundness=roundness(ich),
        mean_hu=signs.mean_hu,
        **asdict(_texture(hu, ich)),
        black_hole=float(bool(signs.black_hole)),
        blend=float(bool(signs.blend)),
        islands=float(min(signs.island_count, 5)),
        onset_to_ct_h=_number(known.get("onset_to_ct_h")),
        anticoagulated=_number(known.get("anticoagulation")),
        forecast_ml=forecast_ml,
    )


def _number(fact: object) -> float | None:
    return float(fact) if isinstance(fact, (int, float)) and math.isfinite(float(fact)) else None


@dataclass(frozen=True)
class _Texture:
    """How uneven the density of a clot's core is; fields of `GrowthInputs`."""

    spread_hu: float
    depth_hu: float
    gap_hu: float
    dark_share: float


def _texture(hu: Volume, ich: Volume) -> _Texture:
    part = box_around(ich, margin_mm=4.0)
    inside = np.asarray(ich.cropped(part).array).astype(bool)
    step = ich.spacing_mm
    blur = (_SMOOTH_MM / step[0], _SMOOTH_MM / step[1], 0)
    values = np.where(inside, np.asarray(hu.cropped(part).array, np.float32), 0)
    smooth = ndimage.gaussian_filter(values, blur) / np.maximum(
        ndimage.gaussian_filter(inside.astype(np.float32), blur), 1e-6
    )
    rim = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=step)[1:-1, 1:-1, 1:-1]
    core = smooth[rim > min(2.0, 0.5 * float(rim.max()))]
    least, low, middle, high = np.percentile(core, (2, 10, 50, 90))
    dark = core < otsu(core)
    gap = float(core[~dark].mean() - core[dark].mean()) if dark.any() and not dark.all() else 0.0
    return _Texture(float(high - low), float(middle - least), gap, float(np.mean(core < middle - DARK_HU)))


def roundness(mask: Volume) -> float:
    """Return 4 pi area / perimeter squared of a mask's axial outlines, weighted by their area; NaN when
    empty.

    >>> from ichnos.volume import sphere
    >>> round(roundness(sphere(radius_mm=15, spacing_mm=1.0)), 1)
    1.0
    """
    if not np.asarray(mask.array).any():
        return math.nan
    part = np.asarray(mask.cropped(box_around(mask)).array, np.float32)
    step = mask.spacing_mm[:2]
    soft = ndimage.gaussian_filter(np.pad(part, ((4, 4), (4, 4), (0, 0))), (1.0 / step[0], 1.0 / step[1], 0))
    edge = np.hypot(*np.gradient(soft, *step, axis=(0, 1)))
    pixel_mm2 = step[0] * step[1]
    area, perimeter = soft.sum(axis=(0, 1)) * pixel_mm2, edge.sum(axis=(0, 1)) * pixel_mm2  # coarea formula
    kept = area > 0
    return float(np.sum(4 * np.pi * area[kept] ** 2 / perimeter[kept] ** 2) / area.sum())
