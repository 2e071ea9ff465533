"""Surfaces of masks, and the distances between two of them, each surface element weighted by its area.

The surface follows Nikolov et al. (2021, J Med Internet Res 23:e26151): it passes through every cell of 2 x 2
x 2 voxel centres that holds both inside and outside; the element sits in the middle of the cell, and its area
is that of the polygons through the midpoints of the cut cell edges. Areas, not voxel counts, so that a 5 mm
slice does not weigh the same as a 0.5 mm pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

from ichnos.arrays import Floats, Mask
from ichnos.errors import InputRefused
from ichnos.volume import Volume

Cells = npt.NDArray[np.int64]
Spacing = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distance of every surface element of one mask to the nearest of the other, with areas. An empty mask
    has no elements.
    """

    truth_to_prediction_mm: Floats  # (t,) infinite where the prediction is empty
    prediction_to_truth_mm: Floats  # (p,) infinite where the truth is empty
    truth_area_mm2: Floats  # (t,)
    prediction_area_mm2: Floats  # (p,)

    @property
    def defined(self) -> bool:
        """Say whether both masks have a surface."""
        return self.truth_area_mm2.size > 0 and self.prediction_area_mm2.size > 0

    def assd_mm(self) -> float:
        """Return the average symmetric surface distance: the area-weighted mean over both surfaces; NaN if
        one is missing.
        """
        if not self.defined:
            return float("nan")
        total = (
            self.truth_to_prediction_mm @ self.truth_area_mm2
            + self.prediction_to_truth_mm @ self.prediction_area_mm2
        )
        return float(total / (self.truth_area_mm2.sum() + self.prediction_area_mm2.sum()))

    def hausdorff_mm(self, percentile: float = 95.0) -> float:
        """Return the greater of the two directed area-weighted percentiles (100: the plain Hausdorff
        distance); NaN if one is missing.
        """
        if not self.defined:
            return float("nan")
        there = _weighted_percentile(self.truth_to_prediction_mm, self.truth_area_mm2, percentile)
        back = _weighted_percentile(self.prediction_to_truth_mm, self.prediction_area_mm2, percentile)
        return max(there, back)

    def normalised_surface_distance(self, tolerance_mm: float) -> float:
        """Return the share of both surfaces that lies within the tolerance of the other; NaN if both are
        missing, 0 if one is.
        """
        area = self.truth_area_mm2.sum() + self.prediction_area_mm2.sum()
        if area == 0:
            return float("nan")
        near = self.truth_area_mm2[self.truth_to_prediction_mm <= tolerance_mm].sum()
        near += self.prediction_area_mm2[self.prediction_to_truth_mm <= tolerance_mm].sum()
        return float(near / area)


def surface_distances(truth: Volume, prediction: Volume) -> SurfaceDistances:
    """Measure the distances between the surfaces of two masks on one grid.

    >>> from ichnos.volume import sphere
    >>> ball = sphere(radius_mm=10, spacing_mm=1.0)
    >>> surface_distances(ball, ball).hausdorff_mm()
    0.0
    """
    require_same_grid(truth, prediction)
    return distances_between(truth.array != 0, prediction.array != 0, truth.spacing_mm)


def require_same_grid(truth: Volume, prediction: Volume) -> None:
    """Refuse two masks on different grids, and a grid whose axes are not at right angles."""
    if not truth.same_grid(prediction, tolerance_mm=1e-2):
        raise InputRefused(
            f"the predicted mask lies on another grid (shape {prediction.shape}, spacing {_mm(prediction)}"
            f" mm) than the true mask (shape {truth.shape}, spacing {_mm(truth)} mm); resample it with"
            " labels_on_grid first"
        )
    axes = truth.affine[:3, :3] / np.array(truth.spacing_mm)
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3:
        raise InputRefused(
            "the masks lie on a sheared grid, where distances along axes mean nothing; resample both to an"
            " orthogonal grid"
        )


def _mm(volume: Volume) -> str:
    return " x ".join(f"{step:.3g}" for step in volume.spacing_mm)


def distances_between(truth: Mask, prediction: Mask, spacing_mm: Spacing) -> SurfaceDistances:
    """Measure the distances between the surfaces of two boolean arrays (x, y, z)."""
    start, stop = union_box(truth, prediction)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    near = _nearest_steps(spacing_mm)
    truth_side, prediction_side = (
        _surface(mask[box], spacing_mm, near.reach) for mask in (truth, prediction)
    )
    there, back = (
        _nearest_mm(truth_side, prediction_side, near),
        _nearest_mm(prediction_side, truth_side, near),
    )
    return SurfaceDistances(there, back, truth_side.area_mm2, prediction_side.area_mm2)


@dataclass(frozen=True, eq=False)
class _Surface:
    """The surface cells of a mask, as flat indices into a grid of cells with a margin."""

    at: Cells  # (n,)
    area_mm2: Floats  # (n,)
    occupied: Mask  # (cells of the grid,) flat
    shape: tuple[int, ...]  # of the grid
    spacing_mm: Spacing

    def points_mm(self, at: Cells) -> Floats:
        points: Floats = np.stack(np.unravel_index(at, self.shape), axis=1) * np.array(self.spacing_mm)
        return points


@dataclass(frozen=True, eq=False)
class _Steps:
    """The shortest steps between cells of a grid, shortest first."""

    steps: Cells  # (s, 3)
    length_mm: Floats  # (s,)
    reach: tuple[int, ...]  # the furthest step along each axis


def _surface(mask: Mask, spacing_mm: Spacing, margin: tuple[int, ...]) -> _Surface:
    """Find the surface cells of a mask; what lies outside the array is outside the mask."""
    part = np.pad(mask, [(m + 1, m + 1) for m in margin])
    weights = np.array([part.shape[1] * part.shape[2], part.shape[2], 1])
    flat = part.view(np.uint8).ravel()  # the margin is empty, so a look past the end of a row finds nothing
    codes = np.zeros(flat.size, np.uint8)
    for bit, corner in enumerate(_CORNERS):
        shift = int(corner @ weights)
        codes[: flat.size - shift] |= flat[shift:] << np.uint8(bit)
    occupied = (codes + np.uint8(1)) > 1  # neither 0 (all outside) nor 255 (all inside)
    at = np.flatnonzero(occupied)
    return _Surface(at, _cell_areas(spacing_mm)[codes[at]], occupied, part.shape, spacing_mm)


def _nearest_mm(here: _Surface, other: _Surface, near: _Steps) -> Floats:
    """Return the distance of each cell to the nearest of the other surface: near ones by looking around, the
    rest by a k-d tree.

    Most cells of two masks worth comparing find a neighbour at one of the shortest steps, which are tried in
    order of length for all cells at once; whoever is found first is nearest.
    """
    from scipy.spatial import cKDTree

    distance = np.full(here.at.size, np.inf)
    if not here.at.size or not other.at.size:
        return distance
    home, open_ = here.at, np.arange(here.at.size)
    _, rows, columns = here.shape
    shifts = near.steps @ np.array([rows * columns, columns, 1])
    for shift, length_mm in zip(shifts, near.length_mm, strict=True):
        hit = other.occupied[home + shift]
        distance[open_[hit]] = length_mm
        miss = ~hit
        home, open_ = home[miss], open_[miss]
        if not open_.size:
            return distance
    tree = cKDTree(other.points_mm(other.at), balanced_tree=False, compact_nodes=False)
    distance[open_] = tree.query(here.points_mm(home))[0]
    return distance


@lru_cache(maxsize=64)
def _nearest_steps(spacing_mm: Spacing, count: int = 1024) -> _Steps:
    """List the shortest steps between cells; the ball that is searched for them holds about four times as
    many.
    """
    radius_mm = (count * np.prod(spacing_mm)) ** (1 / 3)
    limits = np.ceil(radius_mm / np.array(spacing_mm)).astype(int)
    steps = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in limits], indexing="ij"), axis=-1).reshape(
        -1, 3
    )
    length_mm = np.linalg.norm(steps * np.array(spacing_mm), axis=1)
    within = np.flatnonzero(length_mm <= radius_mm)
    order = within[np.argsort(length_mm[within], kind="stable")][:count]
    return _Steps(steps[order], length_mm[order], tuple(int(n) for n in np.abs(steps[order]).max(axis=0)))


def union_box(*masks: Mask) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return start and stop (half-open) of the box that holds every voxel of all masks; empty if there is
    none.

    >>> mask = np.zeros((4, 4, 4), bool)
    >>> mask[1, 2, 1:3] = True
    >>> union_box(mask)
    ((1, 2, 1), (2, 3, 3))
    """
    boxes = [box for box in map(_filled_box, masks) if box is not None]
    if not boxes:
        return (0, 0, 0), (0, 0, 0)
    return tuple(np.min([start for start, _ in boxes], axis=0).tolist()), tuple(
        np.max([stop for _, stop in boxes], axis=0).tolist()
    )


def _filled_box(mask: Mask) -> tuple[list[int], list[int]] | None:
    """Find the box of a mask in the order in which it lies in memory: the widest stride first, then the
    plane that is left.
    """
    order = np.argsort([-abs(s) for s in mask.strides], kind="stable")
    slabs = mask.transpose(order)
    if not slabs.size:
        return None
    rows = np.flatnonzero(slabs.reshape(len(slabs), -1).any(axis=1))
    if not rows.size:
        return None
    plane = np.logical_or.reduce(slabs[rows[0] : rows[-1] + 1], axis=0)
    start, stop = [0, 0, 0], [0, 0, 0]
    for axis, hits in zip(
        order, (rows, np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))), strict=True
    ):
        start[axis], stop[axis] = int(hits[0]), int(hits[-1]) + 1
    return start, stop


def _weighted_percentile(distance_mm: Floats, area_mm2: Floats, percentile: float) -> float:
    order = np.argsort(distance_mm, kind="stable")
    share = np.cumsum(area_mm2[order]) / area_mm2.sum()
    at = min(int(np.searchsorted(share, percentile / 100.0 - 1e-12)), len(order) - 1)
    return float(distance_mm[order[at]])


_CORNERS = np.array(list(product((0, 1), repeat=3)))


@lru_cache(maxsize=64)
def _cell_areas(spacing_mm: tuple[float, ...]) -> Floats:
    """Return the area in mm² for each of the 256 ways in which a cell's corners can be inside or outside."""
    areas = np.array([sum(_loop_area(loop, spacing_mm) for loop in _loops(code)) for code in range(256)])
    areas.setflags(write=False)
    return areas


def _loop_area(loop: list[tuple[float, ...]], spacing_mm: tuple[float, ...]) -> float:
    """Return the area enclosed by a closed polygon: the length of its vector area, which needs no
    triangulation.
    """
    points = np.array(loop) * np.asarray(spacing_mm)
    return float(np.linalg.norm(np.cross(points, np.roll(points, -1, axis=0)).sum(axis=0)) / 2)


def _loops(code: int) -> list[list[tuple[float, ...]]]:
    """Follow the polygons that separate the inside from the outside corners of a cell, through the middles
    of its cut edges.
    """
    links: dict[tuple[float, ...], list[tuple[float, ...]]] = {}
    for a, b in _cuts(code):
        links.setdefault(a, []).append(b)
        links.setdefault(b, []).append(a)
    loops = []
    while links:
        loop = [next(iter(links))]
        while links.get(loop[-1]):
            following = links[loop[-1]].pop()
            links[following].remove(loop[-1])
            loop.append(following)
        links = {point: ends for point, ends in links.items() if ends}
        loops.append(loop[:-1])
    return loops


def _cuts(code: int) -> Iterator[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Give the lines that separate inside from outside on the six faces of a cell, by their ends."""
    inside = {tuple(corner.tolist()) for bit, corner in enumerate(_CORNERS) if code >> bit & 1}
    for axis, side in product(range(3), (0, 1)):
        ring = [tuple(np.insert((u, v), axis, side).tolist()) for u, v in ((0, 0), (1, 0), (1, 1), (0, 1))]
        middles = [tuple((np.add(ring[i], ring[(i + 1) % 4]) / 2).tolist()) for i in range(4)]
        cut = [i for i in range(4) if (ring[i] in inside) != (ring[(i + 1) % 4] in inside)]
        if len(cut) == 2:
            yield middles[cut[0]], middles[cut[1]]
        elif len(cut) == 4:  # the two inside corners lie across, and each is cut off by itself
            yield from ((middles[i - 1], middles[i]) for i in range(4) if ring[i] in inside)


def _slow_surface_distances(truth: Mask, prediction: Mask, spacing_mm: Spacing) -> SurfaceDistances:
    """Measure the same by visiting every cell and every pair of elements: the oracle of the fast kernel,
    for small masks.
    """
    surfaces = []
    for mask in (truth, prediction):
        padded, points, areas = np.pad(mask, 1), [], []
        for cell in np.ndindex(*[n - 1 for n in padded.shape]):
            code = sum(1 << bit for bit, corner in enumerate(_CORNERS) if padded[tuple(corner + cell)])
            if 0 < code < 255:
                points.append(np.array(cell) * spacing_mm)
                areas.append(sum(_loop_area(loop, spacing_mm) for loop in _loops(code)))
        surfaces.append((np.array(points).reshape(-1, 3), np.array(areas)))
    (truth_mm, truth_area), (prediction_mm, prediction_area) = surfaces
    pairs = np.linalg.norm(truth_mm[:, None] - prediction_mm[None], axis=2)
    return SurfaceDistances(
        pairs.min(axis=1, initial=np.inf), pairs.min(axis=0, initial=np.inf), truth_area, prediction_area
    )
