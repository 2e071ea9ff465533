"""Orientations of the large white-matter bundles in MNI152 space, drawn from anatomical knowledge.

Three slots per voxel, so that tractography meets the crossings it meets in people: projection fibres
(corticospinal tract and corona radiata) run up and down, callosal fibres sideways through them, association
fibres from front to back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ichnos.anatomy import mni, tract
from ichnos.arrays import Floats32
from ichnos.volume import Volume

SLOTS: tuple[str, ...] = ("projection", "callosal", "association")
STEP = 2  # template voxels per voxel of these maps


@dataclass(frozen=True, eq=False)
class Bundles:
    """Unit directions and weights on a 2 mm grid in MNI152 space."""

    affine: npt.NDArray[np.float64]  # (4, 4)
    orientation: Floats32  # (slot, 3, x, y, z), zero where the weight is 0
    weight: Floats32  # (slot, x, y, z), 0..1, together at most 0.9


@lru_cache(maxsize=1)
def bundles() -> Bundles:
    """Return orientations and weights of the three slots (computed once)."""
    structures = mni.structures()
    codes = structures.array[::STEP, ::STEP, ::STEP]
    affine = structures.affine @ np.diag([STEP, STEP, STEP, 1.0])
    grid = Volume(codes, affine)
    xyz = mni.coordinates(grid)
    white = ndimage.gaussian_filter(
        np.isin(codes, (mni.WHITE, mni.BRAINSTEM, mni.CEREBELLAR_WHITE)).astype(np.float32), 0.6
    )
    parts = [_projection(xyz, *tract.right_on(grid)), _callosal(xyz), _association(xyz)]
    orientation = np.stack([direction for direction, _ in parts])
    weight = np.stack([share for _, share in parts]) * white
    weight *= np.minimum(1, 0.85 / np.maximum(weight.sum(0), 1e-3))
    weight[:, white < 0.2] = 0
    orientation = ndimage.gaussian_filter(orientation, (0, 0, 0.7, 0.7, 0.7))
    orientation /= np.maximum(np.linalg.norm(orientation, axis=1, keepdims=True), 1e-6)
    orientation *= (weight > 0.02)[:, None]
    weight *= weight > 0.02
    return Bundles(affine, orientation.astype(np.float32), weight.astype(np.float32))


def _unit(x: Floats32, y: Floats32, z: Floats32) -> Floats32:
    stacked = np.stack(np.broadcast_arrays(x, y, z), dtype=np.float32, casting="same_kind")
    length = np.linalg.norm(stacked, axis=0, keepdims=True)
    unit: Floats32 = stacked / np.maximum(length, 1e-6)
    return unit


def _projection(xyz: Floats32, away_mm: Volume, downwards: Volume) -> tuple[Floats32, Floats32]:
    """Return the fan of the corona radiata above the capsule, and the corticospinal tract itself where it
    runs, from the distance to the right tract and its orientation.
    """
    x, y, z = xyz
    a, sign = np.abs(x), np.sign(x)
    capsule_x, capsule_y = 23.0, -8.0 + 0.55 * np.clip(y + 8, -30, 30)
    above = np.clip((z - 4) / 30, 0, 2.5)
    direction = _unit(sign * (a - capsule_x) * 0.9 * above, (y - capsule_y) * 1.3 * above, 14.0 + 0 * z)
    down = _unit(
        sign * np.interp(z, [-70, -40, -20, 0, 15], [0.02, 0.1, 0.45, 0.45, 0.1]),
        np.interp(z, [-70, -35, -20, 0], [0.6, 0.4, 0.1, -0.2]),
        np.ones_like(z),
    )
    direction = np.where(z < 4, down, direction)
    share = np.where(z < -3, 0.65, 0.5 * np.exp(-(((a - 25 - 0.25 * np.clip(z - 15, 0, 60)) / 15) ** 2)))
    for across in (-1, 1):  # the left tract mirrors the right one
        away = away_mm.array[::across]
        upwards = np.moveaxis(downwards.array[::across] * np.array([-across, -1, -1], np.float32), -1, 0)
        inside = (away < 3.0) & (np.linalg.norm(upwards, axis=0) > 0)
        direction = np.where(inside, upwards, direction).astype(np.float32)
        share = np.where(inside, np.maximum(share, np.where(away < 0.5, 0.7, 0.5)), share)
    return direction, share.astype(np.float32)


def _callosal(xyz: Floats32) -> tuple[Floats32, Floats32]:
    """Return arcs from hemisphere to hemisphere: level in the midline, turning up (or down behind) into
    the gyri.
    """
    x, y, z = xyz
    a, sign = np.abs(x), np.sign(x)
    roof = np.interp(y, [-75, -45, -20, 10, 32, 45], [10, 16, 28, 26, 12, 2])
    rise = np.clip((a - 12) / 26, 0, 1.6) * np.sign(z - roof + 6)
    forward = np.where(
        y > 30, np.clip((a - 6) / 16, 0, 2.2), np.where(y < -42, -np.clip((a - 8) / 16, 0, 2.2), 0.0)
    )
    direction = _unit(1.0 + 0 * x, sign * forward, sign * rise)
    near = np.exp(-(((z - roof - 0.35 * np.clip(a - 12, 0, 60)) / 13) ** 2))
    midline = (a < 14) & (np.abs(z - roof) < 9) & (y > -48) & (y < 38)
    share = np.where(midline, 0.8, 0.38 * near * (a < 52)) * (z > -8)
    return direction, share.astype(np.float32)


def _association(xyz: Floats32) -> tuple[Floats32, Floats32]:
    """Return the superior longitudinal, arcuate and inferior fronto-occipital fasciculi, and the cingulum."""
    x, y, z = xyz
    a, sign = np.abs(x), np.sign(x)
    arc = np.clip((-30 - y) / 18, 0, 1.5) * (z > -12)  # the arcuate turns down behind
    direction = _unit(sign * 0.15 * (y < -30), 1.0 + 0 * y, np.where(z > 0, arc, 0.0))
    superior = 0.5 * np.exp(-(((a - 37) / 7) ** 2) - (((z - 27) / 9) ** 2)) * (np.abs(y + 15) < 45)
    inferior = 0.5 * np.exp(-(((a - 33) / 6) ** 2) - (((z + 3) / 7) ** 2)) * (np.abs(y + 20) < 62)
    cingulum = 0.5 * np.exp(-(((a - 9) / 3.5) ** 2) - (((z - 33) / 6) ** 2)) * (np.abs(y + 10) < 45)
    share = np.maximum(np.maximum(superior, inferior), cingulum)
    return direction, share.astype(np.float32)
