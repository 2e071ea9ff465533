"""The edge of hyperintensities, set so that as much is counted beyond it as is left out below it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ichnos.arrays import Array, Mask
from ichnos.transfer.flair.brightness import IN_PLANE, Brightness
from ichnos.transfer.flair.template_maps import TemplateMaps

HALO_MM = 4.0  # lesions fade out within about so much in the slice
HIGHEST_SHARE = 0.65  # of a lesion at its edge: where edges are sharp the volume does not fix the cut


def grown_to_volume(
    kept: Mask,
    even: Array,
    brightness: Brightness,
    maps: TemplateMaps,
    *,
    barred: Mask,
    spacing_mm: Sequence[float],
) -> tuple[Mask, float]:
    """Move the edge of kept lesions until their volume is that of all brightness around them; return it too.

    Every voxel within HALO_MM of a lesion counts by its share, from 0 (white matter) to 1 (typical lesion);
    darker ones count negatively, so that noise cancels. The brightest voxels that make up this volume are the
    lesions: what lies below the cut is balanced by what the voxels above it hold of white matter. `barred`
    marks what was judged to be something else.
    """
    if not kept.any():
        return kept, brightness.threshold
    steps = max(1, round(HALO_MM / min(spacing_mm)))
    white = (maps.white > 0.35) & (maps.depth_mm > 5) & (maps.nuclei < 0.5)
    near = (ndimage.binary_dilation(kept, IN_PLANE, iterations=steps) & white & ~barred) | kept
    cut = volume_cut(even[near], lesion=brightness.lesion)
    return np.asarray(near & (even > cut)), cut


def volume_cut(even: Array, *, lesion: float) -> float:
    """Return the brightness above which as many voxels lie as the shares of lesion of all of them sum up to.

    White matter is 1, a typical lesion `lesion`.

    >>> half_lesions = np.array([1.0] * 60 + [1.3] * 20 + [1.6] * 20)  # 20 voxels are half lesion: 10 in sum
    >>> volume_cut(half_lesions, lesion=1.6)
    1.3
    """
    shares = np.clip((even - 1) / (lesion - 1), -1, 1)
    count = int(np.clip(round(float(shares.sum())), 1, even.size - 1))
    return min(float(np.sort(even)[::-1][count]), 1 + HIGHEST_SHARE * (lesion - 1))
