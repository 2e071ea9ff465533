"""Where an exam lies in MNI152 space: any head CT, or any MRI with or without its skull.

The template's brain is the fixed image and only points in and closely around it are compared, so that neck, face and table of the exam
do not matter. The template has no skull: for a CT it is painted in HU and given one, for an MRI it is given a dark rim, unless the exam's
brain has been extracted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import ndimage

from ichnos.anatomy import mni
from ichnos.registration import Registration, Transform, register
from ichnos.registration.contrast import Contrast, contrast_of, view
from ichnos.volume import Volume

Look = Literal["ct", "whole head", "brain"]
_LIQUOR_MM, _SKULL_MM = 3.0, 9.0  # outer limits from the brain's surface
_BRAIN_AREA_CM2 = 215.0  # an axial section larger than this has its skull on


@dataclass(frozen=True, eq=False)
class Placement:
    """Where an exam lies in MNI space."""

    mni_from_exam: Transform  # maps points of the exam (RAS mm) to MNI mm
    look: Look  # which form of the template was used
    registration: Registration  # numbers by which to judge it

    def atlas_on(self, atlas: Volume, grid: Volume) -> Volume:
        """Bring a probability map (or mask) in MNI space onto a grid in the exam's space: share of each voxel, 0 … 1."""
        return self.mni_from_exam.pull_share(atlas, grid)

    def labels_on(self, labels: Volume, grid: Volume) -> Volume:
        """Bring a label map in MNI space onto a grid in the exam's space."""
        return self.mni_from_exam.pull_labels(labels, grid)


def place(
    exam: Volume,
    *,
    kind: Literal["affine", "deformable"] = "affine",
    contrast: Contrast | None = None,
    exclude: Volume | None = None,
    threads: int = 1,
) -> Placement:
    """Find where an exam lies in MNI space; "deformable" follows its anatomy, "affine" only size and pose.

    `exclude` is a mask in the exam's space that takes no part (a haematoma with its oedema).
    """
    contrast = contrast or contrast_of(exam)
    look: Look = "ct" if contrast == "ct" else "brain" if is_brain_extracted(exam) else "whole head"
    template, far = template_as(look)
    seen: Contrast = "ct" if look == "ct" else "mri"
    found = register(template, exam, kind="affine", exclude=far, fixed_contrast=seen, moving_contrast=contrast, threads=threads)
    mni_from_exam = ~found.transform
    if kind == "deformable":
        found = register(
            exam,
            template,
            kind="deformable",
            start=mni_from_exam,
            exclude=_joined(exclude, mni_from_exam.pull(far, exam, interpolation="nearest", fill=1)),
            fixed_contrast=contrast,
            moving_contrast=seen,
            stiffness=1.5,
            threads=threads,
        )
        mni_from_exam = found.transform
    return Placement(mni_from_exam, look, found)


def _joined(exclude: Volume | None, far: Volume) -> Volume:
    return far if exclude is None else far.with_array((far.array > 0) | (exclude.on_grid(far, interpolation="nearest").array > 0))


def is_brain_extracted(exam: Volume) -> bool:
    """Say whether an MRI shows the brain alone: an even background, and no axial section as large as a head's."""
    values, counts = np.unique(exam.array[::2, ::2, ::2], return_counts=True)
    background = counts[np.argmin(values)] / counts.sum()
    seen = view(exam, spacing_mm=4.0, contrast="mri")
    largest_cm2 = float(seen.head.array.sum(axis=(0, 1)).max()) * 0.16
    return bool(background > 0.4) and largest_cm2 < _BRAIN_AREA_CM2


@lru_cache(maxsize=3)
def template_as(look: Look) -> tuple[Volume, Volume]:
    """Return the MNI template as an exam would show it (HU with a skull, T1 with a dark rim, or the brain alone), and where it ends."""
    brain = mni.brain_mask()
    margin = [round(_SKULL_MM) + 6] * 3
    wide = brain.padded(margin, margin)
    outside_mm = ndimage.distance_transform_edt(~wide.array).astype(np.float32)  # the template has 1 mm voxels
    if look == "ct":
        gm, wm = mni.template("gm").array, mni.template("wm").array
        tissue = 37.0 * gm + 28.0 * wm + 8.0 * np.clip(1 - gm - wm, 0, 1)
        liquor, skull, air = 12.0, 900.0, -1000.0
    else:
        tissue = mni.template("t1").array
        liquor, skull, air = (40.0, 8.0, 0.0) if look == "whole head" else (0.0, 0.0, 0.0)
    image = np.select([outside_mm <= _LIQUOR_MM, outside_mm <= _SKULL_MM], [liquor, skull], air).astype(np.float32)
    inner = (slice(margin[0], -margin[0]),) * 3
    image[inner] = np.where(brain.array, tissue, image[inner])
    return wide.with_array(image), wide.with_array((outside_mm > _SKULL_MM).astype(np.uint8))
