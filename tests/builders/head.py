"""A made head in HU: scalp, skull, brain with ventricles, sinuses, neck; an ellipsoid each, so that every
size is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

AIR, SCALP, BONE, CSF, BRAIN, FAT = -1000.0, 40.0, 1000.0, 8.0, 33.0, -90.0
INNER_MM = (66.0, 84.0, 66.0)  # half axes of the brain's cavity
INNER_ML = 4 / 3 * np.pi * INNER_MM[0] * INNER_MM[1] * INNER_MM[2] / 1000
SKULL_MM, SCALP_MM = 7.0, 6.0


def head_hu(
    *,
    bleed_mm: float = 0.0,
    bleed_at: Sequence[float] = (25.0, 5.0, 5.0),
    noise_hu: float = 3.0,
    offset_hu: float = 0.0,
    metal: bool = False,
    air_noise: bool = True,
) -> Callable[[np.ndarray], np.ndarray]:
    """Return HU as a function of RAS mm; the head's middle is the origin. `bleed_mm` is the radius of a
    clot of 65 HU.
    """
    rng = np.random.default_rng(7)

    def hu_at(mm: np.ndarray) -> np.ndarray:
        x, y, z = mm[..., 0], mm[..., 1], mm[..., 2]
        outer = [half + SKULL_MM + SCALP_MM for half in INNER_MM]
        hu = np.full(x.shape, AIR)
        neck = (np.hypot(x / 55, (y + 15) / 60) < 1) & (z < -30)
        hu[neck | _within(mm, outer)] = SCALP
        hu[_within(mm, [half + SKULL_MM for half in INNER_MM])] = BONE
        hu[_within(mm, INNER_MM)] = CSF
        hu[_within(mm, [half - 3 for half in INNER_MM])] = BRAIN
        for side in (-12, 12):
            hu[_within(mm - np.array([side, 5, 10]), (8, 30, 14))] = CSF
        hu[_within(mm - np.array([0, 82, -50]), (20, 10, 14)) & ~_within(mm, INNER_MM)] = AIR
        if bleed_mm:
            hu[((mm - np.asarray(bleed_at)) ** 2).sum(axis=-1) <= bleed_mm**2] = 65.0
        if metal:
            hu[((mm - np.array([-30, 20, 20])) ** 2).sum(axis=-1) <= 8**2] = 3071.0
        noisy = np.ones(x.shape, bool) if air_noise else hu > AIR
        return hu + offset_hu + np.where(noisy, rng.normal(0, noise_hu, x.shape), 0)

    return hu_at


def _within(mm: np.ndarray, half_axes: Sequence[float]) -> np.ndarray:
    inside: np.ndarray = ((mm / np.asarray(half_axes)) ** 2).sum(axis=-1) <= 1
    return inside
