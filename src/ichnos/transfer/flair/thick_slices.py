"""What thick slices tell about the space inside and between them: shares instead of yes and no, and a
finer stack with the same means.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ichnos.volume import Array, Volume

THICK_MM = 2.5  # slices farther apart than this are taken apart
FINE_MM = 1.0  # into layers of about this thickness
_ROUNDS = 12
_SMOOTH_MM = 0.8
_NOISE = 0.2  # a smaller share beside the mask may be noise
_NEARBY_MM = 12.0  # over such a distance the receive field is taken for even


def between_slices(share: Volume) -> Volume:
    """Return a share (x, y, z, each 0…1) on a stack so fine that its layers can be averaged into slices of
    another direction.

    A slice is the mean over its thickness, not a sample in its middle. Smooth layers are sought whose means
    are the slices: after each smoothing what a slice lacks is given back to its layers. Thin slices come back
    as they are.

    >>> thick = Volume(np.array([0, 0.5, 1, 0.5, 0], np.float32).reshape(1, 1, 5), np.diag([1.0, 1, 5, 1]))
    >>> fine = between_slices(thick)
    >>> fine.shape, bool(np.abs(fine.array.reshape(5, 5).mean(1) - thick.array.ravel()).max() < 0.03)
    ((1, 1, 25), True)
    """
    axis = int(np.argmax(share.spacing_mm))
    step_mm = share.spacing_mm[axis]
    if step_mm < THICK_MM:
        return share
    count = max(2, round(step_mm / FINE_MM))
    slices = np.moveaxis(share.array.astype(np.float32), axis, 2)
    layers = _layers(slices, count, smooth=_SMOOTH_MM * count / step_mm)
    affine = np.array(share.affine)
    affine[:3, 3] = share.world([(1 / count - 1) / 2 if k == axis else 0.0 for k in range(3)])
    affine[:3, axis] /= count
    return Volume(np.moveaxis(layers, 2, axis), affine)


def _layers(slices: Array, count: int, *, smooth: float) -> Array:
    """Return `count` layers per slice (x, y, z * count), whose means are the slices."""
    depth = slices.shape[2]
    at = (np.arange(depth * count) + 0.5) / count - 0.5
    nearness = np.maximum(0, 1 - np.abs(np.arange(depth)[:, None] - at.clip(0, depth - 1)[None])).astype(
        np.float32
    )
    layers: Array = slices @ nearness  # linear between the middles of slices
    for _ in range(_ROUNDS):
        layers = ndimage.gaussian_filter1d(layers, smooth, axis=2, mode="nearest")
        lacking = slices - layers.reshape(*slices.shape, count).mean(axis=3)
        layers = np.clip(layers + lacking.repeat(count, axis=2), 0, 1)
    return layers


def softened(mask: Volume, flair: Volume) -> Volume:
    """Return which share of each voxel of a thick-sliced FLAIR a hard mask (bool, same grid) fills, by the
    voxel's own brightness.

    Half-way between white matter and lesion is half a lesion. Voxels of the mask stay at least half, those
    beside it at most half, so that the mask itself is what it was. Thin slices, and masks that the brightness
    does not bear out, come back as 0 and 1.
    """
    hard = mask.array != 0
    axis = int(np.argmax(flair.spacing_mm))
    share = None
    if flair.spacing_mm[axis] >= THICK_MM and hard.any():
        share = _share_by_brightness(hard, flair, axis)
    if share is None:
        return mask.with_array(hard.astype(np.float32))
    across = np.zeros((3, 3, 3), bool)
    across[tuple(slice(None) if k == axis else 1 for k in range(3))] = True
    beside = ndimage.binary_dilation(hard, _in_slice(axis)) | ndimage.binary_dilation(hard, across)
    outer = np.where(beside & (share > _NOISE), np.minimum(share, 0.49), 0)
    return mask.with_array(np.where(hard, np.maximum(share, 0.5), outer).astype(np.float32))


def _in_slice(axis: int) -> Array:
    """Return a voxel and its neighbours in the slice, whose normal is `axis`."""
    flat = ndimage.generate_binary_structure(3, 1)
    flat[tuple(slice(None) if k != axis else [0, 2] for k in range(3))] = False
    return np.asarray(flat)


def _share_by_brightness(hard: Array, flair: Volume, axis: int) -> Array | None:
    """Return how far each voxel's brightness lies from the white matter nearby towards the lesion, 0…1; None
    where the lesion is hardly brighter.
    """
    flat = _in_slice(axis)
    core = ndimage.binary_erosion(hard, flat)
    core = core if np.count_nonzero(core) >= 30 else hard
    lesion = float(np.percentile(flair.array[core], 60))
    near = ndimage.binary_dilation(hard, flat, iterations=3)
    ring = ndimage.binary_dilation(hard, flat, iterations=6) & ~near
    ring &= flair.array > 0.3 * lesion  # no fluid
    white = float(np.median(flair.array[ring])) if ring.any() else lesion
    if lesion < 1.1 * white:
        return None
    # 1 is the white matter nearby, whatever the receive field makes of it
    even = flair.array / _around(flair, ring, white)
    contrast = float(np.percentile(even[core], 60)) - 1
    return np.asarray(np.clip((even - 1) / max(contrast, 0.05), 0, 1))


def _around(flair: Volume, ring: Array, white: float) -> Array:
    """Return the brightness of the white matter around each voxel: the mean of a ring, mixed with `white`
    far from it.
    """
    sigma = [_NEARBY_MM / s for s in flair.spacing_mm]
    weight = ndimage.gaussian_filter(ring.astype(np.float32), sigma)
    total = ndimage.gaussian_filter(
        np.where(ring, np.clip(flair.array, 0.5 * white, 1.5 * white), 0).astype(np.float32), sigma
    )
    local: Array = (total + 1e-3 * white) / (weight + 1e-3)
    return local
