"""Ryu 2025: leukoaraiosis on CT, learnt from FLAIR without a human label, measured against FLAIR on external
patients.

FLAIR -> hyperintensities -> deformable registration -> label on the CT -> a 2-D network on CT alone. Then:
overlap, volumes against the registered label and against MRI before and after calibration, grades, vendors,
infarcts, and what the volume says about patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.cohort import Cohort
from ichnos.evidence.figures import scatter_figure
from ichnos.evidence.metrics.agreement import (
    passing_bablok,
)
from ichnos.models import Model
from ichnos.studies.designs import DESIGNS
from ichnos.studies.ryu2025.design import WHITE_MATTER_LABEL, WHITE_MATTER_PLANS, WHITE_MATTER_WAYS
from ichnos.studies.ryu2025.reading import WhiteMatterReader, add_facts
from ichnos.studies.ryu2025.tables import agreement_table, association_table, group_table
from ichnos.studies.ryu2025.threshold import chosen_threshold
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.labels import StudyLabels, transferred_labels
from ichnos.studies.shared.page import PagePicture, StudyPage
from ichnos.studies.shared.reading import model_identity, read_patients
from ichnos.studies.shared.rows import known_number, page_provenance, paired_columns
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
    budget.say("bringing hyperintensities from FLAIR onto CT")
    labels = transferred_labels(cohort, WHITE_MATTER_LABEL, budget)
    models = {name: train_arm(name, plan, labels, out, budget) for name, plan in WHITE_MATTER_PLANS.items()}
    if budget.nnunet:
        models[NNUNET_ARM] = train_nnunet_arm(WHITE_MATTER_PLANS["slices"], labels, out, budget)
    budget.say("choosing the threshold on training patients")
    cut_hu = chosen_threshold(labels, out, budget)
    budget.say("reading every patient who was not trained on")
    reader = WhiteMatterReader(
        labels, {name: str(model.folder) for name, model in models.items()}, cut_hu, budget.device
    )
    people = list(labels.cohort.of_split("validation", "test", "external").with_exams("ct"))
    told = {**model_identity(models), "cut_hu": cut_hu}
    rows = read_patients(reader, people, out, budget, settings=told)
    return white_matter_page(rows, labels, models, cut_hu, out, budget)


def white_matter_page(
    rows: Sequence[dict[str, Any]],
    labels: StudyLabels,
    models: dict[str, Model],
    cut_hu: float,
    out: Path,
    budget: StudyBudget,
) -> StudyPage:
    """Set the paper's numbers beside ours."""
    for row in rows:
        add_facts(row, labels)
    external = [
        row
        for row in rows
        if row["split"] != "validation" and np.isfinite(known_number(row["registered_ml"]))
    ]
    clinical = [
        row for row in rows if row["split"] != "validation" and row["id"] not in {r["id"] for r in external}
    ]
    held = [row for row in rows if row["split"] == "validation"]
    ways = {way: title for way, title in WHITE_MATTER_WAYS.items() if way in models or way == "threshold"}
    tables = (
        agreement_table(external, held, ways),
        group_table(external, ways),
        association_table(clinical or external, labels),
    )
    pictures: list[PagePicture] = [
        picture for name in WHITE_MATTER_PLANS for picture in worst_cases(name, out)
    ]
    predicted, registered = paired_columns(external, "volume_ml", "registered_ml")
    if len(predicted) >= 5:
        line = passing_bablok(registered, predicted)
        scatter = (np.array(registered), np.array(predicted), line)
        pictures.append(
            scatter_figure(
                "volumes",
                *scatter,
                unit="mL",
                caption="Volume of the 3-D network against the registered label.",
            )
        )
    source = (
        "the simulation's truth (a smoke run transfers one pair only)"
        if budget.smoke
        else "FLAIR, by transfer"
    )
    return StudyPage(
        "ryu2025",
        "Leukoaraiosis on plain CT, learnt from FLAIR",
        DESIGNS["ryu2025"].paper,
        (
            f"Labels came from {source}; {labels.refused} pair(s) were refused by transfer and left out. Both"
            " networks see CT alone. The 2-D network has the shape of the published one (slices, U-Net) and"
            f" is trained in our loop: a twin of nnU-Net. The 3-D network {FROM_SHIPPED}. "
            + (NNUNET_TRAINED if NNUNET_ARM in models else NNUNET_NOT_ASKED),
            (
                f"The comparator marks white matter of the atlas (affinely placed) below {cut_hu:g} HU, the"
                " cut with the best Dice on training patients. Volumes are calibrated by a Passing-Bablok"
                " line from the validation patients to their MRI volumes, then frozen."
            ),
            (
                f"{len(external)} external patients have a FLAIR, {len(clinical)} clinical ones only a CT."
                " Intervals are 95 %."
            ),
        ),
        tables,
        tuple(pictures),
        (
            (
                "Virtual patients have the disease that the simulation gives them: these numbers say how the"
                " method works, not how it would do in a hospital."
            ),
            (
                "The paper's cohorts, scanners and FLAIR software are not ours; its numbers stand beside ours"
                " for orientation only."
            ),
            (
                "`limit` compares the label that transfer gave with the simulation's truth: a network"
                " learning from such labels can hardly agree better with them than they do with the truth."
            ),
        ),
        page_provenance(labels.cohort, budget, models),
    )
