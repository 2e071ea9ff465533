"""Abramova 2024: what will the haematoma look like tomorrow? Two CTs per patient; the follow-up lesion from
the baseline CT alone.

Methods. Patients whose haematoma expanded, with a CT at baseline and at follow-up. The follow-up lesion lies
on the baseline CT's grid (transferred, or drawn). Each learner sees the other patients and is scored on those
left out: one at a time, or in five groups where there is too little time to train once per patient. Scores:
Dice of the growth (blood at follow-up that was not there before, compared as a set), and the error of the
lesion's volume, forecast minus truth. Learners: the paper's affine warp and our probability of blood per
voxel, each with and without the paper's synthetic follow-ups. Beside them stand "no growth", a dilation by
the mean growth of the other patients, and in simulated cohorts the oracle: the law's own probability of blood
per voxel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ichnos.arrays import Floats32
from ichnos.cohort import Cohort
from ichnos.errors import InputRefused
from ichnos.learning.expansion.pairs import LesionPair, pair_of
from ichnos.learning.expansion.settings import ForecastKind
from ichnos.studies.abramova2024.tables import forecast_table, median_picture, ratio_table
from ichnos.studies.abramova2024.training import (
    LEAST_GROWTH_ML,
    ScoresByMethod,
    check_apart,
    fold_groups,
    fold_maps,
    training_steps,
)
from ichnos.studies.designs import DESIGNS
from ichnos.studies.shared.budget import StudyBudget, hardware_of, time_spent
from ichnos.studies.shared.page import StudyPage


def run(cohort: Cohort, out: Path, budget: StudyBudget) -> StudyPage:
    """Forecast every patient's follow-up lesion from models that never saw the patient."""
    budget.say("loading the regions around the haematomas")
    pairs = [pair for patient in cohort if (pair := pair_of(cohort, patient)) is not None]
    grown = [
        p for p in pairs if float(((p.later > 0.5) & (p.blood < 0.5)).sum()) * p.voxel_ml >= LEAST_GROWTH_ML
    ]
    if len(grown) < 4:
        raise InputRefused(
            f"{len(grown)} of {len(cohort)} patients have both lesions and a growth of {LEAST_GROWTH_ML:g}"
            " mL; 4 are the least, because models are tried on patients left out"
        )
    check_apart(grown)
    folds = fold_groups(len(grown), budget)
    steps, scores = training_steps(grown, out, budget, len(folds)), ScoresByMethod()
    keep: dict[str, dict[str, Floats32]] = {}
    for k, held in enumerate(folds):
        budget.say(f"group {k + 1} of {len(folds)}: {len(held)} patient(s) left out")
        others = [p for i, p in enumerate(grown) if i not in held]
        maps = fold_maps(others, [grown[i] for i in held], out / f"group-{k}", budget, steps, scores)
        keep |= {grown[i].patient: maps[j] for j, i in enumerate(held)}
    return _page(cohort, grown, len(folds), steps, scores, keep, budget)


def _page(
    cohort: Cohort,
    pairs: Sequence[LesionPair],
    groups: int,
    steps: Mapping[ForecastKind, int],
    scores: ScoresByMethod,
    maps: dict[str, dict[str, Floats32]],
    budget: StudyBudget,
) -> StudyPage:
    left = "one patient at a time" if groups == len(pairs) else f"in {groups} groups"
    growth = [float(p.later.sum() - p.blood.sum()) * p.voxel_ml for p in pairs]
    design = (
        (
            f"{len(pairs)} of {len(cohort)} patients with both lesions and a growth of at least"
            f" {LEAST_GROWTH_ML:g} mL (median net growth {np.median(growth):.1f} mL). Patients were left out"
            f" {left}; every number is of patients that the model had not seen."
        ),
        (
            "Regions of 96 x 96 x 96 mm around the haematoma at 2 x 2 x 4 mm. Per group the warp took"
            f" {steps['warp']} and ours {steps['forecast']} steps (Adam with decoupled decay, warm-up and"
            " cosine). Synthetic follow-ups: lesions dilated to 1.33, 1.68 and 2.0 times their volume,"
            " avoiding fluid, the CT moved along."
        ),
        (
            "Against the paper: the smoothness term of the warp reaches the gradient, no training is stopped"
            " by synthetic copies of its own patients, and growth is compared as a set. Ours has one"
            " operating point, chosen on the patients learnt from."
        ),
    )
    return StudyPage(
        name="abramova2024",
        title="What will the haematoma look like tomorrow?",
        paper=DESIGNS["abramova2024"].paper,
        design=design,
        tables=(forecast_table(scores), ratio_table(scores, budget)),
        pictures=(median_picture(pairs, maps),),
        limits=_limits(budget),
        provenance={
            "patients": len(pairs),
            "groups": groups,
            "seed": budget.seed,
            "minutes of training per network": "a few steps" if budget.smoke else budget.minutes,
            "smoke": int(budget.smoke),
            "scale": "own cohort" if budget.scale is None else budget.scale,
            "hardware": hardware_of(budget),
            **time_spent(budget),
        },
    )


def _limits(budget: StudyBudget) -> tuple[str, ...]:
    smoke = (
        ("This is a smoke run: a few steps on a few patients. Its numbers mean nothing.",)
        if budget.smoke
        else ()
    )
    law = "Simulated patients: blood grows by the simulation's law, and the oracle knows that law."
    simulated = law if budget.scale or budget.smoke else ""
    return (
        *smoke,
        *((simulated,) if simulated else ()),
        (
            "The outline at baseline is given (true or drawn by hand), as in the paper; with a network's"
            " outline errors add up."
        ),
        "Every patient here expanded; how the same models do where nothing grows is asked in yu2025.",
        "The paper's patients are not at hand: its column comes from the publication, on other patients.",
    )
