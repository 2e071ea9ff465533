"""Where the head is in a CT: the box that a network needs to see."""

from __future__ import annotations

import numpy as np

from ichnos.arrays import Array, Mask
from ichnos.errors import InputRefused
from ichnos.volume import Box, Volume

_TISSUE_HU = -300.0
_COARSE_MM = 4.0


def head_box(
    scan_ras: Volume, *, margin_mm: float = 8.0, least_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> Box:
    """Return the box around the largest body in the scan, without table; at least so large where it can be.

    Works on every n-th voxel: the box need only be right to a few millimetres.

    >>> scan = Volume(np.full((60, 60, 60), -1000.0), np.diag([4.0, 4.0, 4.0, 1.0]))
    >>> scan.array[20:40, 20:40, 20:50] = 40
    >>> head_box(scan, margin_mm=4).start, head_box(scan, margin_mm=4).stop
    ((19, 19, 19), (41, 41, 51))
    """
    every = [max(1, round(_COARSE_MM / step)) for step in scan_ras.spacing_mm]
    body = _largest_body(scan_ras.array[:: every[0], :: every[1], :: every[2]])
    start, stop = [], []
    for axis, (n, k, step) in enumerate(zip(scan_ras.shape, every, scan_ras.spacing_mm, strict=True)):
        filled = np.flatnonzero(body.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = int(np.ceil(margin_mm / step))
        first, end = max(0, int(filled[0]) * k - margin), min(n, (int(filled[-1]) + 1) * k + margin)
        size = min(n, max(end - first, int(np.ceil(least_mm[axis] / step))))
        first = min(max(0, first - (size - (end - first)) // 2), n - size)
        start.append(first)
        stop.append(first + size)
    return Box(tuple(start), tuple(stop))


def _largest_body(hu: Array) -> Mask:
    import cc3d

    labels, count = cc3d.connected_components(np.asarray(hu) > _TISSUE_HU, connectivity=6, return_N=True)
    if count == 0:
        raise InputRefused("the scan holds no tissue above -300 HU, so there is no head in it")
    return np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])))
