"""Murray 2024: the corticospinal tract on CT, learnt from diffusion tractography; its injury by a haematoma,
and what that says of people.

Diffusion -> tract -> label on the CT -> a network on CT alone. Then: overlap per side, with and without a
haematoma, beside the atlas carried over by affine and by deformable registration; in a trial, grades of
injury, loads, and motor outcome with its interaction with surgery.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ichnos.anatomy.tract import SIDES
from ichnos.cohort import Cohort
from ichnos.models import Model
from ichnos.studies.designs import DESIGNS
from ichnos.studies.murray2024.design import (
    MIXED,
    TRACT_LABEL,
    TRACT_PLANS,
    TRACT_WAYS,
    UNMIXED,
    short_training,
    without_simulation,
)
from ichnos.studies.murray2024.reading import TractReader
from ichnos.studies.murray2024.tables import (
    added_value_table,
    grade_rank,
    injury_table,
    outcome_table,
    overlap_table,
)
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.labels import StudyLabels, transferred_labels, truth_rows
from ichnos.studies.shared.page import PagePicture, StudyPage
from ichnos.studies.shared.reading import model_identity, read_patients
from ichnos.studies.shared.rows import page_provenance
from ichnos.studies.shared.training import (
    FROM_SHIPPED,
    NNUNET_ARM,
    NNUNET_NOT_ASKED,
    NNUNET_TRAINED,
    train_arm,
    train_nnunet_arm,
    worst_cases,
)


def run(cohort: Cohort, out: Path, budget: StudyBudget) -> StudyPage:
    """Do the study."""
    budget.say("tracking in diffusion exams and bringing the tracts onto CT")
    labels = transferred_labels(cohort, TRACT_LABEL, budget)
    plans = {name: without_simulation(plan, budget) for name, plan in TRACT_PLANS.items()}
    models = {name: train_arm(name, plan, labels, out, budget) for name, plan in plans.items()}
    if budget.nnunet:
        models[NNUNET_ARM] = train_nnunet_arm(TRACT_PLANS["pairs"], labels, out, budget)
    budget.say("reading every patient who was not trained on")
    reader = TractReader(labels, {name: str(model.folder) for name, model in models.items()}, budget.device)
    people = list(labels.cohort.of_split("test", "external").with_exams("ct"))
    rows = read_patients(reader, people, out, budget, settings=model_identity(models))
    return tract_page(rows, labels, models, out, budget)


def tract_page(
    rows: list[dict[str, Any]], labels: StudyLabels, models: dict[str, Model], out: Path, budget: StudyBudget
) -> StudyPage:
    """Set the paper's numbers beside ours."""
    truths = truth_rows(labels.cohort)
    facts = {patient.id: patient.facts for patient in labels.cohort}
    for row in rows:
        row["true_grade"] = grade_rank(truths.get(row["id"], {}).get("injury"))
        row |= {
            name: facts[row["id"]].get(name) for name in ("age_years", "arm", "nihss_motor_180d", "mrs_365d")
        }
    pairs = [row for row in rows if any(f"pairs_{side}_dice" in row for side in SIDES)]
    trial = [row for row in rows if row["split"] == "external" and row.get("arm") and row.get("ich_ml")]
    pictures: list[PagePicture] = [picture for name in TRACT_PLANS for picture in worst_cases(name, out)]
    ways = {
        way: title for way, title in TRACT_WAYS.items() if way in models or way in ("affine", "deformable")
    }
    source = (
        "the simulation's truth (a smoke run tracks one pair only)"
        if budget.smoke
        else "diffusion tractography, by transfer"
    )
    return StudyPage(
        "murray2024",
        "The corticospinal tract on plain CT, its injury, and motor outcome",
        DESIGNS["murray2024"].paper,
        (
            f"Labels came from {source}; {labels.refused} pair(s) were refused by transfer and left out. Both"
            " networks see CT alone. The first has the published shape (a 3-D U-Net taught by pairs) and is"
            f" trained in our loop: a twin of nnU-Net. The second {FROM_SHIPPED}, adds a centre-line term and"
            f" {UNMIXED if short_training(budget) else MIXED}. "
            + (NNUNET_TRAINED if NNUNET_ARM in models else NNUNET_NOT_ASKED),
            (
                "The comparators carry the atlas's tract onto the CT by an affine and by a deformable"
                " registration (blood and oedema masked)."
            ),
            (
                "Grades follow the group's four levels (reading.injury says how each is defined), on the"
                " haematoma as it was drawn: what is compared is the tract. The worse side counts. Motor"
                " NIHSS at 180 days is regressed on the grade against complete interruption, with surgery,"
                " their interaction, age and volume; mRS at 365 days by proportional odds. Intervals are"
                " 95 %."
            ),
            (
                f"{len(pairs)} patients with a tract label were held out; the trial has {len(trial)} patients"
                " with a haematoma."
            ),
        ),
        (
            overlap_table(pairs, ways),
            injury_table(trial, ways),
            outcome_table(trial, ways),
            added_value_table(trial, ways),
        ),
        tuple(pictures),
        (
            (
                "Virtual patients' outcomes are drawn from the published effects: finding them again says"
                " that a way to read the tract keeps the information, not that the effects are true."
            ),
            "The paper's integrity formula is not known; grades and loads are defined in reading.injury.",
            (
                "`limit` is the label against the simulation's truth for overlap, and the truth's own tract"
                " and grade for injury and outcome."
            ),
        ),
        page_provenance(labels.cohort, budget, models),
    )
