"""Where the MNI template lies in an MRI: a template painted in the exam's own contrast, then a search for the
pose, affine and warp.

A skull-stripped T1 template and a whole-head FLAIR have too little in common: mutual information, left to
itself, shrinks one into the other. So the template is painted to look like the exam (FLAIR or unweighted
diffusion, with fluid, skull and scalp around the brain where the exam has them), and local correlation is
then the right metric.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from ichnos.anatomy import mni
from ichnos.errors import InputRefused, require
from ichnos.registration.contrast import View, view
from ichnos.registration.rigid import coarse_poses
from ichnos.registration.transform import Displacement, Transform
from ichnos.volume import Affine, Array, Volume

Weighting = Literal["flair", "b0"]

# Brightness of white matter, grey matter, fluid, skull, scalp.
_LOOK: dict[Weighting, tuple[float, float, float, float, float]] = {
    "flair": (1.0, 1.22, 0.2, 0.15, 1.1),
    "b0": (0.42, 0.52, 1.0, 0.02, 0.15),
}
SPACING_MM = 3.0  # at which affine and warp are found
SECTION_CM2 = (
    185.0,
    260.0,
)  # largest axial section: below, surely a brain without its skull; above, surely a head
_LOWEST_MM = -45.0  # below this MNI height necks and faces differ too much to help


@dataclass(frozen=True, eq=False)
class MriToMni:
    """Where MNI space lies in an exam."""

    exam_from_mni: Transform
    correlation: float  # of the painted template with the exam inside the brain, -1…1
    stripped: bool  # the exam shows a brain without its skull

    @property
    def mni_from_exam(self) -> Transform:
        """Return the inverse map."""
        return ~self.exam_from_mni


def register_mri_to_mni(
    exam: Volume,
    *,
    weighting: Weighting,
    exclude: Volume | None = None,
    deformable: bool = True,
    threads: int = 1,
) -> MriToMni:
    """Find MNI space in an exam of any pose; `exclude` is a mask in the exam's space (a haematoma) that
    takes no part in the warp.
    """
    seen = view(exam, spacing_mm=SPACING_MM, contrast="mri")
    coarse = view(exam, spacing_mm=4.0, contrast="mri")
    begun = [(look, _begun(seen, coarse, weighting, stripped=look, threads=threads)) for look in _looks(seen)]
    wide = {look: _with_rim(weighting, stripped=look) for look, _ in begun}
    stripped, best = max(begun, key=lambda item: correlation(item[1], wide[item[0]], seen))
    inner = _fixed(weighting, stripped=stripped, inner=True)  # the painted skull has done its part
    scaled = _affine(inner, seen, best, rigid=False, threads=threads)
    best = max((best, scaled), key=lambda t: correlation(t, inner, seen))
    if deformable:
        best = best @ _warp(inner, seen, best, exclude=exclude, threads=threads)
    return MriToMni(best, correlation(best, inner, seen), stripped)


def _with_rim(weighting: Weighting, *, stripped: bool) -> View:
    """Return the painted template with the rim of the head, where the looks with and without skull differ."""
    head = _fixed(weighting, stripped=False, inner=False).head
    return View(painted_template(weighting, stripped=stripped), head, "mri")


def _looks(seen: View) -> tuple[bool, ...]:
    """Return whether the exam may be a brain without its skull: yes, no, or both to be tried, by its
    largest axial section.
    """
    largest_cm2 = float(seen.head.array.sum(axis=(0, 1)).max()) * SPACING_MM**2 / 100
    return (
        (True,)
        if largest_cm2 < SECTION_CM2[0]
        else (False,)
        if largest_cm2 > SECTION_CM2[1]
        else (True, False)
    )


def _fixed(weighting: Weighting, *, stripped: bool, inner: bool) -> View:
    painted = painted_template(weighting, stripped=stripped)
    return View(painted, painted.with_array(_metric_zone(painted, stripped=stripped or inner)), "mri")


def _begun(seen: View, coarse: View, weighting: Weighting, *, stripped: bool, threads: int) -> Transform:
    """Find the pose with one look of the template."""
    fixed = _fixed(weighting, stripped=stripped, inner=False)
    poses = coarse_poses(_coarsened(fixed), coarse, keep=2, rng=np.random.default_rng(0), exclude=None)
    tried = [_affine(fixed, seen, pose, rigid=True, threads=threads) for pose in poses]
    return max(tried, key=lambda t: correlation(t, fixed, seen))


@lru_cache(maxsize=4)
def painted_template(weighting: Weighting, *, stripped: bool) -> Volume:
    """Return the MNI template at SPACING_MM painted like a contrast, 0…1, with a plain skull and scalp
    unless stripped.
    """
    white, grey, fluid, skull, scalp = _LOOK[weighting]
    maps = [mni.template("wm"), mni.template("gm"), mni.brain_mask().astype(np.float32)]
    grid = mni.template("wm").padded((14, 14, 14), (14, 14, 14)).resampled(SPACING_MM)
    wm, gm, brain = (m.on_grid(grid).array for m in maps)
    distance = ndimage.distance_transform_edt(brain < 0.5) * SPACING_MM
    image = np.select([distance <= 3, distance <= 9, distance <= 15], [fluid, skull, scalp], 0.0)
    inside = brain >= 0.5
    image = np.where(
        inside, white * wm + grey * gm + fluid * np.clip(1 - wm - gm, 0, 1), 0.0 if stripped else image
    )
    return grid.with_array(np.asarray(image / max(_LOOK[weighting]), np.float32))


def _metric_zone(painted: Volume, *, stripped: bool) -> Array:
    """Return the brain with a rim: bone and scalp where they are painted, but nothing of face and neck."""
    brain = mni.brain_mask().astype(np.float32).on_grid(painted).array > 0.5
    near = ndimage.distance_transform_edt(~brain) * SPACING_MM <= (3 if stripped else 13)
    height = mni.coordinates(painted)[2]
    zone: Array = near & ((height > _LOWEST_MM) | brain) & (height > _LOWEST_MM - 15)
    return zone


def _coarsened(fixed: View) -> View:
    image = fixed.image.with_array(ndimage.gaussian_filter(fixed.image.array, 0.4)).resampled(4.0)
    return View(
        image, image.with_array(fixed.head.astype(np.float32).on_grid(image).array > 0.5), fixed.contrast
    )


def correlation(moving_from_fixed: Transform, fixed: View, moving: View) -> float:
    """Return the correlation of two views inside the fixed head."""
    pulled = moving_from_fixed.pull(moving.image, fixed.image).array[fixed.head.array]
    expected = fixed.image.array[fixed.head.array]
    if pulled.std() == 0:
        return -1.0
    return float(np.corrcoef(pulled, expected)[0, 1])


def _affine(fixed: View, moving: View, start: Transform, *, rigid: bool, threads: int) -> Transform:
    """Follow the gradient of local correlation from a start; the start comes back where the images drift
    apart.
    """
    moved = start.pull(moving.image, fixed.image)
    freedom = "-dof 6 -n 40x0" if rigid else "-dof 12 -n 80x10"
    command = (
        f"-V 0 -threads {threads} -seed 1 -a {freedom} -i fixed moved -gm zone -m NCC 2x2x2 -ia-identity -o"
        " found"
    )
    try:
        found = _greedy(command, fixed, moved, fixed.head.array)
    except RuntimeError:
        return start
    return start @ Transform.of(Affine(np.asarray(found, np.float64)))


def _greedy(command: str, fixed: View, moved: Volume, zone: Array) -> Any:
    greedy = require("picsl_greedy", extra="registration", purpose="placing the MNI template").Greedy3D()
    images = {
        "fixed": fixed.image.to_sitk(),
        "moved": moved.to_sitk(),
        "zone": fixed.head.with_array(zone.astype(np.uint8)).to_sitk(),
    }
    with _unprinted():
        greedy.execute(command, out=StringIO(), err=StringIO(), found=None, **images)
    return greedy["found"]


@contextmanager
def _unprinted() -> Iterator[None]:
    """Drop what C code prints: greedy's optimiser reports the end of a line search on stdout, where tables
    and JSON go.
    """
    if os.name != "posix":
        yield
        return
    library = ctypes.CDLL(None)
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        library.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _warp(fixed: View, moving: View, start: Transform, *, exclude: Volume | None, threads: int) -> Transform:
    moved = start.pull(moving.image, fixed.image)
    zone = fixed.head.array
    if exclude is not None:
        zone = zone & (start.pull(exclude.astype(np.float32), fixed.image).array < 0.3)
    command = (
        f"-V 0 -threads {threads} -seed 1 -i fixed moved -gm zone -m NCC 2x2x2 -n 50x12 -s 2.5vox 1vox -e 0.5"
        " -o found"
    )
    try:
        found = Volume.from_sitk(_greedy(command, fixed, moved, zone))
    except RuntimeError as error:
        raise InputRefused(
            f"the MNI template could not be warped onto the exam ({error}); does it show a whole head?"
        ) from error
    return Transform.of(
        Displacement(
            Volume(np.asarray(found.array, np.float32) * np.array([-1, -1, 1], np.float32), found.affine)
        )
    )
