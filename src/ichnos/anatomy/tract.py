"""The corticospinal tract as a geometric atlas in MNI152 space: from the sensorimotor cortex to the pyramid.

Between its levels (`tract_levels`) the tract is smooth. The order of fibres along the sheet is somatotopic:
the face in front and the leg behind in corona radiata and capsule; at the cortex the leg lies medially at the
vertex, the face laterally and lowest. The population map is the share of varied tracts that covers a voxel.
The template is symmetric, and so is the atlas.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from ichnos.anatomy import mni
from ichnos.anatomy.tract_levels import (
    BOTTOM_MM,
    TOP_MM,
    cortex_mm,
    last_position,
    sheet_at,
    variation_mm,
)
from ichnos.arrays import Floats, Floats32, Mask
from ichnos.volume import Volume

Side = Literal["left", "right"]
SIDES: tuple[Side, ...] = ("left", "right")

FAR_MM = 20.0  # distances are counted up to here
NEAR_MM = 10.0  # directions are given up to here
# Above this height gyri part the tract: there it keeps to voxels with this share of white matter. Both were
# chosen in the fit of the levels, so that area and spread agree with the published atlases from 50 to 70 mm.
GYRI_MM, GYRAL_WHITE = 40.0, 0.65
PEOPLE = 96  # varied tracts in a population
_ALONG_MM = 15.0  # deviations of one person's tract are alike over such a length (standard deviation)
_STORED = Path(__file__).with_name("tract_population.npz")
_LEVELS = 250  # steps in which the stored shares are counted


@dataclass(frozen=True, eq=False)
class TractAtlas:
    """One side's corticospinal tract in MNI152 space, on the template's 1 mm grid."""

    side: Side
    # signed distance to the tract's surface in the axial plane, mm: negative inside, at most FAR_MM; float32.
    # At the cortex it passes over sulci: `mask` does not.
    distance_mm: Volume
    # (x, y, z, 3) unit tangent, pointing down, RAS axes; zero farther than NEAR_MM; float32
    orientation: Volume

    @cached_property
    def mask(self) -> Volume:
        """Return the tract of the average person, bool."""
        return self.distance_mm.map_array(lambda distance: (distance <= 0) & _passable())

    @cached_property
    def probability(self) -> Volume:
        """Return the share of a population of varied tracts that covers each voxel, 0..1, float32."""
        shares = _population()
        return self.distance_mm.with_array(
            np.ascontiguousarray(shares[::-1]) if self.side == "left" else shares
        )


@lru_cache(maxsize=2)
def population(side: Side) -> Volume:
    """Return the share of a population of varied tracts that covers each voxel of the template's 1 mm grid,
    float32.

    The same as `atlas(side).probability` in steps of 1/250, read from a file: it needs no template.

    >>> population("left").shape
    (197, 233, 189)
    """
    with np.load(_STORED, allow_pickle=False) as stored:
        share = np.zeros(tuple(stored["shape"]), np.float32)
        box = tuple(slice(int(a), int(b)) for a, b in zip(stored["start"], stored["stop"], strict=True))
        share[box] = stored["right"].astype(np.float32) / _LEVELS
        return Volume(np.ascontiguousarray(share[::-1]) if side == "left" else share, stored["affine"])


def store_population(path: Path = _STORED) -> Path:
    """Compute the population map and write it where `population` reads it; return the file."""
    share = atlas("right").probability
    counts = np.round(np.asarray(share.array) * _LEVELS).astype(np.uint8)
    filled = np.argwhere(counts)
    start, stop = filled.min(axis=0), filled.max(axis=0) + 1
    box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    np.savez_compressed(
        path, start=start, stop=stop, shape=counts.shape, affine=share.affine, right=counts[box]
    )
    return path


def course(position: float, *, side: Side = "right", samples: int = 160) -> Floats:
    """Return one fibre of the sheet, (samples, 4): MNI mm and half thickness, from cortex to pyramid.

    `position` runs from -1 (leg) through 0.35 (hand) to 1 (face); `tract_levels.BODY_PARTS` names them.

    >>> hand = course(0.35)
    >>> float(hand[0, 2]), bool(hand[-1, 2] < -55)
    (64.0, True)
    """
    z = np.linspace(cortex_mm(position), BOTTOM_MM, samples)
    sheet = sheet_at(z)
    along = 2 * (position + 1) / (last_position(z) + 1) - 1
    line = np.column_stack([sheet[:, :2] + along[:, None] * sheet[:, 2:4], z, sheet[:, 4]])
    if side == "left":
        line[:, 0] *= -1
    return line


@lru_cache(maxsize=2)
def atlas(side: Side) -> TractAtlas:
    """Return one side of the atlas (computed once).

    >>> bool(atlas("left").mask.array.sum() > 15_000)  # about 20 mL
    True
    """
    if side == "left":
        right = atlas("right")
        distance = np.ascontiguousarray(right.distance_mm.array[::-1])
        orientation = right.orientation.array[::-1] * np.array([-1, 1, 1], np.float32)
        grid = right.distance_mm
        return TractAtlas(side, grid.with_array(distance), Volume(orientation, grid.affine))
    return TractAtlas(side, *right_on(mni.structures()))


def right_on(structures: Volume) -> tuple[Volume, Volume]:
    """Return distance and orientation of the right tract (see `TractAtlas`) on a grid of the template's
    structures, which may be coarser than the template's own.
    """
    x, y, heights = _plane(structures)
    distance = np.full(structures.shape, FAR_MM, np.float32)
    orientation = np.zeros((*structures.shape, 3), np.float32)
    for k, z in enumerate(heights):
        here = np.clip(z, BOTTOM_MM, TOP_MM)
        beyond = abs(z - here)
        if beyond < FAR_MM:
            inside = _distance(x, y, sheet_at(here)[0])
            away = np.hypot(np.maximum(inside, 0), beyond) + np.minimum(inside, 0)
            distance[:, :, k] = np.minimum(away, FAR_MM)
            near = distance[:, :, k] < NEAR_MM
            orientation[near, k] = _tangents(x[near], y[near], float(here))
    fluid = np.isin(structures.array, (0, mni.CSF, mni.VENTRICLE))
    distance[fluid] = np.maximum(distance[fluid], 2.0)  # no fibre runs through fluid
    return structures.with_array(distance), Volume(orientation, structures.affine)


def _plane(grid: Volume) -> tuple[Floats, Floats, Floats]:
    """Return x and y of an axial plane of the template's grid, each (x, y), and the heights of all planes."""
    x, y, z = (grid.affine[i, 3] + grid.affine[i, i] * np.arange(n) for i, n in enumerate(grid.shape))
    plane = np.meshgrid(x, y, indexing="ij")
    return plane[0], plane[1], z


def _distance(x: Floats, y: Floats, sheet: Floats) -> Floats:
    """Return the signed distance of points to the section's edge, mm."""
    along, across, half_length = _section_axes(x, y, sheet)
    distance: Floats = np.hypot(np.maximum(np.abs(along) - half_length, 0), across) - sheet[4]
    return distance


def _section_axes(x: Floats, y: Floats, sheet: Floats) -> tuple[Floats, Floats, float]:
    """Return positions along and across the sheet, mm, and its half length."""
    half_length = float(np.hypot(sheet[2], sheet[3]))
    front_x, front_y = sheet[2] / half_length, sheet[3] / half_length
    dx, dy = x - sheet[0], y - sheet[1]
    return dx * front_x + dy * front_y, -dx * front_y + dy * front_x, half_length


def _tangents(x: Floats, y: Floats, z: float) -> Floats:
    """Return which way fibres run through points of one height, (n, 3), pointing down."""
    along, across, half_length = _section_axes(x, y, sheet_at(z)[0])
    share = np.clip(along / half_length, -1, 1)
    position = (share + 1) / 2 * (last_position(z)[0] + 1) - 1
    offset = np.clip(across / sheet_at(z)[0, 4], -1.5, 1.5)
    ends = []
    for height in (min(z + 1, TOP_MM), max(z - 1, BOTTOM_MM)):
        sheet = sheet_at(height)[0]
        there = 2 * (position + 1) / (last_position(height)[0] + 1) - 1
        normal = np.array([-sheet[3], sheet[2]]) / np.hypot(sheet[2], sheet[3])
        spot = sheet[:2] + there[:, None] * sheet[2:4] + (offset * sheet[4])[:, None] * normal
        ends.append(np.column_stack([spot, np.full(len(x), height)]))
    tangent: Floats = ends[1] - ends[0]
    unit: Floats = tangent / np.linalg.norm(tangent, axis=1, keepdims=True)
    return unit


@lru_cache(maxsize=1)
def _passable() -> Mask:
    """Return where the tract may run: white matter at the height of the gyri, all but fluid below."""
    structures = mni.structures()
    white = mni.template("wm").array >= GYRAL_WHITE
    above = mni.coordinates(structures)[2] >= GYRI_MM
    fluid = np.isin(structures.array, (0, mni.CSF, mni.VENTRICLE))
    passable: Mask = np.where(above, white, ~fluid)
    return passable


@lru_cache(maxsize=1)
def _population() -> Floats32:
    """Return which share of varied right tracts covers each voxel, those half inside counted by half."""
    structures = mni.structures()
    x, y, heights = _plane(structures)
    box = (slice(int(np.searchsorted(x[:, 0], -1)), None), slice(*np.searchsorted(y[0], (-75, 25))))
    x, y = x[box], y[box]
    shift, thicker = _people(heights)
    total = np.zeros(structures.shape, np.float32)
    for k, z in enumerate(heights):
        if BOTTOM_MM <= z <= TOP_MM:
            sheet = sheet_at(z)[0]
            for person in range(PEOPLE):
                dx, dy = shift[person, :, k]
                edge = _distance(x - dx, y - dy, sheet) - thicker[person, k]
                total[(*box, k)] += np.clip(0.5 - edge, 0, 1)
    return np.asarray(total / PEOPLE * _passable(), np.float32)


def _people(heights: Floats) -> tuple[Floats, Floats]:
    """Return each person's shift (person, x and y, height) and added half thickness (person, height), mm."""
    rng = np.random.default_rng(20240806)
    white_noise = rng.normal(size=(PEOPLE // 2, 3, len(heights)))
    step_mm = float(heights[1] - heights[0])
    smooth = ndimage.gaussian_filter1d(white_noise, _ALONG_MM / step_mm, axis=2, mode="wrap")
    smooth /= smooth.std(axis=(0, 2), keepdims=True)
    both = np.concatenate([smooth, -smooth])  # in opposite pairs, so that the mean person is the atlas
    position, thickness = variation_mm(heights)
    return both[:, :2] * position, both[:, 2] * thickness
