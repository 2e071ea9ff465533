"""Diffusion MRI to the corticospinal tract: check, fit, track, select, and say where the tract is
interrupted.

Seeds lie along the atlas tract; probabilistic streamlines follow the fibre orientation distribution
(constrained spherical deconvolution, or peaks or FOD that are ready) inside a corridor around it. A
streamline belongs to the tract if it joins pons, internal capsule and motor cortex of one side and neither
crosses the midline above the pons nor enters the cerebellum. Where too few do, as beside a haematoma, the
parts below and above the gap are kept instead and the verdict says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ichnos.anatomy import mni
from ichnos.anatomy.bundles import SLOTS, bundles
from ichnos.anatomy.tract import SIDES, Side, atlas
from ichnos.errors import InputRefused, require
from ichnos.registration.transform import Transform
from ichnos.transfer.fibres import fod_from_diffusion
from ichnos.transfer.gradients import GradientTable, check_gradients
from ichnos.transfer.mri_to_mni import Placing, place_template
from ichnos.verdict import Level, Reason, Verdict
from ichnos.volume import Array, Box, Floats, Volume, volume_ml

CORRIDOR_MM = 10.0  # streamlines may leave the atlas tract by this much
SEEDS_MM = 1.5  # seeds lie within this distance of the atlas tract
STEP_MM = 0.6
MAX_ANGLE_DEG = 35.0
FEWEST = 40  # complete streamlines per side below which the tract counts as interrupted
DENSITY_MM = 1.25  # voxel size of the density map
PRIOR_MM = 3.0  # streamlines count less the farther they run from the atlas tract: standard deviation
TRACT_DENSITY = 0.3  # relative density at the edge of the tract's mask


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


PONS, PEDUNCLE, CAPSULE, CORONA, CORTEX = 1, 2, 3, 4, 5
_LOWER, _UPPER = (
    frozenset({PONS, PEDUNCLE, CAPSULE}),
    frozenset({CAPSULE, CORONA, CORTEX}),
)  # which levels a half of the tract joins
_PARTS = (
    frozenset({PONS, PEDUNCLE}),
    frozenset({CAPSULE, CORONA}),
    frozenset({CORONA, CORTEX}),
)  # what is left beside a gap
_NAMES = {
    PONS: "pons",
    PEDUNCLE: "cerebral peduncle",
    CAPSULE: "internal capsule",
    CORONA: "corona radiata",
    CORTEX: "motor cortex",
}


@dataclass(frozen=True, eq=False)
class Tract:
    """One side's corticospinal tract in the space of its diffusion exam."""

    side: Side
    streamlines: tuple[Floats, ...]  # each (n, 3), RAS mm
    density: (
        Volume  # float32, 0…1: streamlines in a voxel relative to the fullest at its height, times the prior
    )
    complete: int  # streamlines from pons to cortex
    interrupted: bool

    @property
    def mask(self) -> Volume:
        """Return the voxels that enough streamlines visit."""
        return self.density.with_array(self.density.array >= TRACT_DENSITY)


@dataclass(frozen=True, eq=False)
class Tractography:
    """Both tracts, and all that leads to trusting them."""

    tracts: dict[Side, Tract]
    fa: Volume  # float32; zero everywhere where ready peaks or FOD were given
    placing: Placing
    verdict: Verdict
    table: GradientTable | None = field(default=None)  # as corrected; None for ready peaks or FOD


def brain_of_b0(b0: Volume) -> Volume:
    """Return the brain on an unweighted diffusion image: what is brighter than air and skull, in one
    piece, holes filled.
    """
    image = ndimage.median_filter(b0.array.astype(np.float32), 3)
    positive = image[image > 0]
    if positive.size == 0 or float(positive.max()) == float(image.min()):
        raise InputRefused(
            "the unweighted diffusion image is empty: every voxel has the same value; export the series again"
        )
    import SimpleITK as sitk

    level = sitk.OtsuThresholdImageFilter()
    level.Execute(sitk.GetImageFromArray(np.clip(image, 0, np.percentile(positive, 98))))
    body = ndimage.binary_erosion(image > 0.8 * level.GetThreshold(), iterations=1)
    labels, count = ndimage.label(body)
    if count == 0:
        raise InputRefused(
            "no brain was found on the unweighted diffusion image; give a diffusion exam of a head"
        )
    largest = labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
    mask = ndimage.binary_fill_holes(ndimage.binary_dilation(largest, iterations=2))
    return b0.with_array(np.asarray(mask))


def track(
    dwi: Volume,
    table: GradientTable,
    *,
    placing: Placing | None = None,
    exclude: Volume | None = None,
    denoise: bool = False,
    seeds_per_side: int = 4000,
    rng_seed: int = 1,
    threads: int = 1,
) -> Tractography:
    """Track both corticospinal tracts in a diffusion exam (x, y, z, n); `exclude` is a haematoma, any grid
    of the same space.
    """
    if dwi.array.ndim != 4:
        raise InputRefused(
            f"the diffusion exam has shape {dwi.array.shape}; a series of images (x, y, z, n) is expected"
        )
    if min(dwi.shape) < 12:
        raise InputRefused(
            f"the diffusion exam has {dwi.shape} voxels; at least 12 slices are needed to follow a tract"
            " through them"
        )
    dwi = dwi.with_array(np.nan_to_num(dwi.array.astype(np.float32)))
    first = _unweighted_mean(dwi, table)
    brain = brain_of_b0(first)
    if denoise:
        dwi = _denoised(dwi, brain, table)
    placing = placing or place_template(first, weighting="b0", exclude=exclude, threads=threads)
    checked = check_gradients(dwi, table, brain.array, expected_directions(first, placing))
    box = _tract_box(dwi, placing)
    part = dwi.cropped(box)
    fa, md = checked.tensor.fa[box.slices], checked.tensor.md[box.slices]
    inside = (
        brain.cropped(box).array & (fa > 0.05) & (md < 1.5e-3)
    )  # no fluid; cortex has little anisotropy, and tracts end in it
    regions = {side: regions_on(part, placing.mni_from_exam, side) for side in SIDES}
    where = inside & (regions["left"].corridor | regions["right"].corridor)
    fod = fod_from_diffusion(part, checked.table, where, fa=fa, md=md)
    fibres = _Fibres(part, fod, where, placing.mni_from_exam)
    tracts = {
        s: _tract(fibres, regions[s], s, seeds=seeds_per_side, rng_seed=rng_seed, threads=threads)
        for s in SIDES
    }
    verdict = checked.verdict + _judge(tracts, placing)
    return Tractography(tracts, first.with_array(checked.tensor.fa), placing, verdict, checked.table)


def track_fod(
    fod: Array,
    grid: Volume,
    *,
    placing: Placing,
    seeds_per_side: int = 4000,
    rng_seed: int = 1,
    threads: int = 1,
) -> Tractography:
    """Track with a fibre orientation distribution that is ready (`fibres.fod_from_peaks`,
    `fibres.fod_from_mrtrix`) on a grid.
    """
    box = _tract_box(grid, placing)
    part, there = grid.cropped(box), fod[box.slices]
    regions = {side: regions_on(part, placing.mni_from_exam, side) for side in SIDES}
    where = (np.abs(there).sum(axis=-1) > 0) & (regions["left"].corridor | regions["right"].corridor)
    fibres = _Fibres(part, there, where, placing.mni_from_exam)
    tracts = {
        s: _tract(fibres, regions[s], s, seeds=seeds_per_side, rng_seed=rng_seed, threads=threads)
        for s in SIDES
    }
    return Tractography(
        tracts, grid.with_array(np.zeros(grid.shape, np.float32)), placing, _judge(tracts, placing)
    )


def _unweighted_mean(dwi: Volume, table: GradientTable) -> Volume:
    if len(table) != dwi.array.shape[3]:
        raise InputRefused(
            f"the diffusion exam holds {dwi.array.shape[3]} images and its gradient table {len(table)} rows;"
            " both must agree"
        )
    smallest = table.b_values <= max(float(table.b_values.min()), 0.05 * float(table.b_values.max()))
    return dwi.with_array(dwi.array[..., smallest].mean(axis=-1))


def _denoised(dwi: Volume, brain: Volume, table: GradientTable) -> Volume:
    """Remove noise by the random-matrix method (MP-PCA); slow, and of use where the noise is strong."""
    localpca = require("dipy.denoise.localpca", extra="diffusion", purpose="denoising")
    radius = 2 if len(table) <= 125 else 3
    return dwi.with_array(
        np.asarray(localpca.mppca(dwi.array, mask=brain.array, patch_radius=radius), np.float32)
    )


# ---- regions
# ------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _regions_in_mni(side: Side) -> Volume:
    """Return distance outside the tract (mm), seeds, forbidden and the levels as channels of an MNI image."""
    tract = atlas(side)
    x, y, z = mni.coordinates(tract.distance_mm)
    x = x * (1 if side == "right" else -1)
    outside_mm = ndimage.distance_transform_edt(~tract.mask.array)
    near = outside_mm <= 5.0
    edges = np.array([-40.0, -22.0, -4.0, 16.0, 34.0])
    level = np.where(near & (z >= edges[0]), np.searchsorted(edges, z, side="right"), 0)
    cortex = (
        (outside_mm <= 8.0) & (z > 34.0) & (ndimage.gaussian_filter(mni.template("gm").array, 2.0) > 0.12)
    )
    level = np.where((level == CORTEX) & ~cortex, CORONA, level)
    codes = mni.structures().array
    crosses = (x < 1.0) & (z > -22.0)
    forbidden = (
        crosses
        | np.isin(codes, (mni.CEREBELLAR_CORTEX, mni.CEREBELLAR_WHITE))
        | (x < -6)
        | ((y < -48) & (z < 0))
    )
    channels = [
        np.minimum(outside_mm, 30.0),
        outside_mm <= SEEDS_MM,
        forbidden,
        *[level == k for k in _NAMES],
    ]
    return Volume(np.stack([c.astype(np.float32) for c in channels], axis=-1), tract.distance_mm.affine)


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


def expected_directions(grid: Volume, placing: Placing) -> Floats:
    """Return which way fibres run on a grid by the atlas, (x, y, z, 3) world unit vectors, zero where it
    is not sure.
    """
    points, ways = _known_courses()
    at = placing.exam_from_mni.map(points)
    turned = placing.exam_from_mni.map(points + 2 * ways) - at
    index = np.round(grid.index(at)).astype(int)
    inside = ((index >= 0) & (index < grid.shape)).all(axis=1)
    expected = np.zeros((*grid.shape, 3))
    expected[tuple(index[inside].T)] = (turned / np.linalg.norm(turned, axis=1, keepdims=True))[inside]
    return expected


def _tract_box(dwi: Volume, placing: Placing) -> Box:
    empty = Volume(np.empty(dwi.shape, np.uint8), dwi.affine).grid_with_spacing(4.0)
    both = (
        regions_on(empty, placing.mni_from_exam, "left").corridor
        | regions_on(empty, placing.mni_from_exam, "right").corridor
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


# ---- tracking
# ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Fibres:
    """What streamlines run through."""

    grid: Volume
    fod: Array  # (x, y, z, 45)
    where: Array  # (x, y, z) bool: white matter and cortex in the corridors
    mni_from_exam: Transform


def _tract(
    fibres: _Fibres, regions: Regions, side: Side, *, seeds: int, rng_seed: int, threads: int
) -> Tract:
    """Track, select and count one side."""
    grid, where = fibres.grid, fibres.where
    allowed = where & regions.corridor
    lines = _streamlines(
        grid, fibres.fod, allowed, regions.seeds & where, count=seeds, rng_seed=rng_seed, threads=threads
    )
    visited = [_levels_of(line, grid, regions.level) for line in lines]
    complete = sum(_LOWER | _UPPER <= seen for seen in visited)
    interrupted = complete < FEWEST
    wanted = _PARTS if interrupted else (_LOWER, _UPPER)
    kept = [
        line for line, seen in zip(lines, visited, strict=True) if any(levels <= seen for levels in wanted)
    ]
    density = _density(kept, grid)
    away_mm = fibres.mni_from_exam.pull(_distance_in_mni(side), density, fill=30.0).array
    density = density.with_array(
        np.asarray(density.array * np.exp(-0.5 * (away_mm / PRIOR_MM) ** 2), np.float32)
    )
    return Tract(side, tuple(kept), density, complete, interrupted)


def _distance_in_mni(side: Side) -> Volume:
    """Return the distance to the atlas tract, mm, 0 inside."""
    regions = _regions_in_mni(side)
    return Volume(regions.array[..., 0], regions.affine)


def _streamlines(
    grid: Volume, fod: Array, allowed: Array, seeds: Array, *, count: int, rng_seed: int, threads: int
) -> list[Floats]:
    tracker = require("dipy.tracking.tracker", extra="diffusion", purpose="tractography")
    stopping = require("dipy.tracking.stopping_criterion", extra="diffusion", purpose="tractography")
    index = np.argwhere(seeds & allowed)
    if len(index) == 0:
        return []
    rng = np.random.default_rng(rng_seed)
    at = index[rng.integers(len(index), size=count)] + rng.uniform(-0.5, 0.5, (count, 3))
    found: Any = tracker.probabilistic_tracking(
        np.ascontiguousarray(grid.world(at)),
        stopping.BinaryStoppingCriterion(allowed),
        np.array(grid.affine),
        sh=np.ascontiguousarray(fod, np.float64),
        basis_type="descoteaux07",
        legacy=False,
        step_size=STEP_MM,
        max_angle=MAX_ANGLE_DEG,
        pmf_threshold=0.1,
        min_len=20,
        max_len=250,
        random_seed=rng_seed,
        nbr_threads=threads,
        return_all=True,
    )
    lines = found.streamlines if hasattr(found, "streamlines") else found
    return [np.asarray(line, np.float64) for line in lines]


def _levels_of(line: Floats, grid: Volume, level: Array) -> frozenset[int]:
    index = np.round(grid.index(line)).astype(int)
    index = np.clip(index, 0, np.array(grid.shape) - 1)
    return frozenset(int(k) for k in np.unique(level[tuple(index.T)]))


def _density(lines: Sequence[Floats], grid: Volume) -> Volume:
    """Return how many streamlines visit each voxel of a fine grid, relative to the fullest voxel at its
    height along the body.

    A tract of constant flow fans out towards the cortex, so that its density falls though every voxel of it
    is tract: hence the relation to its own height.
    """
    fine = grid.reoriented("RAS").grid_with_spacing(DENSITY_MM)
    total = np.zeros(fine.shape, np.float32)
    for line in lines:
        index = np.unique(
            np.clip(np.round(fine.index(line)).astype(int), 0, np.array(fine.shape) - 1), axis=0
        )
        total[tuple(index.T)] += 1
    smooth = ndimage.gaussian_filter(total, 0.8)
    fullest = ndimage.gaussian_filter1d(smooth.max(axis=(0, 1)), 3.0)
    return fine.with_array(np.asarray(np.clip(smooth / np.maximum(fullest, 0.5), 0, 1), np.float32))


# ---- verdict and output
# ---------------------------------------------------------------------------------------------


def _judge(tracts: dict[Side, Tract], placing: Placing) -> Verdict:
    level: Level = "pass" if placing.correlation > 0.3 else "warn"
    text = f"the MNI template correlates with the unweighted image at {placing.correlation:.2f} after placing"
    reasons = [Reason("template_placing", level, text, placing.correlation)]
    for side, tract in tracts.items():
        reasons.append(_side_reason(side, tract))
    left, right = (volume_ml(tracts[side].mask) for side in SIDES)
    ratio = min(left, right) / max(left, right, 1e-6)
    level = "pass" if ratio > 0.4 else "warn"
    reasons.append(
        Reason(
            "tract_symmetry", level, f"tract volumes are {left:.1f} mL left and {right:.1f} mL right", ratio
        )
    )
    return Verdict(tuple(reasons))


def _side_reason(side: Side, tract: Tract) -> Reason:
    if not tract.streamlines:
        return Reason(
            f"tract_{side}",
            "refuse",
            f"no streamline follows the {side} tract; it is not shown to be absent",
            0.0,
        )
    if tract.interrupted:
        text = (
            f"only {tract.complete} streamlines join pons and motor cortex on the {side}: the tract is"
            " interrupted or not resolved"
        )
        return Reason(f"tract_{side}", "warn", text, float(tract.complete))
    return Reason(
        f"tract_{side}",
        "pass",
        f"{tract.complete} streamlines join pons and motor cortex on the {side}",
        float(tract.complete),
    )


def density_on_ct(tract: Tract, *, exam_from_ct: Transform, ct: Volume) -> Volume:
    """Carry a tract's density onto the CT grid, averaged over each CT voxel; `>= TRACT_DENSITY` is its
    mask there.
    """
    density = exam_from_ct.pull_share(tract.density, ct)
    return density


def save_streamlines(tract: Tract, path: Path, *, reference: Volume) -> None:
    """Write streamlines as .tck or .trx (RAS mm)."""
    tractogram: Any = require(
        "nibabel.streamlines.tractogram", extra="diffusion", purpose="writing streamlines"
    )
    path = Path(path)
    if path.suffix not in (".tck", ".trx"):
        raise InputRefused(f"{path}: streamlines are written as .tck or .trx")
    held = tractogram.Tractogram(
        [line.astype(np.float32) for line in tract.streamlines], affine_to_rasmm=np.eye(4)
    )
    if path.suffix == ".tck":
        require("nibabel.streamlines.tck", extra="diffusion", purpose="writing .tck").TckFile(held).save(
            str(path)
        )
        return
    trx = require("trx.trx_file_memmap", extra="diffusion", purpose="writing .trx")
    grid = reference.with_array(np.zeros(reference.shape, np.uint8)).to_nibabel()
    file = trx.TrxFile.from_tractogram(held, reference=grid)
    trx.save(file, str(path))
    file.close()
