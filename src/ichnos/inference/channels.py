"""What a network sees of a scan: HU windows as channels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ichnos.models import Preprocessing


def input_channels(hu: npt.NDArray[np.float32], how: Preprocessing) -> npt.NDArray[np.float32]:
    """Turn HU (x, y, z) into a network's channels: clipped to windows, mapped to -1..1 or standardised."""
    if not how.z_score:
        return windows(hu, how.windows_hu)
    both = zip(how.windows_hu, how.z_score, strict=True)
    return np.stack([(np.clip(hu, low, high) - mean) / sd for (low, high), (mean, sd) in both]).astype(
        np.float32
    )


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
