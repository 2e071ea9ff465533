"""Track the corticospinal tract: check, fit, track, select, and say where the tract is interrupted.

Seeds lie along the atlas tract; probabilistic streamlines follow the fibre orientation distribution
(constrained spherical deconvolution, or peaks or FOD that are ready) inside a corridor around it. A
streamline belongs to the tract if it joins pons, internal capsule and motor cortex of one side and neither
crosses the midline above the pons nor enters the cerebellum. Where too few do, as beside a haematoma, the
parts below and above the gap are kept instead and the verdict says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from ichnos.anatomy.tract import SIDES, Side
from ichnos.arrays import Array
from ichnos.errors import InputRefused, require
from ichnos.transfer.mri_to_mni import MriToMni, register_mri_to_mni
from ichnos.transfer.tractography.fibres import fod_from_diffusion
from ichnos.transfer.tractography.gradient_check import check_gradients
from ichnos.transfer.tractography.gradients import GradientTable
from ichnos.transfer.tractography.regions import expected_directions, regions_on, tract_box
from ichnos.transfer.tractography.streamlines import FibreField, Tract, tracked_tract
from ichnos.verdict import Level, Reason, Verdict
from ichnos.volume import Volume, volume_ml


@dataclass(frozen=True, eq=False)
class Tractography:
    """Both tracts, and all that leads to trusting them."""

    tracts: dict[Side, Tract]
    fa: Volume  # float32; zero everywhere where ready peaks or FOD were given
    to_mni: MriToMni
    verdict: Verdict
    table: GradientTable | None = field(default=None)  # as corrected; None for ready peaks or FOD


def track(
    dwi: Volume,
    table: GradientTable,
    *,
    to_mni: MriToMni | None = None,
    exclude: Volume | None = None,
    denoise: bool = False,
    seeds_per_side: int = 4000,
    rng_seed: int = 1,
    threads: int = 1,
) -> Tractography:
    """Track both corticospinal tracts in a diffusion exam (x, y, z, n); `exclude` is a haematoma, any grid
    of the same space.
    """
    dwi = _checked_series(dwi)
    first = _unweighted_mean(dwi, table)
    brain = brain_of_b0(first)
    if denoise:
        dwi = _denoised(dwi, brain, table)
    to_mni = to_mni or register_mri_to_mni(first, weighting="b0", exclude=exclude, threads=threads)
    checked = check_gradients(dwi, table, brain.array, expected_directions(first, to_mni))
    box = tract_box(dwi, to_mni)
    part = dwi.cropped(box)
    fa, md = checked.tensor.fa[box.slices], checked.tensor.md[box.slices]
    # no fluid; cortex has little anisotropy, and tracts end in it
    inside = brain.cropped(box).array & (fa > 0.05) & (md < 1.5e-3)
    sides = _Sides(part, to_mni)
    where = inside & sides.corridor
    fod = fod_from_diffusion(part, checked.table, where, fa=fa, md=md)
    fibres = FibreField(part, fod, where, to_mni.mni_from_exam, exclude)
    tracts = sides.tracked(fibres, seeds=seeds_per_side, rng_seed=rng_seed, threads=threads)
    verdict = checked.verdict + _judge(tracts, to_mni)
    return Tractography(tracts, first.with_array(checked.tensor.fa), to_mni, verdict, checked.table)


def _checked_series(dwi: Volume) -> Volume:
    """Return the images as float32 with finite values, or refuse what no tract can be followed in."""
    if dwi.array.ndim != 4:
        raise InputRefused(
            f"the diffusion exam has shape {dwi.array.shape}; a series of images (x, y, z, n) is expected"
        )
    if min(dwi.shape) < 12:
        raise InputRefused(
            f"the diffusion exam has {dwi.shape} voxels; at least 12 slices are needed to follow a tract"
            " through them"
        )
    return dwi.with_array(np.nan_to_num(dwi.array.astype(np.float32)))


class _Sides:
    """The regions of both tracts on one grid, and tracking through them."""

    def __init__(self, grid: Volume, to_mni: MriToMni) -> None:
        self.regions = {side: regions_on(grid, to_mni.mni_from_exam, side) for side in SIDES}

    @property
    def corridor(self) -> Array:
        """Return where the tract of either side may run (bool)."""
        return np.asarray(self.regions["left"].corridor | self.regions["right"].corridor)

    def tracked(self, fibres: FibreField, *, seeds: int, rng_seed: int, threads: int) -> dict[Side, Tract]:
        """Track each side."""
        return {
            side: tracked_tract(fibres, regions, side, seeds=seeds, rng_seed=rng_seed, threads=threads)
            for side, regions in self.regions.items()
        }


def track_fod(
    fod: Array,
    grid: Volume,
    *,
    to_mni: MriToMni,
    exclude: Volume | None = None,
    seeds_per_side: int = 4000,
    rng_seed: int = 1,
    threads: int = 1,
) -> Tractography:
    """Track with a fibre orientation distribution that is ready (`fibres.fod_from_peaks`,
    `fibres.fod_from_mrtrix`) on a grid.
    """
    box = tract_box(grid, to_mni)
    part, there = grid.cropped(box), fod[box.slices]
    sides = _Sides(part, to_mni)
    where = (np.abs(there).sum(axis=-1) > 0) & sides.corridor
    fibres = FibreField(part, there, where, to_mni.mni_from_exam, exclude)
    tracts = sides.tracked(fibres, seeds=seeds_per_side, rng_seed=rng_seed, threads=threads)
    no_fa = grid.with_array(np.zeros(grid.shape, np.float32))
    return Tractography(tracts, no_fa, to_mni, _judge(tracts, to_mni))


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


def _judge(tracts: dict[Side, Tract], to_mni: MriToMni) -> Verdict:
    level: Level = "pass" if to_mni.correlation > 0.3 else "warn"
    text = f"the MNI template correlates with the unweighted image at {to_mni.correlation:.2f} after placing"
    reasons = [Reason("template_placing", level, text, to_mni.correlation)]
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
