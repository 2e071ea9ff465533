"""The refinement: a second network corrects, on finer voxels, what a first one says on coarse ones.

It sees the scan at half the voxel size in plane and in whole slices, the first network's logits of each
target, and the atlas of the tracts at the voxel's position. Its output replaces the first one's logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from ichnos.anatomy.tract import SIDES, population
from ichnos.arrays import Floats32
from ichnos.formats.dicom.geometry import shared_slabs
from ichnos.inference.backends import TileRunner
from ichnos.inference.channels import windows
from ichnos.inference.coordinates import AtlasCoordinates, sample_atlas
from ichnos.inference.grid import ReadingGrid, Weights, axis_weights, reading_grid, resampled
from ichnos.inference.prediction import Prediction, Refined
from ichnos.inference.sliding import slide
from ichnos.models import LOGIT_UNIT, Manifest, Model, Preprocessing
from ichnos.targets import label_values
from ichnos.volume import Box, Volume

LOGIT_LIMIT = 7.9  # of what the first network says: more is no surer
NEAR_LOGIT = -2.0  # of brain or ventricles: where neither reaches it there is nothing to refine
_BRAIN_HU = 34.0  # to which the median of the brain is moved
MARGIN_VOXELS = 5  # around that
_OVERLAP = 0.25  # of tiles


@dataclass(frozen=True, eq=False)
class RefinerInput:
    """What the refinement is shown, on its own grid over the head's box."""

    grid: ReadingGrid
    hu: Floats32  # (x, y, z), as scanned
    logits: Floats32  # (target, x, y, z), the first network's
    atlas: Floats32  # (side, x, y, z), share of a population's tracts
    coordinates: AtlasCoordinates | None


def refiner_input(
    first: Prediction, names: tuple[str, ...], spacing_mm: tuple[float, float, float]
) -> RefinerInput:
    """Lay the refinement's grid over the head and bring there what it is shown; `names` are the targets to
    be refined.
    """
    ras = first.scan.volume.reoriented("RAS")
    steps = slices_of(ras, spacing_mm)
    grid = reading_grid(ras, first.grid.box, steps).levelled(shared_slabs(first.scan))
    coarse_mm = first.model.manifest.preprocessing.spacing_mm
    rows = zip(first.grid.shape, coarse_mm, grid.shape, steps, strict=True)
    up: list[Weights] = [
        axis_weights(n_in, step_in, n_out, step_out) for n_in, step_in, n_out, step_out in rows
    ]
    said = np.clip(
        logit(np.clip([first.channel(name) for name in names], 1e-6, 1 - 1e-6)), -LOGIT_LIMIT, LOGIT_LIMIT
    )
    coordinates = first.atlas_coordinates()
    if coordinates is None:
        atlas = np.zeros((len(SIDES), *grid.shape), np.float32)
    else:
        at = np.stack([resampled(axis, up) for axis in coordinates.mni_mm])
        atlas = np.stack([sample_atlas(population(side), at) for side in SIDES])
    logits = np.stack([resampled(channel.astype(np.float32), up) for channel in said])
    return RefinerInput(grid, grid.pull(ras.array), logits, atlas, coordinates)


def slices_of(scan_ras: Volume, spacing_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return the refinement's voxel size for a scan: as asked for in plane, and so many whole slices as
    come nearest to it in depth.

    >>> scan = Volume(np.zeros((4, 4, 4)), np.diag([0.5, 0.5, 1.25, 1.0]))
    >>> slices_of(scan, (1.0, 1.0, 5.0))
    (1.0, 1.0, 5.0)
    """
    step = float(scan_ras.spacing_mm[2])
    return (spacing_mm[0], spacing_mm[1], step * max(1, round(spacing_mm[2] / step)))


def calibrated(hu: Floats32, logits: Floats32, names: tuple[str, ...]) -> Floats32:
    """Return HU with the scanner's zero moved so that the median of what the first network calls brain,
    and nothing else, is _BRAIN_HU.
    """
    others = [k for k, name in enumerate(names) if name == "ventricles" or name in label_values("haematoma")]
    tissue = (logits[names.index("brain")] > 0) & (logits[others] < 0).all(axis=0)
    return hu + np.float32(_BRAIN_HU - np.median(hu[tissue])) if tissue.any() else hu


def channels_of(hu: Floats32, logits: Floats32, atlas: Floats32, how: Preprocessing) -> Floats32:
    """Return what the refinement sees (channel, x, y, z): windows of calibrated HU, then what the first
    network said, then the atlas.
    """
    return np.concatenate(
        [windows(hu, how.windows_hu), logits / np.float32(LOGIT_UNIT), 2 * atlas - 1]
    ).astype(np.float32)


def region_of(logits: Floats32, names: tuple[str, ...]) -> Box:
    """Return the part of the grid in which brain or ventricles are possible, with a margin; all of it
    where there are none.
    """
    inside = np.logical_or.reduce(
        [logits[names.index(name)] > NEAR_LOGIT for name in ("brain", "ventricles")]
    )
    if not inside.any():
        return Box((0, 0, 0), inside.shape)
    found = [np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    start = tuple(max(0, int(where[0]) - MARGIN_VOXELS) for where in found)
    return Box(
        start,
        tuple(
            min(n, int(where[-1]) + MARGIN_VOXELS + 1) for where, n in zip(found, inside.shape, strict=True)
        ),
    )


def refine(first: Prediction, refinement: Model, run: TileRunner) -> Prediction:
    """Return the first network's answer together with what the refinement makes of it."""
    manifest = refinement.manifest
    names = names_of(manifest)
    look = refiner_input(first, names, manifest.preprocessing.spacing_mm)
    box = region_of(look.logits, names)
    at = (slice(None), *box.slices)
    hu = calibrated(look.hu[box.slices], look.logits[at], names)
    image = channels_of(hu, look.logits[at], look.atlas[at], manifest.preprocessing)
    # Beyond the region's edge tiles are filled with air, in which the first network is sure of nothing.
    logits = slide(image, run, patch=manifest.preprocessing.patch, channels=len(names), overlap=_OVERLAP)
    probabilities = np.zeros((len(names), *look.grid.shape), np.float32)
    probabilities[at] = expit(logits)
    return Prediction(
        first.probabilities,
        first.grid,
        first.scan,
        first.model,
        Refined(probabilities, look.grid, refinement, look.coordinates),
    )


def names_of(manifest: Manifest) -> tuple[str, ...]:
    """Return the targets that a refinement corrects, in the order of its channels."""
    return tuple(target.name for target in manifest.targets)
