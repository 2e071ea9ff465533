"""Where the tract is looked for: regions, corridor and directions of the atlas on a diffusion exam's grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from ichnos.anatomy import mni
from ichnos.anatomy.bundles import SLOTS, bundles
from ichnos.anatomy.tract import SIDES, Side, atlas
from ichnos.arrays import Array, Floats
from ichnos.errors import InputRefused
from ichnos.registration.transform import Transform
from ichnos.transfer.mri_to_mni import MriToMni
from ichnos.volume import Box, Volume

CORRIDOR_MM = 10.0  # streamlines may leave the atlas tract by this much
SEEDS_MM = 1.5  # seeds lie within this distance of the atlas tract
PONS, PEDUNCLE, CAPSULE, CORONA, CORTEX = 1, 2, 3, 4, 5
_NAMES = {
    PONS: "pons",
    PEDUNCLE: "cerebral peduncle",
    CAPSULE: "internal capsule",
    CORONA: "corona radiata",
    CORTEX: "motor cortex",
}


@dataclass(frozen=True, eq=False)
class Regions:
    """MNI regions on the grid of an exam, for one side; 0 elsewhere in `level`, whose codes are the class
    constants.
    """

    # (x, y, z) uint8: 1 pons, 2 peduncle, 3 internal capsule, 4 corona radiata, 5 motor cortex and what lies
    # under it
    level: Array
    corridor: Array  # (x, y, z) bool
    seeds: Array  # (x, y, z) bool
    forbidden: Array  # (x, y, z) bool: the midline above the pons, the cerebellum, the other side


@lru_cache(maxsize=2)
def _regions_in_mni(side: Side) -> Volume:
    """Return distance outside the tract (mm), seeds, forbidden and the levels as channels of an MNI image."""
    tract = atlas(side)
    x, y, z = mni.coordinates(tract.distance_mm)
    x = x * (1 if side == "right" else -1)
    outside_mm = ndimage.distance_transform_edt(~tract.mask.array)
    level = _levels(outside_mm, z)
    cerebellum = np.isin(mni.structures().array, (mni.CEREBELLAR_CORTEX, mni.CEREBELLAR_WHITE))
    crosses = ((x < 1.0) & (z > -22.0)) | (x < -6)
    forbidden = crosses | cerebellum | ((y < -48) & (z < 0))
    channels = [
        np.minimum(outside_mm, 30.0),
        outside_mm <= SEEDS_MM,
        forbidden,
        *[level == k for k in _NAMES],
    ]
    return Volume(np.stack([c.astype(np.float32) for c in channels], axis=-1), tract.distance_mm.affine)


def _levels(outside_mm: Floats, z: Array) -> Array:
    """Return the level of each place near the tract by its height; above the corona it must be cortex."""
    edges = np.array([-40.0, -22.0, -4.0, 16.0, 34.0])
    level = np.where((outside_mm <= 5.0) & (z >= edges[0]), np.searchsorted(edges, z, side="right"), 0)
    grey = ndimage.gaussian_filter(mni.template("gm").array, 2.0) > 0.12
    cortex = (outside_mm <= 8.0) & (z > 34.0) & grey
    return np.where((level == CORTEX) & ~cortex, CORONA, level)


def regions_on(grid: Volume, mni_from_exam: Transform, side: Side) -> Regions:
    """Bring one side's regions onto a grid."""
    pulled = mni_from_exam.pull(
        _regions_in_mni(side), Volume(np.empty(grid.shape, np.uint8), grid.affine)
    ).array
    shares = pulled[..., 3:]
    level = np.where(shares.max(axis=-1) > 0.3, shares.argmax(axis=-1) + 1, 0).astype(np.uint8)
    inside = (pulled[..., 0] > 0) | (pulled[..., 1] > 0)  # beyond the template every channel is 0
    corridor = (pulled[..., 0] <= CORRIDOR_MM) & inside
    forbidden = pulled[..., 2] > 0.5
    return Regions(
        level,
        corridor & ~forbidden,
        (pulled[..., 1] > 0.5) & (level > 0),
        forbidden,
    )


@lru_cache(maxsize=1)
def _known_courses() -> tuple[Floats, Floats]:
    """Return MNI points of the tract from capsule to pons and of the callosum in the midline, and the
    directions that fibres have there.
    """
    points, ways = [], []
    for side in SIDES:
        tract = atlas(side)
        index = np.argwhere(
            tract.mask.array & (mni.coordinates(tract.mask)[2] < 25) & tract.orientation.array.any(axis=-1)
        )
        points.append(tract.mask.world(index))
        ways.append(tract.orientation.array[tuple(index.T)])
    drawn = bundles()
    callosal = SLOTS.index("callosal")
    index = np.argwhere(drawn.weight[callosal] >= 0.6)
    points.append(index @ drawn.affine[:3, :3].T + drawn.affine[:3, 3])
    ways.append(np.moveaxis(drawn.orientation[callosal], 0, -1)[tuple(index.T)])
    return np.concatenate(points), np.concatenate(ways).astype(np.float64)


def expected_directions(grid: Volume, to_mni: MriToMni) -> Floats:
    """Return which way fibres run on a grid by the atlas, (x, y, z, 3) world unit vectors, zero where it
    is not sure.
    """
    points, ways = _known_courses()
    at = to_mni.exam_from_mni.map(points)
    turned = to_mni.exam_from_mni.map(points + 2 * ways) - at
    index = np.round(grid.index(at)).astype(int)
    inside = ((index >= 0) & (index < grid.shape)).all(axis=1)
    expected = np.zeros((*grid.shape, 3))
    expected[tuple(index[inside].T)] = (turned / np.linalg.norm(turned, axis=1, keepdims=True))[inside]
    return expected


def tract_box(dwi: Volume, to_mni: MriToMni) -> Box:
    empty = Volume(np.empty(dwi.shape, np.uint8), dwi.affine).grid_with_spacing(4.0)
    both = (
        regions_on(empty, to_mni.mni_from_exam, "left").corridor
        | regions_on(empty, to_mni.mni_from_exam, "right").corridor
    )
    if not both.any():
        raise InputRefused(
            "the corticospinal tract lies outside the diffusion exam after registration; does the exam show"
            " the whole head?"
        )
    near = dwi.index(empty.world(np.argwhere(both)))
    margin = 6.0 / np.array(dwi.spacing_mm)
    start = np.clip(np.floor(near.min(0) - margin), 0, None).astype(int)
    stop = np.clip(np.ceil(near.max(0) + margin) + 1, None, dwi.shape).astype(int)
    return Box(tuple(int(i) for i in start), tuple(int(i) for i in stop))
