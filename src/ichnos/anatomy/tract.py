"""The corticospinal tract as an own geometric atlas in MNI152 space: from the motor cortex to the pyramid,
left and right.

Five courses (leg, trunk, arm, hand, face) are drawn as smooth curves through landmarks; the sheet between
them is the tract. In the internal capsule the order is somatotopic (face in front, leg behind), in the
peduncle it turns (face medial, leg lateral), in the pyramid all fibres are bundled. The probability map is
what a population of randomly varied sheets covers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import edt
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.interpolate import PchipInterpolator
from scipy.spatial import cKDTree

from ichnos.anatomy import mni
from ichnos.volume import Volume

Side = Literal["left", "right"]
SIDES: tuple[Side, ...] = ("left", "right")
Floats = npt.NDArray[np.float64]

# Landmarks of the right side, MNI mm, from the cortex down to the level of the internal capsule's roof.
_COURSES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "leg": ((7, -29, 69), (11, -28, 60), (17, -26, 49), (21.5, -24.5, 38), (24.5, -23.5, 28)),
    "trunk": ((22, -26, 66), (23, -26, 58), (24, -25, 48), (25, -24, 38), (25.8, -22.8, 28)),
    "arm": ((31, -25, 61), (30.5, -24.5, 55), (29, -24, 47), (27.5, -23, 38), (26.3, -22, 28)),
    "hand": ((37, -22, 56), (35.5, -22, 51), (32.5, -22, 44), (29.5, -21.5, 37), (26.8, -21, 28)),
    "face": ((53, -6, 35), (47, -8.5, 35), (40, -12.5, 34), (32.5, -17, 31), (27.2, -19.5, 26.5)),
}
# Below, all courses share a stem: centre, the vector from its middle to the leg's edge (the face's edge is
# opposite), half thickness.
_STEM: tuple[tuple[tuple[float, float, float], tuple[float, float], float], ...] = (
    ((25.6, -20.3, 20.0), (0.9, -2.9), 3.0),
    ((24.4, -18.8, 13.0), (1.5, -3.0), 2.7),
    ((22.6, -17.2, 6.0), (1.7, -2.9), 2.6),
    ((20.2, -15.8, 0.0), (1.7, -2.4), 2.6),
    ((17.2, -15.6, -6.0), (2.0, -1.8), 2.6),
    ((14.4, -16.8, -12.0), (2.3, -1.4), 2.6),
    ((11.6, -18.4, -18.0), (2.2, -1.0), 2.6),
    ((8.9, -19.4, -24.0), (1.8, -0.4), 2.8),
    ((7.0, -20.2, -31.0), (1.5, 0.0), 3.0),
    ((6.0, -22.8, -38.0), (1.3, 0.0), 2.8),
    ((5.2, -27.6, -45.0), (1.0, 0.0), 2.5),
    ((4.5, -32.0, -51.0), (0.8, 0.0), 2.3),
    ((4.0, -36.0, -58.0), (0.7, 0.0), 2.1),
)
_CORTICAL_RADIUS_MM = (
    3.6,
    3.4,
    3.2,
    3.1,
    3.0,
)  # half thickness of the sheet at the five landmarks of a course
_POSITIONS = (-1.0, -0.55, -0.15, 0.35, 1.0)  # leg .. face along the sheet; the hand's part is the widest
PEOPLE = 48  # varied tracts in a population
_STORED = Path(__file__).with_name("tract_population.npz")
_TANGIBLE = 1.0  # radii from the sheet's middle that count as tract


@dataclass(frozen=True, eq=False)
class TractAtlas:
    """One side's corticospinal tract in MNI152 space, on the template's 1 mm grid."""

    side: Side
    # distance to the sheet's middle in units of its half thickness: <= 1 inside, 9 far away; float32
    radius: Volume
    # (x, y, z, 3) unit tangent, pointing down, RAS axes; zero farther than 4 half thicknesses; float32
    orientation: Volume

    @cached_property
    def probability(self) -> Volume:
        """Return the share of a population of varied tracts that covers each voxel, 0..1, float32."""
        return self.radius.map_array(_population)


@lru_cache(maxsize=2)
def population(side: Side) -> Volume:
    """Return the share of a population of varied tracts that covers each voxel of the template's 1 mm grid,
    float32.

    The same as `atlas(side).probability`, which takes seconds to compute: read from the file that
    `tools/tract_population.py` wrote.
    """
    with np.load(_STORED, allow_pickle=False) as stored:
        share = np.zeros(tuple(stored["shape"]), np.float32)
        box = tuple(slice(int(a), int(b)) for a, b in zip(stored["start"], stored["stop"], strict=True))
        share[box] = stored[side].astype(np.float32) / PEOPLE
        return Volume(share, stored["affine"])


def course(position: float, *, side: Side = "right", samples: int = 160) -> Floats:
    """Return one fibre of the sheet, (samples, 4): MNI mm and half thickness, from cortex to pyramid.

    `position` runs from -1 (leg) through 0.35 (hand) to 1 (face).

    >>> hand = course(0.35)
    >>> hand[0, :3].round().tolist(), bool(hand[-1, 2] < -55)
    ([37.0, -22.0, 56.0], True)
    """
    order = np.array(_POSITIONS)
    upper = PchipInterpolator(order, np.array(list(_COURSES.values()), np.float64), axis=0)(position)
    points = [np.append(p, r) for p, r in zip(upper, _CORTICAL_RADIUS_MM, strict=True)]
    for (x, y, z), (to_leg_x, to_leg_y), thickness in _STEM:
        points.append(np.array([x - position * to_leg_x, y - position * to_leg_y, z, thickness]))
    knots = np.array(points)
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(knots[:, :3], axis=0), axis=1))]
    line: Floats = PchipInterpolator(length, knots, axis=0)(np.linspace(0, length[-1], samples))
    if side == "left":
        line[:, 0] *= -1
    return line


def sheet(side: Side, *, fibres: int = 41) -> Floats:
    """Return the whole tract as fibres, (fibres, samples, 4), leg to face."""
    return np.stack([course(p, side=side) for p in np.linspace(-1, 1, fibres)])


@lru_cache(maxsize=2)
def atlas(side: Side) -> TractAtlas:
    """Return one side of the atlas (computed once)."""
    structures = mni.structures()
    fibres = sheet(side)
    tangent = np.gradient(fibres[..., :3], axis=1)
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True)
    radius, nearest, voxels = _normalised_distance(structures, fibres)
    radius[_forbidden()] += 1.5
    orientation = np.zeros((*structures.shape, 3), np.float32)
    orientation[voxels] = np.where((radius[voxels] <= 4.0)[:, None], tangent.reshape(-1, 3)[nearest], 0)
    return TractAtlas(side, structures.with_array(radius), Volume(orientation, structures.affine))


def _normalised_distance(
    grid: Volume, fibres: Floats
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], tuple[npt.NDArray[np.int64], ...]]:
    """Return distance over half thickness on the grid, the nearest fibre point of each near voxel, and
    these voxels.
    """
    points = fibres.reshape(-1, 4)
    near = np.zeros(grid.shape, bool)
    near[tuple(np.round(grid.index(points[:, :3])).astype(int).T)] = True
    near = edt.edt(~near, parallel=1) < 9
    voxels = tuple(axis.astype(np.int64) for axis in np.nonzero(near))
    distance, neighbours = cKDTree(points[:, :3]).query(grid.world(np.stack(voxels, -1)), k=4)
    ratio = distance / points[neighbours, 3]
    best = ratio.argmin(1)
    radius = np.full(grid.shape, 9.0, np.float32)
    radius[voxels] = ratio.min(1)
    return radius, neighbours[np.arange(len(best)), best].astype(np.int64), voxels


@lru_cache(maxsize=1)
def _forbidden() -> mni.Mask:
    """Return where no corticospinal fibre can run: fluid and nuclei; cortex only away from its junction
    with white matter.
    """
    codes = mni.structures().array
    fluid: mni.Mask = np.isin(
        codes,
        (0, mni.CSF, mni.VENTRICLE, mni.PUTAMEN, mni.PALLIDUM, mni.THALAMUS, mni.CAUDATE, mni.HIPPOCAMPUS),
    )
    deep_cortex = (codes == mni.CORTEX) & ~ndimage.binary_dilation(codes == mni.WHITE, iterations=2)
    forbidden: mni.Mask = fluid | deep_cortex
    return forbidden


def _population(
    radius: npt.NDArray[np.float32], *, people: int = PEOPLE, shift_mm: float = 1.6
) -> npt.NDArray[np.float32]:
    """Return how many of a population of shifted and thickened tracts cover each voxel."""
    rng = np.random.default_rng(20240806)
    box = ndimage.find_objects((radius < 6).astype(np.uint8))[0]
    inside = radius[box]
    total = np.zeros(inside.shape, np.float32)
    for _ in range(people):
        moved = ndimage.shift(inside, rng.normal(0, shift_mm, 3), order=1, mode="nearest", prefilter=False)
        total += moved < _TANGIBLE * np.exp(rng.normal(0, 0.12))
    probability = np.zeros(radius.shape, np.float32)
    probability[box] = total / people
    return probability
