"""What a classifier sees of a haematoma: the published slices, or a region in which sizes stay what they
are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ichnos.arrays import Array, Floats32, Mask, largest_component
from ichnos.errors import InputRefused
from ichnos.inference.channels import windows
from ichnos.volume import Box, Volume, box_around, centroid_mm

PUBLISHED_SPACING_MM = (0.5, 0.5, 5.0)
REGION_SPACING_MM, REGION_SHAPE = (2.0, 2.0, 4.0), (48, 48, 24)  # 96 x 96 x 96 mm
WINDOW_90_45_HU = (0.0, 90.0)
_MARGIN_MM = 10.0
REGION_WINDOWS_HU = ((0.0, 80.0), (30.0, 90.0))


@dataclass(frozen=True, eq=False)
class SliceCrop:
    """One published slice: the window 0 to 90 HU as -1..1, and the haematoma in it."""

    image: Floats32  # (size, size), rows from front to back, columns from left to right
    mask: Floats32  # the same, 0..1


def published_crops(hu: Volume, ich: Volume, *, size: int = 224) -> tuple[SliceCrop, ...]:
    """Return three slices around the largest area as the published recipe crops them.

    0.5 x 0.5 x 5 mm, the tight box of the largest component, window 0 to 90 HU (width 90, level 45),
    stretched to the network's size: how large a haematoma is does not reach the network. Slices beyond the
    box repeat its edge. Masks and HU in RAS on one grid.
    """
    inside, values = _published_box(hu, ich)
    middle = int(np.argmax(inside.sum(axis=(0, 1))))
    low, high = WINDOW_90_45_HU
    scaled = np.clip((values - low) * (2 / (high - low)) - 1, -1, 1).astype(np.float32)
    chosen = [int(np.clip(middle + k, 0, scaled.shape[2] - 1)) for k in (-1, 0, 1)]
    return tuple(
        SliceCrop(_stretched(scaled[:, :, k], size), _stretched(inside[:, :, k].astype(np.float32), size))
        for k in chosen
    )


def _published_box(hu: Volume, ich: Volume) -> tuple[Mask, Array]:
    """Return the largest component and the HU in its tight box, on the published grid."""
    near = box_around(ich, margin_mm=_MARGIN_MM)
    # all slices: where the 5 mm ones lie is the scan's own
    slab = Box((*near.start[:2], 0), (*near.stop[:2], ich.shape[2]))
    mask, image = (
        _resampled(v.cropped(slab), fill)
        for v, fill in ((ich.astype(np.float32), 0.0), (hu.astype(np.float32), -1000.0))
    )
    part = largest_component(mask.array > 0.5)
    if not part.any():
        raise InputRefused(
            "the haematoma vanishes on the published grid of 0.5 x 0.5 x 5 mm; it has no slice to be"
            " classified by"
        )
    box = box_around(mask.with_array(part))
    return part[box.slices], image.array[box.slices]


def published_slices(hu: Volume, ich: Volume, *, size: int = 224) -> tuple[Floats32, ...]:
    """Return the published slices as a network takes them, each (3, size, size) with equal channels."""
    return tuple(np.repeat(crop.image[None], 3, axis=0) for crop in published_crops(hu, ich, size=size))


def haematoma_region(
    hu: Volume,
    ich: Volume,
    ivh: Volume,
    *,
    spacing_mm: tuple[float, float, float] = REGION_SPACING_MM,
    shape: tuple[int, int, int] = REGION_SHAPE,
    windows_hu: Sequence[tuple[float, float]] = REGION_WINDOWS_HU,
) -> Floats32:
    """Return a region of fixed size in mm around the haematoma: HU windows, then ICH and IVH as channels (-1
    absent, +1 present).

    Masks and HU in RAS on one grid; what lies outside the scan is air.
    """
    grid = roi_grid(ich, spacing_mm=spacing_mm, shape=shape)
    values = hu.astype(np.float32).on_grid(grid, fill=-1000.0).array
    masks = [v.astype(np.float32).on_grid(grid).array * 2 - 1 for v in (ich, ivh)]
    return np.concatenate([windows(values, tuple(windows_hu)), np.stack(masks)]).astype(np.float32)


def roi_grid(ich: Volume, *, spacing_mm: tuple[float, float, float], shape: tuple[int, int, int]) -> Volume:
    """Return an empty grid of so many voxels around the haematoma's centre, along the scan's own axes."""
    affine = np.array(ich.affine)
    affine[:3, :3] = ich.affine[:3, :3] * (np.array(spacing_mm) / np.array(ich.spacing_mm))
    affine[:3, 3] = centroid_mm(ich) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Volume(np.broadcast_to(np.uint8(0), shape), affine)


def _resampled(volume: Volume, fill: float) -> Volume:
    return volume.resampled(PUBLISHED_SPACING_MM, fill=fill)


def _stretched(plane: Floats32, size: int) -> Floats32:
    """Resample a slice (x, y) to a square image (y from front to back, x)."""
    import torch

    upright = torch.from_numpy(np.ascontiguousarray(plane.T[::-1], np.float32))[None, None]
    out = torch.nn.functional.interpolate(
        upright, size=(size, size), mode="bilinear", align_corners=False, antialias=True
    )
    return np.asarray(out[0, 0].numpy(), np.float32)
