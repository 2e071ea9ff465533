"""White-matter hyperintensities on a FLAIR exam, found without any trained network.

The steps: register the MNI template to the exam; even out the receive field (N4); learn the brightness of
normal-appearing white matter and of cortex where the template says they lie; call outliers above both, in the
white matter, hyperintense; leave out what is bright for another reason: cortex, infarcts that reach it, the
septum between the ventricles, plexus and flow inside them, everything under the tentorium, whatever the
caller excludes (a haematoma with its oedema), and large lesions that only one hemisphere has; then move the
edge of what is left until its volume is that of all brightness around it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from ichnos.anatomy import mni
from ichnos.arrays import Array
from ichnos.errors import InputRefused
from ichnos.registration.transform import Transform
from ichnos.transfer.flair.brightness import IN_PLANE, Brightness, even_brightness, learned_brightness
from ichnos.transfer.flair.exclusions import in_white_matter, reaching_surface, without_excluded
from ichnos.transfer.flair.template_maps import TemplateMaps, template_maps_on
from ichnos.transfer.flair.volume_cut import grown_to_volume
from ichnos.verdict import Reason, Verdict
from ichnos.volume import Box, Volume, volume_ml

MIN_SLICES = 6
MIN_COVERAGE_MM = 60.0
FINEST_MM = 1.0  # finer voxels are averaged to this before the search


@dataclass(frozen=True, eq=False)
class Hyperintensities:
    """White-matter hyperintensities on the grid of their FLAIR exam."""

    share: Volume  # float32, which share of each voxel is lesion, 0…1
    brightness: Brightness | None  # None for a mask that was given
    left_out: Volume  # bool: bright parts that were judged to be something else
    verdict: Verdict

    @property
    def mask(self) -> Volume:
        """Return the voxels that are at least half lesion."""
        return self.share.with_array(self.share.array >= 0.5)


def checked_flair(flair: Volume) -> Volume:
    """Return the exam as float32 with finite values, or refuse one that cannot be read.

    >>> checked_flair(Volume(np.zeros((64, 64, 20)), np.diag([3.0, 3, 6, 1])))
    Traceback (most recent call last):
    ichnos.errors.InputRefused: every voxel of the FLAIR exam is 0: the file holds no image; export the series
    again
    """
    if flair.array.ndim != 3:
        raise InputRefused(
            f"the FLAIR exam has shape {flair.array.shape}; one three-dimensional image is expected"
        )
    array = np.nan_to_num(flair.array.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if array.max() == array.min():
        raise InputRefused(
            f"every voxel of the FLAIR exam is {float(array.max()):g}: the file holds no image; export the"
            " series again"
        )
    covered = min(np.array(flair.shape) * np.array(flair.spacing_mm))
    if min(flair.shape) < MIN_SLICES or covered < MIN_COVERAGE_MM:
        raise InputRefused(
            f"the FLAIR exam has {min(flair.shape)} slices over {covered:.0f} mm; "
            f"{MIN_SLICES} slices and {MIN_COVERAGE_MM:.0f} mm are needed"
        )
    return flair.with_array(array)


def segment_hyperintensities(
    flair: Volume, *, flair_from_mni: Transform, exclude: Volume | None = None
) -> Hyperintensities:
    """Segment white-matter hyperintensities; `exclude` (any grid of the same space) marks blood, oedema or
    an infarct to leave out.
    """
    original = checked_flair(flair)
    work = _cropped(_working_grid(original), ~flair_from_mni)
    maps = template_maps_on(work, mni_from_exam=~flair_from_mni)
    even = even_brightness(work, maps)
    brightness, candidates = learned_brightness(even, maps)
    excluded = np.zeros(work.shape, bool)
    if exclude is not None:
        excluded = exclude.astype(np.float32).on_grid(work).array > 0.05
    kept, left_out = in_white_matter(even, candidates, brightness, maps, work)
    infarct = kept & reaching_surface((even > brightness.threshold) & ~excluded, maps, work)
    dim = ndimage.binary_opening((even > 1 + 0.7 * (brightness.threshold - 1)) & (maps.white > 0.5), IN_PLANE)
    kept, other = without_excluded(kept & ~infarct, excluded, work, flair_from_mni, partners=dim)
    left_out = left_out | infarct | other
    kept, cut = grown_to_volume(
        kept, even, brightness, maps, barred=left_out | excluded, spacing_mm=work.spacing_mm
    )
    brightness = replace(brightness, threshold=cut)
    share = work.with_array(_share_of_lesion(even, kept, brightness, maps) * ~excluded)
    rejected = work.with_array(left_out)
    verdict = _judge(brightness, maps, share, rejected)
    share = share if work.same_grid(original) else share.on_grid(original)
    return Hyperintensities(share, brightness, rejected.on_grid(original, interpolation="nearest"), verdict)


def _share_of_lesion(even: Array, kept: Array, brightness: Brightness, maps: TemplateMaps) -> Array:
    """Return which share of each voxel is lesion by its brightness: half at the threshold."""
    lesion = max(brightness.lesion, brightness.threshold + 0.05)
    share = np.interp(even, (1.0, brightness.threshold, lesion), (0.0, 0.5, 1.0))
    return np.where(_soft_edge(kept, even, brightness, maps), share, 0).astype(np.float32)


def _working_grid(flair: Volume) -> Volume:
    """Average voxels finer than 1 mm; thicker slices stay as they are."""
    upright = flair.reoriented("RAS")
    spacing = np.array(upright.spacing_mm)
    if (spacing > 0.8 * FINEST_MM).all():
        return upright
    blur = [0.4 * max(0.0, FINEST_MM / s - 1) for s in spacing]
    soft = upright.with_array(ndimage.gaussian_filter(upright.array, blur))
    return soft.resampled([float(max(s, FINEST_MM)) for s in spacing])


def _cropped(flair: Volume, mni_from_exam: Transform) -> Volume:
    """Cut out the brain with a margin, for speed."""
    coarse = flair.grid_with_spacing(6.0)
    brain = mni_from_exam.pull(mni.brain_mask().astype(np.float32), coarse).array > 0.2
    if not brain.any():
        raise InputRefused(
            "the MNI template and the FLAIR exam do not overlap: the exam may not show a head, or its"
            " position is damaged"
        )
    corners = coarse.world(np.argwhere(brain))
    index = flair.index(corners)
    start = np.clip(np.floor(index.min(0) - 8 / np.array(flair.spacing_mm)), 0, None).astype(int)
    stop = np.clip(np.ceil(index.max(0) + 8 / np.array(flair.spacing_mm)) + 1, None, flair.shape).astype(int)
    return flair.cropped(Box(tuple(int(i) for i in start), tuple(int(i) for i in stop)))


def _soft_edge(kept: Array, even: Array, brightness: Brightness, maps: TemplateMaps) -> Array:
    """Return the lesions with one voxel around them in the slice, where brightness tells that a share of
    it is lesion.
    """
    ring = ndimage.binary_dilation(kept, IN_PLANE) & (maps.white > 0.15)
    return np.asarray(kept | (ring & (even > 1 + 1.5 * brightness.white_spread)))


def _judge(brightness: Brightness, maps: TemplateMaps, found: Volume, left_out: Volume) -> Verdict:
    volume, other = volume_ml(found), volume_ml(left_out)
    # mL of cerebral white matter in the template at this probability
    cover = float((maps.white > 0.5).sum()) * found.voxel_ml / 420.0
    contrast = (brightness.lesion - 1) / brightness.white_spread
    brighter = (
        f"hyperintensities are {brightness.lesion:.2f} times as bright as white matter, {contrast:.1f} of its"
        " standard deviations above"
    )
    return Verdict(
        (
            _reason(
                "wmh_volume", volume < 150, f"{volume:.1f} mL of white-matter hyperintensity", volume, "mL"
            ),
            _reason(
                "white_matter_seen",
                cover > 0.6,
                f"about {cover:.0%} of the cerebral white matter is in view",
                cover,
            ),
            _reason("wmh_contrast", contrast > 4, brighter, contrast),
            _reason(
                "left_out",
                other < 15,
                f"{other:.1f} mL of bright tissue was judged to be something else",
                other,
                "mL",
            ),
        )
    )


def _reason(name: str, is_usual: bool, text: str, value: float, unit: str = "") -> Reason:
    return Reason(name, "pass" if is_usual else "warn", text, value, unit)
