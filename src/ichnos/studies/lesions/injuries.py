"""What a lesion takes of both corticospinal tracts of the population atlas."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from ichnos.anatomy.tract import SIDES, Side, population
from ichnos.arrays import Floats, Floats32, Mask
from ichnos.clinical.injury import tract_injury
from ichnos.errors import InputRefused
from ichnos.formats import nifti
from ichnos.studies.lesions.people import LesionCase
from ichnos.volume import Box, Volume

MEASURES = {
    "load_ml": "tract load",
    "weighted_load_ml": "weighted tract load",
    "largest_loss": "largest cross-section loss",
}


def measured_lesion(case: LesionCase, folder: Path) -> dict[str, float]:
    """Return a lesion's volume and what it takes of the tracts; of both sides the worse counts."""
    lesion = nifti.load(case.mask)
    if lesion.array.ndim != 3 or not lesion.array.any():
        raise InputRefused(f"{case.mask.name} holds no lesion; a mask in MNI space is expected")
    present = lesion.array > 0
    row = {
        "volume_ml": float(np.count_nonzero(present)) * lesion.voxel_ml,
        "left_share": _left(lesion, present),
    }
    for side in SIDES:
        box, share, z_mm = _tract_on(
            side, lesion.shape, tuple(map(tuple, np.asarray(lesion.affine).tolist()))
        )
        part = present[box.slices].astype(np.float32)
        injury = tract_injury(share, part, np.zeros_like(part), z_mm=z_mm, voxel_ml=lesion.voxel_ml)
        row[f"load_ml_{side}"] = injury.blood_load_ml
        row[f"weighted_load_ml_{side}"] = injury.weighted_blood_load_ml
        row[f"largest_loss_{side}"] = injury.largest_loss
    for name in MEASURES:
        row[name] = max(row[f"{name}_{side}"] for side in SIDES)
    return row


def _left(lesion: Volume, present: Mask) -> float:
    """Return which share of the lesion lies in the left hemisphere."""
    return float((lesion.world(np.argwhere(present))[:, 0] < 0).mean())


@lru_cache(maxsize=4)
def _tract_on(
    side: Side, shape: tuple[int, ...], affine: tuple[tuple[float, ...], ...]
) -> tuple[Box, Floats32, Floats]:
    """Return the atlas on the box of a lesion grid that holds it, and the heights of the box's slices."""
    grid = Volume(np.broadcast_to(np.uint8(0), shape), np.array(affine))
    share = population(side).on_grid(grid).array.astype(np.float32)
    there = np.argwhere(share > 0)
    if len(there) == 0:
        raise InputRefused(
            "the lesion mask does not reach the corticospinal tract's place: is it in MNI space?"
        )
    box = Box(tuple(there.min(axis=0).tolist()), tuple((there.max(axis=0) + 1).tolist()))
    heights = np.arange(box.start[2], box.stop[2])
    z_mm = grid.world(np.column_stack([np.zeros((len(heights), 2)), heights]))[:, 2]
    return box, np.ascontiguousarray(share[box.slices]), z_mm
