"""Where the head lies in a scanner, and how a map of the patient is pulled onto an exam's grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from ichnos.volume import Affine, Floats


def rigid(
    *,
    rotation_deg: Sequence[float],
    shift_mm: Sequence[float] = (0.0, 0.0, 0.0),
    about_mm: Sequence[float] = (0.0, 0.0, 0.0),
) -> Affine:
    """Make the rigid map that turns about the x, y and z axes (in this order) through a fixed point, then
    shifts.

    >>> rigid(rotation_deg=(0, 0, 90)).map(np.array([[1.0, 0.0, 0.0]])).round(6).tolist()
    [[0.0, 1.0, 0.0]]
    """
    x, y, z = np.deg2rad(np.asarray(rotation_deg, np.float64))
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    turn = about_z @ about_y @ about_x
    centre = np.asarray(about_mm, np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = centre - turn @ centre + np.asarray(shift_mm, np.float64)
    return Affine(matrix)


@dataclass(frozen=True, eq=False)
class HeadMotion:
    """Where a restless head lay while each part of each slice was made."""

    away: Floats  # (slice, part of its thickness, 3): mm along x and y, degrees about z

    def at(self, k: int, depth: float) -> Floats:
        """Return the map (4, 4) from where slice k shows a point to where the point lies in the head at rest,
        exam mm.

        `depth` goes from 0 to 1 through the slice.
        """
        parts = self.away.shape[1]
        x, y, turn = self.away[k, min(int(depth * parts), parts - 1)]
        return rigid(rotation_deg=(0, 0, turn), shift_mm=(x, y, 0)).matrix


def slice_stack_affine(
    *,
    centre_mm: Floats,
    shape: Sequence[int],
    pixel_mm: float,
    step_mm: float,
    tilt_deg: float,
    sheared: bool = False,
) -> Floats:
    """Return the affine of an axial stack whose middle lies at `centre_mm` and whose gantry is tilted about
    the x axis.

    A tilted gantry writes slices that are shifted along the table (`sheared=True`). An orthogonal grid over
    the same slices (`sheared=False`) follows the slice normal instead. A positive tilt tips the top of the
    slice normal forward.
    """
    tilt = np.deg2rad(tilt_deg)
    affine = np.eye(4)
    affine[:3, 0] = (pixel_mm, 0, 0)
    affine[:3, 1] = pixel_mm * np.array([0, np.cos(tilt), -np.sin(tilt)])
    normal = np.array([0, np.sin(tilt), np.cos(tilt)])
    affine[:3, 2] = np.array([0, 0, step_mm / np.cos(tilt)]) if sheared else step_mm * normal
    affine[:3, 3] = np.asarray(centre_mm) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def pull(
    maps: torch.Tensor,
    index_from_out: Floats,
    shape: Sequence[int],
    *,
    nearest: bool = False,
    mode: str = "border",
) -> torch.Tensor:
    """Sample maps (c, x, y, z) at the voxels of another grid (x', y', z'); `index_from_out` takes its
    indices to indices of the maps.
    """
    size = np.array(maps.shape[1:])
    unit_from_index = np.diag([*(2.0 / np.maximum(size - 1, 1)), 1.0])
    unit_from_index[:3, 3] = -1.0
    rows = unit_from_index @ np.asarray(index_from_out)
    steps = [torch.arange(n, device=maps.device, dtype=torch.float32) for n in shape]
    at = [  # torch counts the axes of the grid from the last one
        (steps[0] * rows[axis, 0]).view(-1, 1, 1)
        + ((steps[1] * rows[axis, 1]).view(-1, 1) + (steps[2] * rows[axis, 2] + rows[axis, 3]))
        for axis in (2, 1, 0)
    ]
    grid = torch.stack(at, dim=-1)[None]
    return functional.grid_sample(
        maps[None], grid, mode="nearest" if nearest else "bilinear", padding_mode=mode, align_corners=True
    )[0]


def pull_thick(
    maps: torch.Tensor,
    index_from_out: Floats,
    shape: Sequence[int],
    *,
    samples: int,
    reach: float = 1.0,
    nearest: bool = False,
) -> torch.Tensor:
    """Sample maps (c, x, y, z) slice by slice, each the mean over its thickness.

    `samples` points lie evenly over `reach` (slice thickness over slice step) along the third axis of the
    output grid. Returns (c, x', y', z').
    """
    width, height, depth = (int(n) for n in shape)
    within = (np.arange(samples) + 0.5) / samples - 0.5
    slices = []
    for k in range(depth):
        step = np.eye(4)
        step[2, 2] = reach / samples
        step[2, 3] = k + reach * within[0]
        through = pull(maps, np.asarray(index_from_out) @ step, (width, height, samples), nearest=nearest)
        slices.append(through.mean(dim=3))
    return torch.stack(slices, dim=3)
