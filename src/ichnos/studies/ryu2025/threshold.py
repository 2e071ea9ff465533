"""The comparator of Ryu 2025: white matter of the atlas below a HU threshold chosen on training patients."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ichnos.anatomy import mni
from ichnos.anatomy.ct_to_mni import register_ct_to_mni
from ichnos.cohort import Patient
from ichnos.errors import InputRefused
from ichnos.learning.segmentation.target_files import target_file
from ichnos.runs import apply
from ichnos.studies.ryu2025.design import WHITE_MATTER_LABEL
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.labels import StudyLabels, label_on_ct
from ichnos.studies.shared.reading import ct_scan
from ichnos.volume import Volume

CUTS_HU = np.arange(12.0, 31.0, 1.0)
_WHITE = 0.6  # probability of white matter in the atlas above which a voxel is searched
_SMOOTH_MM = 1.5


def dark_white_matter(ct: Volume, cut_hu: float) -> Volume:
    """Return the comparator: smoothed voxels of the atlas's white matter below a cut, and above fluid."""
    white = register_ct_to_mni(ct, kind="affine").share_on(mni.template("wm"), ct).array > _WHITE
    smooth = _smoothed(ct)
    return ct.with_array(white & (smooth < cut_hu) & (smooth > 5.0))


def _smoothed(ct: Volume) -> np.ndarray:
    sigma = [min(_SMOOTH_MM / step, 4.0) if step < _SMOOTH_MM else 0.0 for step in ct.spacing_mm]
    return np.asarray(ndimage.gaussian_filter(np.clip(np.asarray(ct.array, np.float32), -20, 100), sigma))


def chosen_threshold(labels: StudyLabels, out: Path, budget: StudyBudget) -> float:
    """Return the cut with the best mean Dice on some training patients; who has been searched is not
    searched again.
    """
    train = labels.cohort.of_split("train").with_exams("ct")
    people = [
        p for p in train if target_file(labels.cohort, p, WHITE_MATTER_LABEL, labels.pipelines) is not None
    ][: 1 if budget.smoke else 8]
    task, settings = (
        partial(_dice_by_cut, labels=labels),
        {"pipelines": labels.pipelines, "cuts": CUTS_HU.tolist()},
    )
    done = apply(
        task,
        people,
        out=out / "threshold",
        settings=settings,
        name="threshold",
        workers=budget.workers,
        progress=False,
    )
    scores = [row["dice"] for row in done.rows if row["dice"]]
    if not scores:
        raise InputRefused(
            f"none of {len(people)} training patients has a {WHITE_MATTER_LABEL} label and a CT on which the"
            " atlas could be placed, so no threshold can be chosen; look at their labels"
        )
    return float(CUTS_HU[int(np.mean(scores, axis=0).argmax())])


def _dice_by_cut(patient: Patient, folder: Path, *, labels: StudyLabels) -> dict[str, Any]:
    """Return the Dice of each cut with a patient's label; nothing where the label is empty."""
    del folder
    drawn = label_on_ct(labels.cohort, patient, WHITE_MATTER_LABEL, labels.pipelines)
    if drawn is None or not drawn.array.any():
        return {"dice": []}
    ct = ct_scan(patient).volume
    white = register_ct_to_mni(ct, kind="affine").share_on(mni.template("wm"), ct).array > _WHITE
    smooth, truth = _smoothed(ct), np.asarray(drawn.array)
    masks = (white & (smooth < cut) & (smooth > 5.0) for cut in CUTS_HU)
    return {"dice": [float(2 * (mask & truth).sum() / (mask.sum() + truth.sum())) for mask in masks]}
