"""Resampling a head CT: ichnos against scipy on the same voxels, and the round trip of a mask through a
SEG.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from ichnos.volume import Volume

SHAPE = (512, 512, 32)


def main() -> list[dict[str, object]]:
    """Return one row per task: seconds of both, their ratio, the greatest difference."""
    scan = Volume(
        np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), np.diag([0.45, 0.45, 5.0, 1.0])
    )
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    even = scan.grid_with_spacing(1.0)
    turned = Volume(even.array, turn @ even.affine)
    rows = [
        _row(f"{kind}, {name} grid of 1 mm", scan, grid, order)
        for order, kind in ((0, "nearest"), (1, "linear"))
        for name, grid in (("even", even), ("turned", turned))
    ]
    return rows


def _row(name: str, scan: Volume, grid: Volume, order: int) -> dict[str, object]:
    matrix = np.linalg.inv(scan.affine) @ grid.affine
    ours_s, ours = _best(lambda: scan.on_grid(grid, interpolation="linear" if order else "nearest").array)
    scipy_s, theirs = _best(
        lambda: ndimage.affine_transform(
            scan.array, matrix[:3, :3], matrix[:3, 3], grid.shape, order=order, mode="constant"
        )
    )
    inside = (slice(8, -8),) * 3  # at the rim the two treat the half voxel beyond the last centre differently
    same = np.isclose(ours[inside], theirs[inside], atol=1e-4).mean()
    return {
        "name": name,
        "ichnos_s": ours_s,
        "scipy_s": scipy_s,
        "ratio": scipy_s / ours_s,
        "equal_share": float(same),
    }


def _best(function: Callable[[], np.ndarray], times: int = 3) -> tuple[float, np.ndarray]:
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        result = function()
        spent.append(time.perf_counter() - began)
    return min(spent), result


if __name__ == "__main__":
    from run import table

    print(table(main()))
