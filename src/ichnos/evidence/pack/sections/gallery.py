"""The cases that went worst, drawn so that a reader can see why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.evidence.figures import FailedSlice, Figure, gallery_figure
from ichnos.evidence.metrics.summary import measure_column
from ichnos.evidence.pack.evaluation import Evaluation, EvaluationCase
from ichnos.evidence.pack.predictions import layer_name
from ichnos.evidence.pack.section import Section
from ichnos.evidence.tables import number
from ichnos.formats import nifti
from ichnos.volume import Array, Volume

_WINDOW_HU = (0.0, 80.0)


def gallery_section(evaluation: Evaluation, rows: Sequence[Mapping[str, Any]]) -> Section | None:
    """Draw the cases with the lowest Dice of the first label of each target; None without masks."""
    cases = {case.id: case for case in evaluation.cases}
    figures: list[Figure] = []
    for target in evaluation.plan.targets:
        name = layer_name(target, next(iter(evaluation.plan.labels_of(target))))
        measured = [row for row in rows if row.get(name)]
        worst = _worst(measured, name, evaluation.plan.gallery)
        if worst:
            failures = [_failure(cases[str(row["id"])], name, row[name]) for row in worst]
            caption = (
                f"{name}: the {len(failures)} cases with the lowest Dice; truth orange, prediction blue,"
                " radiological convention."
            )
            figures.append(
                gallery_figure(f"gallery_{name.replace(' ', '_').lower()}", failures, caption=caption)
            )
    if not figures:
        return None
    text = "The slice shown is the one with the most voxels on which truth and prediction differ."
    return Section("gallery", "Failure gallery", (text,), figures=tuple(figures))


def _worst(rows: Sequence[Mapping[str, Any]], name: str, count: int) -> list[Mapping[str, Any]]:
    dice = measure_column(rows, name, "dice", scored=True)
    order = np.argsort(dice, kind="stable")[:count]
    return [rows[i] for i in order if dice[i] < 1]


def _failure(case: EvaluationCase, name: str, row: Mapping[str, Any]) -> FailedSlice:
    truth, predicted = (side[name].load().reoriented("RAS") for side in (case.truth, case.predicted))
    k = int(np.argmax((truth.array != predicted.array).sum(axis=(0, 1))))
    image = _image(case.ct, truth, k)
    true, drawn = truth.array[:, :, k], predicted.array[:, :, k]
    box = _around(true | drawn)
    dice = "undefined" if row["dice"] is None or np.isnan(row["dice"]) else f"{row['dice']:.2f}"
    title = (
        f"{case.id}: Dice {dice}, true {number(row['truth_ml'])} mL, predicted"
        f" {number(row['prediction_ml'])} mL"
    )
    x, y, _ = truth.spacing_mm
    # x runs to the patient's right on the reader's left: radiological convention
    image, true, drawn = (np.asarray(part[box][::-1], np.float64) for part in (image, true, drawn))
    return FailedSlice(title.replace(", true", "\ntrue"), image, true, drawn, y / x)


def _image(path: Path | None, grid: Volume, k: int) -> Array:
    """Return the CT slice in a brain window, or plain grey where the CT is not at hand or on another grid."""
    if path is None or not path.is_file():
        return np.full(grid.shape[:2], 0.25)
    ct = nifti.load(path).reoriented("RAS")
    if ct.shape != grid.shape:
        return np.full(grid.shape[:2], 0.25)
    low, high = _WINDOW_HU
    windowed: Array = np.clip((ct.array[:, :, k].astype(np.float64) - low) / (high - low), 0, 1)
    return windowed


def _around(mask: Array, least: int = 96) -> tuple[slice, slice]:
    """Return a square of pixels around a mask, with room to see where in the head it lies."""
    if not mask.any():
        return slice(None), slice(None)
    hits = np.argwhere(mask)
    side = max(least, int(1.5 * np.ptp(hits, axis=0).max()) + 8)
    middle = (hits.min(axis=0) + hits.max(axis=0)) // 2
    start = [
        int(np.clip(m - side // 2, 0, max(0, n - side))) for m, n in zip(middle, mask.shape, strict=True)
    ]
    return slice(start[0], start[0] + side), slice(start[1], start[1] + side)
