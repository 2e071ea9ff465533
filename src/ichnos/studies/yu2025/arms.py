"""Every arm of the classifiers of Yu 2025, trained on folds and asked about the external patients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ichnos.errors import InputRefused
from ichnos.evidence.metrics.discrimination import auc
from ichnos.evidence.tables import Cell
from ichnos.learning.expansion.classifier import examples_fingerprint
from ichnos.learning.expansion.ensemble import (
    Classifier,
    Synthesise,
    load_classifier,
    nothing_synthetic,
    save_classifier,
    train_ensemble,
)
from ichnos.learning.expansion.examples import ImageExample
from ichnos.learning.expansion.measured_start import measured_start
from ichnos.learning.expansion.settings import CURVE, ClassifierSettings
from ichnos.learning.loop.resources import Resources
from ichnos.learning.loop.settings import changed
from ichnos.learning.recipes import PUBLISHED as PUBLISHED_RECIPE
from ichnos.learning.recipes import classifier_recipe, measured_start_recipe
from ichnos.models import Model
from ichnos.prognosis.growth import IMAGE
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.curves import TrainingCurve, curve_of_lines
from ichnos.studies.shared.page import PngPicture
from ichnos.studies.yu2025.comparators import clinical_score_risks, growth_model_risks, oracle_risk
from ichnos.studies.yu2025.people import TOKEN_FACTS, People, Person
from ichnos.studies.yu2025.risks import MethodRisk, mean_risk
from ichnos.studies.yu2025.synthetic import (
    SyntheticImages,
    SyntheticMaker,
    generator_curves,
    judged_batches,
    synthetic_sheet,
)

PUBLISHED, OURS = "published, as is", "ours, as is"
START_NETWORK = "start"  # of the recipe and of the folder: the published network, taught on measures
_RATIOS = (1.0, 2.0)  # patients without expansion per expanded one
_BALANCED = ("oversample", "weight", "focal")
_WATCHED = 10  # validations of each classifier; nothing is chosen by them
_SMOKE = {"steps": 3, "epochs": 0, "batch": 4}
_LEAST_FOR_THREE_FOLDS = 60  # training patients


@dataclass(frozen=True)
class ClassifierArm:
    """One way to train a classifier."""

    name: str  # as tables name it
    settings: ClassifierSettings
    generator: Literal["", "published", "conditional"] = ""  # of its synthetic images
    published: bool = True  # sees the published slices; False: the region with measures

    @property
    def stem(self) -> str:
        """Return the name of the arm's folders."""
        return self.name.replace(", ", "-").replace(" ", "").replace(":", "to")

    def examples(self, group: Sequence[Person]) -> list[ImageExample]:
        """Return what the arm sees of some patients."""
        return [e for p in group for e in (p.published() if self.published else p.ours())]


@dataclass(frozen=True, eq=False)
class ExpansionRisks:
    """What every method says of the external patients."""

    risks: dict[str, MethodRisk]
    synthesis: tuple[dict[str, Cell], ...]  # a row per generator
    curves: tuple[TrainingCurve, ...]
    pictures: tuple[PngPicture, ...]


def expansion_risks(people: People, out: Path, budget: StudyBudget) -> ExpansionRisks:
    """Train every arm with every seed, and ask every method about the external patients.

    All arms are trained with one seed before the next begins, so that a stopped run has compared them.
    """
    start = started_on_measures(people, out, budget)
    arms, batches = list(classifier_arms(people, budget, start=start)), list[SyntheticImages]()
    folds = fold_count(people, budget)
    found: dict[str, list[MethodRisk]] = {arm.name: [] for arm in arms}
    for seed in range(budget.seed, budget.seed + budget.seeds):
        for arm in arms:
            maker = _maker(people, arm, out, budget, seed=seed)
            synthetic = maker or nothing_synthetic
            found[arm.name].append(arm_risk(people, arm, out, budget, seed=seed, synthetic=synthetic))
            batches += maker.batches if maker and seed == budget.seed else []
    risks = {name: mean_risk(each) for name, each in found.items()}
    risks |= {**growth_model_risks(people), **clinical_score_risks(people), "oracle": oracle_risk(people)}
    return ExpansionRisks(
        risks,
        tuple(judged_batches(people, batches[:: folds if budget.smoke else 1])),
        (
            *_curves(arms, out, budget, folds),
            *generator_curves(out, budget, folds=folds),
        ),
        synthetic_sheet(people, batches, out),
    )


def _maker(
    people: People, arm: ClassifierArm, out: Path, budget: StudyBudget, *, seed: int
) -> SyntheticMaker | None:
    if not arm.generator:
        return None
    return SyntheticMaker(people, arm.settings, arm.generator, out, budget, seed=seed)


def fold_count(people: People, budget: StudyBudget) -> int:
    """Return in how many folds the training patients are divided."""
    return 2 if budget.smoke or len(people.training) < _LEAST_FOR_THREE_FOLDS else 3


def started_on_measures(people: People, out: Path, budget: StudyBudget) -> str:
    """Return the file of weights that the published classifiers start from; "" where the recipe has its own.

    All training patients teach it, each by what was measured and none by the outcome.
    """
    if not starts_on_measures(budget):
        return ""
    plain = _slice_settings(people, budget)
    budget.say("teaching the published network what was measured of each haematoma")
    loop = budget.recipe.applied(START_NETWORK, measured_start_recipe())
    loop = changed(loop, {"seed": budget.seed, **(_SMOKE if budget.smoke else {})})
    examples = [
        replace(e, features=tuple(p.inputs.feature(name) for name in IMAGE))
        for p in people.training
        for e in p.published()
    ]
    resources = Resources(budget.device)
    return str(measured_start(examples, plain.network, loop, out / START_NETWORK, resources=resources))


def starts_on_measures(budget: StudyBudget) -> bool:
    """Say whether published classifiers start on measures: under `small`, without weights of their own."""
    return budget.recipe.base != PUBLISHED_RECIPE and not published_settings(budget).vit_weights


def _slice_settings(people: People, budget: StudyBudget) -> ClassifierSettings:
    return _fitted(published_settings(budget), people.training[0].slices[0].image.shape[0])


def classifier_arms(people: People, budget: StudyBudget, *, start: str = "") -> Iterator[ClassifierArm]:
    """Yield the arms of the paper, the controls that it leaves out at the same ratios, and ours.

    `start` is a file of weights that the published networks start from.
    """
    plain = _slice_settings(people, budget)
    plain = changed(plain, {"vit_weights": start}) if start else plain
    yield ClassifierArm(PUBLISHED, plain)
    ratios = _RATIOS[1:] if budget.smoke else _RATIOS
    for arm in ("synthesis", *_BALANCED):
        for ratio in ratios:
            settings = changed(plain, {"arm": arm, "others_per_expanded": ratio})
            if arm != "synthesis":
                yield ClassifierArm(f"published, {settings.named()}", settings)
                continue
            if budget.does("synthesis"):
                yield ClassifierArm(f"published, {settings.named()}", settings, "published")
            if budget.does("conditional"):
                name = f"published, conditional {settings.named()}"
                yield ClassifierArm(name, settings, "conditional")
    features = len(IMAGE) + len(TOKEN_FACTS)
    ours = classifier_recipe(budget.recipe.base, kind="ours", features=features)
    yield ClassifierArm(OURS, _shared(ours, "ours", budget), published=False)


def published_settings(budget: StudyBudget) -> ClassifierSettings:
    """Return the settings of the published classifier under the study's recipe."""
    return _shared(classifier_recipe(budget.recipe.base), "published", budget)


def _shared(settings: ClassifierSettings, name: str, budget: StudyBudget) -> ClassifierSettings:
    settings = budget.recipe.applied(name, changed(settings, {"validations": _WATCHED}))
    return changed(settings, _SMOKE) if budget.smoke else settings


def _fitted(settings: ClassifierSettings, size: int) -> ClassifierSettings:
    """Return the settings with the network's image as large as the slices are."""
    arguments = settings.network.arguments | {"image_size": [size, size]}
    network = settings.network.model_copy(update={"arguments": arguments})
    return settings.model_copy(update={"network": network})


def arm_risk(
    people: People,
    arm: ClassifierArm,
    out: Path,
    budget: StudyBudget,
    *,
    seed: int,
    synthetic: Synthesise = nothing_synthetic,
) -> MethodRisk:
    """Train one arm over folds, save it, and return its risks; what cannot be trained says why."""
    given, settings = arm.examples(people.training), changed(arm.settings, {"seed": seed})
    try:
        ensemble = train_ensemble(
            given,
            settings,
            _folder(arm, out, seed),
            folds=fold_count(people, budget),
            synthetic=synthetic,
            resources=Resources(
                budget.device, warn=lambda sentence: budget.say(f"{arm.name}, seed {seed}: {sentence}")
            ),
        )
    except InputRefused as refusal:
        return MethodRisk(reason=str(refusal))
    model = _saved(ensemble, given, settings, arm_model_folder(arm, out, seed), budget)
    asked = load_classifier(model.folder, device=budget.device)
    risk = asked(arm.examples(people.external), device=budget.device)
    held = ensemble.out_of_fold
    probabilities = ensemble.recalibrator(list(held.values()))
    return MethodRisk(risk, out_of_fold=dict(zip(held, map(float, probabilities), strict=True)))


def _saved(
    ensemble: Classifier,
    given: Sequence[ImageExample],
    settings: ClassifierSettings,
    folder: Path,
    budget: StudyBudget,
) -> Model:
    truth, held = {e.patient: e.outcome for e in given}, ensemble.out_of_fold
    return save_classifier(
        ensemble,
        settings,
        folder,
        data={"images and outcomes": examples_fingerprint(given, settings)},
        validation={"AUC out of fold": auc([truth[p] for p in held], list(held.values())).value},
        resources=Resources(budget.device, command=f"ichnos study yu2025, {folder.name}"),
    )


def arm_model_folder(arm: ClassifierArm, out: Path, seed: int) -> Path:
    """Return where an arm's Model of one seed lies."""
    return out / "models" / f"{arm.stem}-seed-{seed}"


def _folder(arm: ClassifierArm, out: Path, seed: int) -> Path:
    return out / "classifiers" / f"{arm.stem}-seed-{seed}"


def _curves(
    arms: Sequence[ClassifierArm], out: Path, budget: StudyBudget, folds: int
) -> Iterator[TrainingCurve]:
    for arm in arms:
        for seed in range(budget.seed, budget.seed + budget.seeds):
            for fold in range(folds):
                file = _folder(arm, out, seed) / f"fold-{fold}" / CURVE
                name = f"{arm.name}, seed {seed}, fold {fold + 1}"
                held = "of the patients left out"
                for column, measure, rises in (("auc", "AUC", True), ("log_loss", "log loss", False)):
                    curve = curve_of_lines(file, name, column, f"{measure} {held}", rises=rises)
                    if curve is not None:
                        yield curve
