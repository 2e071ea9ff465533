"""Yu 2025: will the haematoma expand? Five centres; outlines by U-Mamba, images by Diffusion U-KAN,
expansion by a vision transformer.

Methods. Centres A to C train, D and E are external. Part one: networks of one plan outline the haematoma
(U-Mamba, its plain twin, a transformer, nnU-Net) and are compared on the external centres. Part two: a vision
transformer says from three slices of a tight crop whether the haematoma will expand; training is balanced by
synthetic images, or by the controls that the paper leaves out (oversampling, weights, focal loss) at the same
ratios. Ours sees a region at its true size, with its outlines and measured signs. Every
classifier is an ensemble over folds, recalibrated to the true prevalence on patients it was not trained on.
Comparators: volume alone, BAT, BRAIN and HEP, and the growth model; in simulated cohorts the oracle
knows all that the CT shows.
"""

from __future__ import annotations

from pathlib import Path

from ichnos.cohort import Cohort
from ichnos.learning.segmentation.cases import check_splits
from ichnos.studies.designs import DESIGNS
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.labels import StudyLabels, with_validation
from ichnos.studies.shared.page import StudyPage
from ichnos.studies.shared.rows import page_provenance
from ichnos.studies.yu2025.arms import expansion_risks
from ichnos.studies.yu2025.outlines import (
    OUTLINE_PIPELINES,
    outline_table,
    read_outlines,
    train_outlines,
    worst_outlines,
)
from ichnos.studies.yu2025.people import People, people_of
from ichnos.studies.yu2025.tables import (
    auc_table,
    benefit_table,
    calibration_table,
    conformal_table,
    operating_table,
    reach_table,
    roc_pictures,
)

_ENOUGH_EVENTS = 100  # below which a validation is imprecise (Vergouwe 2005)


def run(cohort: Cohort, out: Path, budget: StudyBudget) -> StudyPage:
    """Run the whole study: outlines, then expansion."""
    check_splits(cohort)
    labels = StudyLabels(with_validation(cohort), OUTLINE_PIPELINES, {}, 0)
    models, untrained = train_outlines(labels, out, budget)
    rows = read_outlines(labels, models, out, budget)
    budget.say("cutting haematomas into slices and regions")
    people = people_of(cohort, size=32 if budget.smoke else 64)
    expansion = expansion_risks(people, out, budget)
    risks = expansion.risks
    tables = (
        auc_table(people, risks),
        outline_table(rows, untrained),
        operating_table(people, risks),
        calibration_table(people, risks),
        benefit_table(people, risks),
        conformal_table(people, risks),
        reach_table(people, risks),
    )
    return StudyPage(
        name="yu2025",
        title=DESIGNS["yu2025"].question,
        paper=DESIGNS["yu2025"].paper,
        design=_design(cohort, people, budget),
        tables=(*tables, *expansion.tables),
        pictures=(*roc_pictures(people, risks), *expansion.pictures, *worst_outlines(models, out)),
        limits=_limits(people, budget),
        provenance=page_provenance(labels.cohort, budget, models),
    )


def _design(cohort: Cohort, people: People, budget: StudyBudget) -> tuple[str, ...]:
    outcomes = {c: [p.outcome for p in people.external if p.centre == c] for c in people.centres}
    counts = [f"{c}: {len(those)} ({sum(those):.0f})" for c, those in outcomes.items()]
    events = sum(p.outcome for p in people.training)
    return (
        (
            f"{len(cohort)} patients; expansion (> 33 % or > 6 mL) is known of {len(people.training)} to"
            f" train ({events:.0f} expanded) and of the external ones, {', '.join(counts)}; each network was"
            f" trained for {'a few steps' if budget.smoke else f'{budget.minutes:g} minutes'}."
        ),
        (
            "Outlines: every network took the same time on the same patients; one in five training patients"
            " chose its best step."
        ),
        (
            "Classifiers see drawn outlines, so that part two does not inherit the errors of part one."
            " Published: three slices around the largest area, tight box, 0 to 90 HU, ViT, mean score of the"
            " slices; smaller networks and images than published where there is no GPU. Ours: a region of 96"
            " x 96 x 96 mm with outlines as channels, and measured signs with onset and anticoagulation as"
            " tokens."
        ),
        (
            "Synthetic images come from a generator trained on the fold's own training patients, no"
            " image was selected, and their ledger lies beside the models."
        ),
    )


def _limits(people: People, budget: StudyBudget) -> tuple[str, ...]:
    events = sum(p.outcome for p in people.external)
    limits = []
    if budget.smoke:
        limits.append("This is a smoke run: a few steps on a few patients. Its numbers mean nothing.")
    if events < _ENOUGH_EVENTS:
        limits.append(
            f"{events:.0f} expansions at the external centres: intervals are wide, and no difference is"
            " proven."
        )
    if budget.scale or budget.smoke:
        limits.append("Simulated patients: signs, growth and the oracle follow one prognostic model.")
    limits.append(
        "The paper's patients are not at hand: its columns come from the publication, on other patients."
    )
    return tuple(limits)
