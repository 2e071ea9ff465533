"""Murray 2024: the corticospinal tract on CT, learnt from diffusion tractography; its injury by a haematoma,
and what that says of people.

Part `tracts`: diffusion -> tract -> label on the CT -> a network on CT alone; overlap per side, with and
without a haematoma, beside the atlas carried over by affine and by deformable registration. Part `trial`:
grades of injury, loads and the largest loss of cross-section, and what they say of motor outcome and of
surgery. The trial alone, in simulated patients, takes the simulation's own tract and needs no network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ichnos.cohort import Cohort, Fact
from ichnos.errors import InputRefused
from ichnos.models import Model
from ichnos.studies.murray2024.design import TRACT_LABEL, tract_plans, tract_ways
from ichnos.studies.murray2024.reading import TractReader
from ichnos.studies.murray2024.tables import grade_rank
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.grid_limit import voxels_of
from ichnos.studies.shared.labels import StudyLabels, transferred_labels, truth_rows
from ichnos.studies.shared.reading import model_identity, read_patients
from ichnos.studies.shared.recipe import check_networks
from ichnos.studies.shared.record import StudyRecord
from ichnos.studies.shared.rows import known_number, page_provenance
from ichnos.studies.shared.training import (
    NNUNET_ARM,
    train_arms,
    train_nnunet_arm,
    validation_curves,
    worst_cases,
)

_COARSE_MM = 4.0  # of the CTs that a smoke run registers
_FACTS = ("age_years", "gcs", "arm", "nihss_motor_180d", "mrs_365d")


def run(cohort: Cohort, out: Path, budget: StudyBudget) -> StudyRecord:
    """Do the parts of the study that are asked for."""
    check_networks(budget.recipe, (*tract_plans(budget), NNUNET_ARM), "murray2024")
    if not budget.does("tracts"):
        return _trial_record(cohort, budget)
    budget.say("tracking in diffusion exams and bringing the tracts onto CT")
    labels = transferred_labels(cohort, TRACT_LABEL, budget)
    plans = tract_plans(budget)
    models = train_arms(plans, labels, out, budget)
    if budget.nnunet:
        models[NNUNET_ARM] = train_nnunet_arm(TRACT_LABEL, labels, out, budget)
    rows = [row | _row_facts(labels.cohort, row["id"]) for row in _read(labels, models, out, budget)]
    return StudyRecord(
        "murray2024",
        {"patients": _with_truth(rows, truth_rows(labels.cohort))},
        {
            "simulated": bool(truth_rows(labels.cohort)),
            "tracts": True,
            "trial": budget.does("trial"),
            "refused": labels.refused,
            "ways": tract_ways(models),
        },
        page_provenance(labels.cohort, budget, models),
        tuple(validation_curves(tuple(models), out)),
        tuple(picture for name in plans for picture in worst_cases(name, out)),
    )


def _read(
    labels: StudyLabels, models: Mapping[str, Model], out: Path, budget: StudyBudget
) -> list[dict[str, Any]]:
    budget.say("reading every patient who was not trained on")
    folders = {name: str(model.folder) for name, model in models.items()}
    coarse_mm, voxels = _COARSE_MM if budget.smoke else None, voxels_of(models)
    reader = TractReader(labels, folders, budget.device, register_mm=coarse_mm, voxels=voxels)
    splits = ("test", "external") if budget.does("trial") else ("test",)
    people = list(labels.cohort.of_split(*splits).with_exams("ct"))
    return read_patients(reader, people, out, budget, settings=[model_identity(models), voxels])


def _row_facts(cohort: Cohort, patient: str) -> dict[str, Fact]:
    facts = next(p.facts for p in cohort if p.id == patient)
    return {name: facts.get(name) for name in _FACTS}


def _with_truth(
    rows: Sequence[Mapping[str, Any]], truths: Mapping[str, Mapping[str, str]]
) -> list[dict[str, Any]]:
    """Return rows with the grade that the simulation knows, NaN for people."""
    return [{**row, "true_grade": grade_rank(truths.get(row["id"], {}).get("injury"))} for row in rows]


def _trial_record(cohort: Cohort, budget: StudyBudget) -> StudyRecord:
    """Take the trial's injuries from the simulation's table: what a perfect reading would say of outcome."""
    truths = truth_rows(cohort)
    rows = [
        {
            "id": patient.id,
            "split": "external",
            "centre": patient.centre,
            **true_injury(truths[patient.id]),
            **{name: patient.facts.get(name) for name in _FACTS},
        }
        for patient in cohort.of_split("external")
        if patient.id in truths and patient.facts.get("arm")
    ]
    if not rows:
        raise InputRefused(
            "the trial alone takes injuries from a simulation's table, and this cohort has none; leave out"
            " --parts, so that tracts are read, or simulate"
        )
    return StudyRecord(
        "murray2024",
        {"patients": _with_truth(rows, truths)},
        {"simulated": True, "tracts": False, "trial": True, "refused": 0, "ways": []},
        page_provenance(cohort, budget, {}),
    )


def true_injury(truth: Mapping[str, str]) -> dict[str, float]:
    """Return a patient's volumes and the injury of the true tract, as the simulation's table holds them.

    >>> true_injury({"injury": "no risk", "ich_ml": "31", "tract_largest_loss": "0.2"})["truth_loss"]
    0.2
    """
    return {
        "ich_ml": known_number(truth.get("ich_ml")),
        "ivh_ml": known_number(truth.get("ivh_ml")),
        "truth_grade": grade_rank(truth.get("injury")),
        "truth_load_ml": known_number(truth.get("tract_blood_load_ml")),
        "truth_weighted_load_ml": known_number(truth.get("tract_weighted_blood_load_ml")),
        "truth_loss": known_number(truth.get("tract_largest_loss")),
    }
