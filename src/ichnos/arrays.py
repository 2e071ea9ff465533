"""The array types that every room names, and what is done to a mask without knowing where it lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def largest_component(mask: Mask) -> Mask:
    """Return the largest connected part of a mask (face neighbours); an empty mask stays empty.

    >>> largest_component(np.array([True, False, True, True])).tolist()
    [False, False, True, True]
    """
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())
