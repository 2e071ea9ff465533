"""What a network sees of a scan: HU windows as channels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ichnos.models import Preprocessing

SOFT_HU = (-60.0, 130.0)  # fluid, brain and blood, on any scanner's zero
CORE_MM = 9.0  # deeper than scalp and muscle are thick
LEAST_CORE_ML = 13.5


def input_channels(hu: npt.NDArray[np.float32], how: Preprocessing) -> npt.NDArray[np.float32]:
    """Turn HU (x, y, z) into a network's channels: clipped to windows, mapped to -1..1 or standardised.

    >>> how = Preprocessing(spacing_mm=(1, 1, 5), windows_hu=((0, 80),), patch=(64, 64, 1))
    >>> input_channels(np.array([[[-50.0, 40.0, 90.0]]], np.float32), how).tolist()
    [[[[-1.0, 0.0, 1.0]]]]
    """
    if how.recentred_hu is not None:
        hu = recentred(hu, how.recentred_hu, how.spacing_mm)
    if not how.z_score:
        return windows(hu, how.windows_hu)
    both = zip(how.windows_hu, how.z_score, strict=True)
    return np.stack([(np.clip(hu, low, high) - mean) / sd for (low, high), (mean, sd) in both]).astype(
        np.float32
    )


def recentred(
    hu: npt.NDArray[np.float32], to_hu: float, spacing_mm: tuple[float, float, float]
) -> npt.NDArray[np.float32]:
    """Move the zero of a head's HU (x, y, z) so that the median of its soft core is `to_hu`.

    The core is what lies CORE_MM or more from bone, air and the skin: brain, most of it. A scan that holds
    less than LEAST_CORE_ML of it stays as it is.

    >>> ball = np.full((21, 21, 21), 41.0, np.float32)
    >>> float(recentred(ball, 34.0, (3.0, 3.0, 3.0))[10, 10, 10])
    34.0
    """
    core = ((hu > SOFT_HU[0]) & (hu < SOFT_HU[1])).astype(np.uint8)
    for axis, step in enumerate(spacing_mm):
        size = 2 * max(1, round(CORE_MM / step)) + 1
        core = ndimage.minimum_filter1d(core, size, axis=axis, mode="nearest")
    if np.count_nonzero(core) * float(np.prod(spacing_mm)) < LEAST_CORE_ML * 1000:
        return hu
    return hu + np.float32(to_hu - np.median(hu[core > 0]))


def windows(
    hu: npt.NDArray[np.float32], windows_hu: tuple[tuple[float, float], ...]
) -> npt.NDArray[np.float32]:
    """Turn HU (x, y, z) into input channels: each window's edges become -1 and +1, beyond is clipped.

    >>> windows(np.array([[[0.0, 40.0, 200.0]]], np.float32), ((0, 80),)).ravel().tolist()
    [-1.0, 0.0, 1.0]
    """
    return np.stack(
        [np.clip((hu - low) * np.float32(2 / (high - low)) - 1, -1, 1) for low, high in windows_hu]
    ).astype(np.float32)
