"""What a registration looks at: heads on a coarse even grid, with the grey values cut to where the
information is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ichnos.errors import InputRefused
from ichnos.volume import Array, Volume

ImageContrast = Literal["ct", "mri"]
CT_WINDOW_HU = (-20.0, 100.0)  # liquor, grey, white, blood; below it air and fat, above it bone
FRESH_BLOOD_HU = 50.0


def contrast_of(image: Volume) -> ImageContrast:
    """Say whether an image is in HU (air far below zero) or an MRI.

    >>> contrast_of(Volume(np.full((4, 4, 4), -1000.0), np.eye(4)))
    'ct'
    """
    return "ct" if float(np.percentile(image.array, 0.5)) < -200 else "mri"


@dataclass(frozen=True, eq=False)
class View:
    """An image as a metric sees it."""

    image: Volume  # float32 in [0, 1], even voxels, RAS
    head: Volume  # bool: where there is a head, or a brain if the skull has been taken off
    contrast: ImageContrast


def view(image: Volume, *, spacing_mm: float, contrast: ImageContrast | None = None) -> View:
    """Cut the grey values to where the information is, and resample to even voxels."""
    from scipy import ndimage

    contrast = contrast or contrast_of(image)
    checked_for_registration(image)
    air = -1000.0 if contrast == "ct" else 0.0
    source = image.reoriented("RAS").astype(np.float32)
    blur = [max(0.0, 0.4 * (spacing_mm / own - 1)) for own in source.spacing_mm]
    array = np.clip(source.array, *CT_WINDOW_HU) if contrast == "ct" else source.array
    if max(blur) > 0:
        array = ndimage.gaussian_filter(array, blur)
    even = source.with_array(array).resampled(spacing_mm, fill=CT_WINDOW_HU[0] if contrast == "ct" else air)
    array = _unit(even.array, contrast)
    return View(even.with_array(array), even.with_array(_head(array, contrast)), contrast)


def checked_for_registration(image: Volume) -> None:
    """Refuse an image that no registration can use."""
    if image.array.ndim != 3:
        raise InputRefused(
            f"an image of shape {image.array.shape} cannot be registered; give one three-dimensional image,"
            " such as the mean b0"
        )
    if not np.isfinite(image.array).all():
        raise InputRefused("the image holds values that are not finite; write it again without NaN")
    if float(image.array.max()) == float(image.array.min()):
        raise InputRefused(
            f"every voxel of the image is {float(image.array.min()):g}: there is nothing to register"
        )
    extent = np.array(image.shape) * np.array(image.spacing_mm)
    if min(image.shape) < 3 or extent.min() < 15:
        raise InputRefused(
            f"the image has {image.shape} voxels over {extent.round().astype(int).tolist()} mm: "
            "at least three slices and 15 mm are needed to place it"
        )


def _unit(array: Array, contrast: ImageContrast) -> Array:
    if contrast == "ct":
        low, high = CT_WINDOW_HU
    else:
        inside = array[array > 0.02 * float(array.max())]
        low, high = 0.0, float(np.percentile(inside, 99.0)) if inside.size else 1.0
    unit: Array = np.clip((array - low) / (high - low), 0, 1).astype(np.float32)
    return unit


def _head(array: Array, contrast: ImageContrast) -> Array:
    """Return the largest body, holes filled; a threshold between air and tissue."""
    from scipy import ndimage

    level = 0.05 if contrast == "ct" else 0.12
    body: Array = ndimage.binary_opening(ndimage.gaussian_filter(array, 1.0) > level)
    labels, count = ndimage.label(body)
    if count == 0:
        return body
    sizes = np.bincount(labels.ravel())[1:]
    largest = labels == 1 + int(sizes.argmax())
    return np.stack([ndimage.binary_fill_holes(largest[:, :, k]) for k in range(largest.shape[2])], axis=2)
