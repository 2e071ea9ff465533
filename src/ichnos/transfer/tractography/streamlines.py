"""Streamlines of one side: tracked, selected by the levels they join, counted into a density, written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ichnos.anatomy.tract import Side, population
from ichnos.arrays import Array, Floats
from ichnos.errors import InputRefused, require
from ichnos.registration.transform import Transform
from ichnos.transfer.tractography.regions import (
    CAPSULE,
    CORONA,
    CORTEX,
    PEDUNCLE,
    PONS,
    Regions,
)
from ichnos.volume import Volume

STREAMLINE_STEP_MM = 0.6
MAX_ANGLE_DEG = 35.0
FEWEST_STREAMLINES = 40  # complete streamlines per side below which the tract counts as interrupted
DENSITY_MM = 1.25  # voxel size of the density map
SHADOW_MM = 3.0  # so near a haematoma with its oedema tissue is pushed about, and the atlas has no veto:
SHADOW_SHARE = 0.3  # its share is at least this there, so that well-visited voxels stay
# Membership at the edge of the tract's mask: the geometric mean of two shares, how often streamlines visit
# the voxel relative to the fullest at its height, and how many people have their tract there: 0.3 is reached
# where both are 0.3. `benchmarks/labels.py` prints volume and overlap by cut-off.
TRACT_CUT_OFF = 0.3
_LOWER, _UPPER = (
    frozenset({PONS, PEDUNCLE, CAPSULE}),
    frozenset({CAPSULE, CORONA, CORTEX}),
)  # which levels a half of the tract joins
_PARTS = (
    frozenset({PONS, PEDUNCLE}),
    frozenset({CAPSULE, CORONA}),
    frozenset({CORONA, CORTEX}),
)  # what is left beside a gap


@dataclass(frozen=True, eq=False)
class Tract:
    """One side's corticospinal tract in the space of its diffusion exam."""

    side: Side
    streamlines: tuple[Floats, ...]  # each (n, 3), RAS mm
    # float32, 0…1: streamlines in a voxel relative to the fullest at its height, and the atlas's share there,
    # as their geometric mean
    density: Volume
    complete: int  # streamlines from pons to cortex
    interrupted: bool

    @property
    def mask(self) -> Volume:
        """Return the voxels that enough streamlines visit."""
        return self.density.with_array(self.density.array >= TRACT_CUT_OFF)


@dataclass(frozen=True, eq=False)
class FibreField:
    """What streamlines run through."""

    grid: Volume
    fod: Array  # (x, y, z, 45)
    where: Array  # (x, y, z) bool: white matter and cortex in the corridors
    mni_from_exam: Transform
    shadow: Volume | None  # mask of a haematoma with its oedema, any grid of the same space


def tracked_tract(
    fibres: FibreField, regions: Regions, side: Side, *, seeds: int, rng_seed: int, threads: int
) -> Tract:
    """Track, select and count one side."""
    grid, where = fibres.grid, fibres.where
    allowed = where & regions.corridor
    lines = _streamlines(
        grid, fibres.fod, allowed, regions.seeds & where, count=seeds, rng_seed=rng_seed, threads=threads
    )
    visited = [_levels_of(line, grid, regions.level) for line in lines]
    complete = sum(_LOWER | _UPPER <= seen for seen in visited)
    interrupted = complete < FEWEST_STREAMLINES
    wanted = _PARTS if interrupted else (_LOWER, _UPPER)
    kept = [
        line for line, seen in zip(lines, visited, strict=True) if any(levels <= seen for levels in wanted)
    ]
    density = _density(kept, grid)
    share = atlas_share(fibres, side, density)
    density = density.with_array(np.sqrt(density.array * share).astype(np.float32))
    return Tract(side, tuple(kept), density, complete, interrupted)


def atlas_share(fibres: FibreField, side: Side, grid: Volume) -> Array:
    """Return which share of people has the tract in each voxel of a grid, the atlas bent as the exam is.

    In the shadow of a haematoma it is at least SHADOW_SHARE, so that streamlines decide there.
    """
    share = fibres.mni_from_exam.pull(population(side), grid).array
    if fibres.shadow is not None:
        shadow = fibres.shadow.astype(np.float32).on_grid(grid).array > 0.3
        if shadow.any():
            near = ndimage.distance_transform_edt(~shadow, sampling=grid.spacing_mm) <= SHADOW_MM
            share = np.where(near, np.maximum(share, SHADOW_SHARE), share)
    return np.asarray(share, np.float32)


_TRACKING: dict[str, Any] = {
    "basis_type": "descoteaux07",
    "legacy": False,
    "step_size": STREAMLINE_STEP_MM,
    "max_angle": MAX_ANGLE_DEG,
    "pmf_threshold": 0.1,
    "min_len": 20,
    "max_len": 250,
    "return_all": True,
}


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
        random_seed=rng_seed,
        nbr_threads=threads,
        **_TRACKING,
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


def density_on_ct(tract: Tract, *, exam_from_ct: Transform, ct: Volume) -> Volume:
    """Carry a tract's density onto the CT grid, averaged over each CT voxel."""
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
