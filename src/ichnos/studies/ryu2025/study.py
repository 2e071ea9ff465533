"""Ryu 2025: leukoaraiosis on CT, learnt from FLAIR without a human label, measured against FLAIR on external
patients.

FLAIR -> hyperintensities -> registration -> label on the CT -> a 2-D network on CT alone. Then: overlap,
volumes against the registered label and against MRI before and after calibration, grades, vendors, infarcts,
what the volume says about patients, and in simulated pairs rigid against deformable registration.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ichnos.cohort import Cohort
from ichnos.models import Model
from ichnos.studies.ryu2025.design import WHITE_MATTER_LABEL, white_matter_plans, white_matter_ways
from ichnos.studies.ryu2025.reading import WhiteMatterReader, patient_facts
from ichnos.studies.ryu2025.registration_arms import registration_rows
from ichnos.studies.ryu2025.threshold import chosen_threshold
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.grid_limit import voxels_of
from ichnos.studies.shared.labels import StudyLabels, transferred_labels, truth_rows
from ichnos.studies.shared.reading import model_identity, read_patients
from ichnos.studies.shared.recipe import check_networks
from ichnos.studies.shared.record import StudyRecord
from ichnos.studies.shared.rows import page_provenance
from ichnos.studies.shared.training import (
    NNUNET_ARM,
    train_arms,
    train_nnunet_arm,
    validation_curves,
    worst_cases,
)


def run(cohort: Cohort, out: Path, budget: StudyBudget) -> StudyRecord:
    """Do the study."""
    plans = white_matter_plans(budget)
    check_networks(budget.recipe, (*plans, NNUNET_ARM), "ryu2025")
    budget.say("bringing hyperintensities from FLAIR onto CT")
    labels = transferred_labels(cohort, WHITE_MATTER_LABEL, budget)
    models = train_arms(plans, labels, out, budget)
    if budget.nnunet:
        models[NNUNET_ARM] = train_nnunet_arm(WHITE_MATTER_LABEL, labels, out, budget)
    budget.say("choosing the threshold on training patients")
    cut_hu = chosen_threshold(labels, out, budget)
    rows = _read(labels, models, cut_hu, out, budget)
    truths = truth_rows(labels.cohort)
    people = {patient.id: patient for patient in labels.cohort}
    return StudyRecord(
        "ryu2025",
        {
            "registration": registration_rows(labels.cohort, out, budget),
            "patients": [row | patient_facts(people[row["id"]], truths, labels) for row in rows],
        },
        {
            "simulated": bool(truths),
            "refused": labels.refused,
            "cut_hu": cut_hu,
            "ways": white_matter_ways(models),
        },
        page_provenance(labels.cohort, budget, models),
        tuple(validation_curves(tuple(models), out)),
        tuple(picture for name in plans for picture in worst_cases(name, out)),
    )


def _read(
    labels: StudyLabels, models: Mapping[str, Model], cut_hu: float, out: Path, budget: StudyBudget
) -> list[dict[str, Any]]:
    budget.say("reading every patient who was not trained on")
    folders = {name: str(model.folder) for name, model in models.items()}
    voxels = voxels_of(models)
    reader = WhiteMatterReader(labels, folders, cut_hu, budget.device, voxels)
    people = list(labels.cohort.of_split("validation", "test", "external").with_exams("ct"))
    settings = {**model_identity(models), "cut_hu": cut_hu, "voxels": voxels}
    return read_patients(reader, people, out, budget, settings=settings)
