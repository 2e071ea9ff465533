"""Abramova 2024: what will the haematoma look like tomorrow? Two CTs per patient; the follow-up lesion from
the baseline CT alone.

Methods. Patients whose haematoma expanded, with a CT at baseline and at follow-up. The follow-up lesion lies
on the baseline CT's grid (transferred, or drawn). Each learner sees the other patients and is scored on those
left out: in ten groups, or as published one at a time. A quarter of the others, the inner fold, ends the
training and chooses the operating point. Scores: Dice of the growth (blood at follow-up that was not there
before, compared as a set), and the error of the lesion's volume, forecast minus truth. Learners: the paper's
affine warp and our probability of blood per voxel, each with and without the paper's synthetic follow-ups.
Beside them stand "no growth", a dilation by the mean growth of the other patients, and in simulated cohorts
the oracle: the law's own probability of blood per voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.arrays import Floats32
from ichnos.cohort import Cohort
from ichnos.errors import InputRefused
from ichnos.learning.expansion.pairs import LesionPair, pair_of
from ichnos.studies.abramova2024.tables import median_picture
from ichnos.studies.abramova2024.training import (
    FORECAST_ARMS,
    LEAST_GROWTH_ML,
    arm_settings,
    arm_stem,
    check_apart,
    fold_groups,
    group_result,
)
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.page import PngPicture
from ichnos.studies.shared.processes import each_at_once
from ichnos.studies.shared.recipe import check_networks
from ichnos.studies.shared.record import StudyRecord
from ichnos.studies.shared.rows import page_provenance

_LEAST = 4  # patients, because models are tried on patients left out


def run(cohort: Cohort, out: Path, budget: StudyBudget) -> StudyRecord:
    """Forecast every patient's follow-up lesion from models that never saw the patient."""
    check_networks(budget.recipe, tuple(arm_stem(arm) for arm in FORECAST_ARMS), "abramova2024")
    budget.say("loading the regions around the haematomas")
    grown = grown_pairs(cohort, budget)
    groups = fold_groups(len(grown), budget)
    calls = {f"group-{k}": (*_parted(grown, left), out / f"group-{k}") for k, left in enumerate(groups)}
    results = list(each_at_once(group_result, calls, budget).values())
    maps: dict[str, dict[str, Floats32]] = {}
    for left_out, result in zip(groups, results, strict=True):
        maps |= {grown[i].patient: own for i, own in zip(left_out, result.maps, strict=True)}
    figure = median_picture(grown, maps)
    return StudyRecord(
        "abramova2024",
        {"scores": [row for result in results for row in result.rows]},
        _facts(cohort, grown, len(groups)),
        page_provenance(cohort, budget, {}),
        tuple(curve for result in results for curve in result.curves),
        (PngPicture(figure.name, figure.caption, figure.png),),
    )


def _parted(
    grown: Sequence[LesionPair], left_out: Sequence[int]
) -> tuple[list[LesionPair], list[LesionPair]]:
    """Return the patients to learn from, and those left out."""
    return [p for i, p in enumerate(grown) if i not in left_out], [grown[i] for i in left_out]


def grown_pairs(cohort: Cohort, budget: StudyBudget) -> list[LesionPair]:
    """Return the patients with both lesions who bled on, each once."""
    how = arm_settings("warp", budget)
    pairs = [pair_of(cohort, patient, spacing_mm=how.spacing_mm, shape=how.shape) for patient in cohort]
    grown = [
        p
        for p in pairs
        if p is not None and float(((p.later > 0.5) & (p.blood < 0.5)).sum()) * p.voxel_ml >= LEAST_GROWTH_ML
    ]
    if len(grown) < _LEAST:
        raise InputRefused(
            f"{len(grown)} of {len(cohort)} patients have both lesions and a growth of {LEAST_GROWTH_ML:g}"
            f" mL; {_LEAST} are the least, because models are tried on patients left out"
        )
    check_apart(grown)
    return grown


def _facts(cohort: Cohort, grown: list[LesionPair], groups: int) -> dict[str, Any]:
    growth = [float(p.later.sum() - p.blood.sum()) * p.voxel_ml for p in grown]
    return {
        "simulated": any(p.oracle is not None for p in grown),
        "patients": len(grown),
        "cohort": len(cohort),
        "follow-up CTs": sum(p.later_hu is not None for p in grown),
        "groups": groups,
        "median growth, mL": float(np.median(growth)),
        "region, mm": [n * s for n, s in zip(grown[0].hu.shape, grown[0].spacing_mm, strict=True)],
        "voxel, mm": list(grown[0].spacing_mm),
    }
