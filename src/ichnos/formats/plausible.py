"""Whether a grid can hold a head at all: sizes that no scanner gives are refused."""

from __future__ import annotations

from ichnos.errors import InputRefused, foreign
from ichnos.volume import Volume

VOXEL_MM = (0.05, 60.0)  # micro-CT begins below the first; no slice is thicker than the second
FIELD_MM = (40.0, 2500.0)  # side of the image; a head is 100 to 250 mm, a whole body 2 m


def refuse_impossible_size(grid: Volume, name: object) -> None:
    """Refuse a grid whose voxels or sides cannot be those of a head CT in millimetres.

    >>> import numpy as np
    >>> refuse_impossible_size(Volume(np.zeros((9, 9, 9)), np.diag([5e-4, 5e-4, 5e-3, 1])), "scan.nii")
    Traceback (most recent call last):
    ichnos.errors.InputRefused: scan.nii has voxels of 0.0005 x 0.0005 x 0.005 mm, which no head CT has; is
    its position given in metres?
    """
    spacing = grid.spacing_mm
    sides = tuple(n * step for n, step in zip(grid.shape, spacing, strict=True))
    if not (VOXEL_MM[0] <= min(spacing) and max(spacing) <= VOXEL_MM[1]):
        text = f"has voxels of {_sizes(spacing)} mm"
    elif max(sides) < FIELD_MM[0] or max(sides) > FIELD_MM[1]:
        text = f"is {_sizes(sides)} mm large"
    else:
        return
    metres = "; is its position given in metres?" if max(sides) < FIELD_MM[0] else "; correct its header"
    raise InputRefused(f"{foreign(name)} {text}, which no head CT has{metres}")


def _sizes(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)
