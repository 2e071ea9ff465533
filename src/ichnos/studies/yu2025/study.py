"""Yu 2025: will the haematoma expand? Five centres; outlines by U-Mamba, images by Diffusion U-KAN,
expansion by a vision transformer.

Methods. Centres A to C train, D and E are external. Part `outlines`: networks of one plan outline the
haematoma (U-Mamba, its plain twin, a transformer, nnU-Net) and are compared on the external centres. Part
`expansion`: a vision transformer says from three slices of a tight crop whether the haematoma will expand;
training is balanced by oversampling, weights or focal loss, in part `synthesis` by images of the published
generator at the same ratios, and in part `conditional` by those of a conditional one. Ours sees a region at
its true size, with its outlines and measured signs. Every classifier is an ensemble over folds and seeds,
recalibrated to the true prevalence on patients it was not trained on.
With `outlines` and `expansion`, the published classifiers are asked again at the outlines that U-Mamba draws.
Comparators: volume alone, BAT, BRAIN and HEP, and the growth model; in simulated cohorts the oracle knows all
that the CT shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ichnos.cohort import Cohort
from ichnos.learning.segmentation.cases import check_splits
from ichnos.models import Model
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.curves import TrainingCurve
from ichnos.studies.shared.labels import StudyLabels, truth_rows, with_validation
from ichnos.studies.shared.page import PngPicture
from ichnos.studies.shared.recipe import check_networks
from ichnos.studies.shared.record import StudyRecord
from ichnos.studies.shared.rows import page_provenance, plain_cells
from ichnos.studies.shared.training import validation_curves
from ichnos.studies.yu2025.arms import (
    START_NETWORK,
    expansion_risks,
    fold_count,
    published_settings,
    starts_on_measures,
)
from ichnos.studies.yu2025.automatic import OUTLINED_BY, automatic_risks
from ichnos.studies.yu2025.outlines import (
    OUTLINE_PIPELINES,
    outline_stems,
    outlining_memory,
    read_outlines,
    train_outlines,
    worst_outlines,
)
from ichnos.studies.yu2025.people import people_of
from ichnos.studies.yu2025.risks import person_rows, risk_rows

_SMOKE_SIZE = 32  # pixels of the slices


def run(cohort: Cohort, out: Path, budget: StudyBudget) -> StudyRecord:
    """Run the parts of the study that are asked for."""
    check_splits(cohort)
    classifiers = (START_NETWORK, "published", "ours", "generator-published", "generator-conditional")
    known = (*classifiers, *outline_stems())
    check_networks(budget.recipe, known, "yu2025")
    labels = StudyLabels(with_validation(cohort), OUTLINE_PIPELINES, {}, 0)
    facts: dict[str, Any] = {"simulated": bool(truth_rows(cohort)), "patients": len(cohort)}
    facts |= {"parts": list(budget.parts), "seeds": budget.seeds, "recipe": budget.recipe.base}
    rows: dict[str, list[dict[str, Any]]] = {}
    models: dict[str, Model] = {}
    curves: list[TrainingCurve] = []
    pictures: list[PngPicture] = []
    if budget.does("outlines"):
        models, facts["untrained"] = train_outlines(labels, out, budget)
        rows["outlines"] = read_outlines(labels, models, out, budget)
        facts["memory_gib"] = outlining_memory(labels, models, budget)
        curves += validation_curves(outline_stems(), out)
        pictures += worst_outlines(models, out)
    if budget.does("expansion"):
        budget.say("cutting haematomas into slices and regions")
        size = _SMOKE_SIZE if budget.smoke else published_settings(budget).network.arguments["image_size"][0]
        people = people_of(cohort, out / "people", budget, size=size)
        found = expansion_risks(people, out, budget)
        rows |= {"people": person_rows(people), "risks": risk_rows(found.risks)}
        if OUTLINED_BY in models:
            budget.say("asking the classifiers again at automatic outlines")
            asked = automatic_risks(people, labels.cohort, models[OUTLINED_BY], out, budget)
            rows["automatic"] = risk_rows(asked)
        rows["synthesis"] = [plain_cells(row) for row in found.synthesis]
        facts |= {"folds": fold_count(people, budget), "start": starts_on_measures(budget)}
        curves += found.curves
        pictures += found.pictures
    provenance = page_provenance(labels.cohort, budget, models)
    return StudyRecord("yu2025", rows, facts, provenance, tuple(curves), tuple(pictures))
