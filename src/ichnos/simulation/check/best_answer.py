"""How well the best possible reader would do on a simulated cohort: expansion, and where blood will be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ichnos.cohort import Cohort, Patient
from ichnos.formats import bids, nifti
from ichnos.simulation.check.realism import IntervalEstimate, bootstrapped
from ichnos.simulation.cohort.exam_files import TRUTH
from ichnos.simulation.disease import oracle
from ichnos.volume import Array, Floats

MAPS = 60  # patients whose maps of probability are opened


def cohort_auc(truth: Sequence[dict[str, Any]]) -> IntervalEstimate:
    """Return the oracle's AUC for expansion on the cohort's own patients."""
    rows = [r for r in truth if isinstance(r["expanded"], float) and np.isfinite(r["expanded"])]
    score = np.array([r["expansion_probability"] for r in rows], np.float64)
    outcome = np.array([r["expanded"] for r in rows], np.float64) > 0

    def area(index: Array) -> float:
        return oracle.ranking_auc(torch.from_numpy(score[index]), torch.from_numpy(outcome[index]))

    return bootstrapped(area, len(score))


def oracle_growth_dice(
    root: Path, cohort: Cohort, truth: Sequence[dict[str, Any]], *, most: int = MAPS
) -> tuple[IntervalEstimate, float]:
    """Return the Dice of the grown part that the oracle's map reaches at the one threshold best for the
    cohort, and that threshold.
    """
    thresholds = np.arange(0.1, 0.75, 0.05)
    expanded = {row["participant_id"] for row in truth if row["expanded"] == 1.0}
    table = []
    for patient in [p for p in cohort if p.id in expanded][:most]:
        path = bids.derivative_path(root, patient.id, pipeline=TRUTH, label="oracle", kind="probseg")
        if path.is_file():
            table.append(_growth_dice(root, patient, nifti.load(path).array, thresholds))
    if not table:
        return bootstrapped(lambda index: float("nan"), 0), float("nan")
    dice = np.array(table)
    best = int(dice.mean(0).argmax())
    return bootstrapped(lambda index: float(dice[index, best].mean()), len(dice)), float(thresholds[best])


def _growth_dice(root: Path, patient: Patient, probability: Array, thresholds: Floats) -> list[float]:
    def blood(label: str) -> Array:
        array = nifti.load(
            bids.derivative_path(root, patient.id, pipeline=TRUTH, label=label, kind="dseg")
        ).array
        return np.asarray((array == 1) | (array == 2))

    before, after = blood("haematoma"), blood("expansion")
    grown = after & ~before
    found = []
    for threshold in thresholds:
        said = (probability >= threshold) & ~before
        total = int(said.sum()) + int(grown.sum())
        found.append(2.0 * int((said & grown).sum()) / total if total else float("nan"))
    return found
