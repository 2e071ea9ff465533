"""Every arm of the classifiers of Yu 2025, trained on folds and asked about the external patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ichnos.errors import InputRefused
from ichnos.evidence.metrics.discrimination import auc
from ichnos.evidence.tables import Table
from ichnos.learning.expansion.classifier import examples_fingerprint
from ichnos.learning.expansion.ensemble import (
    Synthesise,
    load_classifier,
    nothing_synthetic,
    save_classifier,
    train_ensemble,
)
from ichnos.learning.expansion.examples import ImageExample
from ichnos.learning.expansion.settings import ClassifierSettings, published_classifier, region_classifier
from ichnos.learning.loop.resources import Resources
from ichnos.prognosis.growth import IMAGE
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.page import PngPicture
from ichnos.studies.yu2025.comparators import clinical_score_risks, growth_model_risks, oracle_risk
from ichnos.studies.yu2025.people import TOKEN_FACTS, People, Person
from ichnos.studies.yu2025.risks import MethodRisk, Risks
from ichnos.studies.yu2025.synthetic import (
    SyntheticImages,
    SyntheticMaker,
    synthetic_sheet,
    synthetic_table,
)

PUBLISHED, OURS = "published, as is", "ours, as is"
_SECONDS_PER_STEP = 0.5  # of a classifier on one processor core, to choose the length of its training
_RATIOS = (1.0, 2.0)  # patients without expansion per expanded one
_BALANCED = ("synthesis", "oversample", "weight", "focal")
_LEAST_FOR_THREE_FOLDS = 60  # training patients


@dataclass(frozen=True, eq=False)
class ExpansionRisks:
    """What every method says of the external patients."""

    risks: Risks
    tables: tuple[Table, ...]
    pictures: tuple[PngPicture, ...]


def expansion_risks(people: People, out: Path, budget: StudyBudget) -> ExpansionRisks:
    """Train every arm, and ask every method about the external patients."""
    folds = 2 if budget.smoke or len(people.training) < _LEAST_FOR_THREE_FOLDS else 3
    risks: dict[str, MethodRisk] = {}
    batches: list[SyntheticImages] = []
    for settings in _published_arms(people, budget, folds):
        maker = SyntheticMaker(people, settings, out, budget) if settings.arm == "synthesis" else None
        name, synthetic = f"published, {settings.named()}", maker or nothing_synthetic
        risks[name] = arm_risk(people, name, settings, out, budget, folds=folds, synthetic=synthetic)
        batches += maker.batches if maker else []
    ours = region_classifier(
        steps=_steps(budget, folds),
        features=len(IMAGE) + len(TOKEN_FACTS),
        batch=_batch(budget),
        learning_rate=5e-4,
        seed=budget.seed,
    )
    risks[OURS] = arm_risk(people, OURS, ours, out, budget, folds=folds, published=False)
    risks |= {**growth_model_risks(people), **clinical_score_risks(people), "oracle": oracle_risk(people)}
    pictures = synthetic_sheet(people, batches, out)
    return ExpansionRisks(risks, (synthetic_table(people, batches),), pictures)


def _published_arms(people: People, budget: StudyBudget, folds: int) -> list[ClassifierSettings]:
    """Return the arms of the paper and the controls that it leaves out, at the same ratios."""
    ratios = _RATIOS[1:] if budget.smoke else _RATIOS
    arms = [("as is", None), *((arm, ratio) for arm in _BALANCED for ratio in ratios)]
    return [
        published_classifier(
            steps=_steps(budget, folds),
            size=people.training[0].slices[0].image.shape[0],
            small=budget.device == "cpu",
            arm=arm,
            others_per_expanded=ratio,
            batch=_batch(budget),
            seed=budget.seed,
        )
        for arm, ratio in arms
    ]


def _batch(budget: StudyBudget) -> int:
    return 4 if budget.smoke else 32 if budget.device != "cpu" else 16


def _steps(budget: StudyBudget, folds: int) -> int:
    """Choose the length of a schedule: an arm may take a quarter of the minutes of a network, for all its
    folds.
    """
    if budget.smoke:
        return 3
    return int(np.clip(60 * budget.minutes / 4 / folds / _SECONDS_PER_STEP, 30, 3000))


def arm_risk(
    people: People,
    name: str,
    settings: ClassifierSettings,
    out: Path,
    budget: StudyBudget,
    *,
    folds: int,
    synthetic: Synthesise = nothing_synthetic,
    published: bool = True,
) -> MethodRisk:
    """Train one arm over folds, save it, and return its risks; what cannot be trained says why."""

    def examples(group: Sequence[Person]) -> list[ImageExample]:
        return [e for p in group for e in (p.published() if published else p.ours())]

    stem, given = name.replace(", ", "-").replace(" ", "").replace(":", "to"), examples(people.training)
    folder = out / "classifiers" / stem
    try:
        resources = Resources(budget.device, command=f"ichnos study yu2025, {name}", warn=budget.say)
        ensemble = train_ensemble(
            given, settings, folder, folds=folds, synthetic=synthetic, resources=resources
        )
    except InputRefused as refusal:
        return MethodRisk(reason=str(refusal))
    truth, held = {p.patient: p.outcome for p in people.training}, ensemble.out_of_fold
    model = save_classifier(
        ensemble,
        settings,
        out / "models" / stem,
        data={"images and outcomes": examples_fingerprint(given, settings)},
        validation={"AUC out of fold": auc([truth[p] for p in held], list(held.values())).value},
        resources=resources,
    )
    risk = load_classifier(model.folder, device=budget.device)(
        examples(people.external), device=budget.device
    )
    probabilities = ensemble.recalibrator(list(held.values()))
    return MethodRisk(risk, out_of_fold=dict(zip(held, map(float, probabilities), strict=True)))
