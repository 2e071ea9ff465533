"""Part two of Yu 2025: patients as images and measures, every arm of the classifiers, the comparators and
the oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.clinical.expansion import DEFAULT_DEFINITION, DEFINITIONS
from ichnos.clinical.scores import comparators
from ichnos.cohort import Cohort, Split
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.discrimination import auc, roc_curve
from ichnos.evidence.tables import Cell, Table
from ichnos.learning.expansion import generator_store, realism
from ichnos.learning.expansion import slice_generator as synthesis
from ichnos.learning.expansion.classifier import (
    ClassifierSettings,
    examples_fingerprint,
    published_classifier,
    region_classifier,
)
from ichnos.learning.expansion.crops import Example, facts_of, haematoma_region, published_crops
from ichnos.learning.expansion.ensemble import (
    Classifier,
    load_classifier,
    save_classifier,
    train_ensemble,
)
from ichnos.learning.expansion.labels import Labelled, labelled
from ichnos.learning.fit.growth import fit_growth_model
from ichnos.learning.fit.growth_cases import GrowthCase
from ichnos.models.store import SHIPPED
from ichnos.prognosis.growth import IMAGE, GrowthInputs, GrowthModel, load_growth_model
from ichnos.reading.measures.growth import growth_inputs
from ichnos.studies.page import Effort, Image, cell, comparison
from ichnos.studies.shared import number, truth_rows

EXTERNAL: tuple[Split, ...] = ("test", "external")
FACTS = ("onset_to_ct_h", "anticoagulation")
_SECONDS_PER_STEP = {
    "published": 0.5,
    "ours": 0.5,
    "generator": 0.5,
}  # on one processor core, to choose a schedule's length


@dataclass(frozen=True, eq=False)
class Person:
    """One patient whose expansion is known, as every method sees the patient."""

    patient: str
    centre: str
    outcome: float
    slices: tuple[synthesis.Picture, ...]
    region: np.ndarray
    inputs: GrowthInputs
    followup_ml: float
    followup_ivh_ml: float
    facts: Mapping[str, object]
    oracle: float  # NaN for people

    def published(self) -> list[Example]:
        """Return the published slices, channels equal."""
        return [
            Example(self.patient, np.repeat(s.image[None], 3, axis=0), self.outcome, centre=self.centre)
            for s in self.slices
        ]

    def ours(self) -> list[Example]:
        """Return the region with measures and clinical facts."""
        tokens = (*(self.inputs.feature(name) for name in IMAGE), *facts_of(self.facts, FACTS))
        return [Example(self.patient, self.region, self.outcome, centre=self.centre, features=tokens)]


@dataclass(frozen=True, eq=False)
class People:
    """Who trains and who is asked."""

    training: tuple[Person, ...]
    external: tuple[Person, ...]
    cuts: dict[str, float] = field(
        default_factory=dict
    )  # method -> operating point, from out-of-fold training scores
    scores_only: set[str] = field(default_factory=set)  # methods that give no probability

    @property
    def centres(self) -> tuple[str, ...]:
        """Return the external centres."""
        return tuple(sorted({p.centre for p in self.external}))


@dataclass(frozen=True, eq=False)
class Found:
    """What every method says of the external patients."""

    risk: dict[str, Mapping[str, float] | str]
    tables: tuple[Table, ...]
    pictures: tuple[Image, ...]


def people_of(cohort: Cohort, *, size: int) -> People:
    """Cut every patient whose expansion is known into slices and a region, and measure the haematoma."""
    truths = truth_rows(cohort)
    people = [
        (case.patient.split, _person(case, size, truths.get(case.patient.id, {})))
        for case in labelled(cohort)
    ]
    training, external = (
        tuple(p for split, p in people if (split in EXTERNAL) == outside) for outside in (False, True)
    )
    if not training or not external:
        raise InputRefused(
            f"expansion is known of {len(training)} patients to train and of {len(external)} of the splits"
            " test and external; both are needed: give the targets haematoma and expansion, and a split to"
            " every patient"
        )
    return People(training, external)


def _person(case: Labelled, size: int, truth: Mapping[str, str]) -> Person:
    name = case.patient.id
    slices = tuple(
        synthesis.Picture(f"{name}-{k}", crop.image, crop.mask, case.expanded, name)
        for k, crop in enumerate(published_crops(case.hu, case.ich, size=size))
    )
    return Person(
        patient=name,
        centre=case.patient.centre,
        outcome=case.expanded,
        slices=slices,
        region=haematoma_region(case.hu, case.ich, case.ivh),
        inputs=growth_inputs(case.ich, case.ivh, case.hu, facts=case.patient.facts),
        followup_ml=case.followup_ml,
        followup_ivh_ml=case.followup_ivh_ml,
        facts=case.patient.facts,
        oracle=number(truth.get("expansion_probability")),
    )


def classified(people: People, out: Path, effort: Effort) -> Found:
    """Train every arm, and ask every method about the external patients."""
    risk: dict[str, Mapping[str, float] | str] = {}
    drawn: list[tuple[str, list[synthesis.Picture]]] = []
    folds = 2 if effort.smoke or len(people.training) < 60 else 3
    size = people.training[0].slices[0].image.shape[0]
    for recipe in _published_arms(effort, size):
        name = f"published, {recipe.named()}"
        generators = out / "classifiers" / "generators"
        made = (
            _maker(people, recipe, generators, out / "models", effort, drawn)
            if recipe.arm == "synthesis"
            else None
        )
        risk[name] = _asked(people, name, recipe, out, effort, folds, made, published=True)
    tokens = len(IMAGE) + len(FACTS)
    ours = region_classifier(
        steps=_steps(effort, "ours", folds),
        features=tokens,
        batch=_batch(effort),
        learning_rate=5e-4,
        seed=effort.seed,
    )
    risk["ours, as is"] = _asked(people, "ours, as is", ours, out, effort, folds, None, published=False)
    risk |= _laws(people)
    risk |= _scores(people)
    known = {p.patient: p.oracle for p in people.external if np.isfinite(p.oracle)}
    risk["oracle"] = known or "the oracle is known in simulated cohorts alone"
    return Found(risk, (_made_table(people, drawn),), _sheet(people, drawn, out))


def _published_arms(effort: Effort, size: int) -> list[ClassifierSettings]:
    wanted = [
        ("as is", None),
        ("synthesis", 1.0),
        ("synthesis", 2.0),
        ("oversample", 1.0),
        ("oversample", 2.0),
    ]
    wanted += [("weight", 1.0), ("weight", 2.0), ("focal", 1.0), ("focal", 2.0)]
    if effort.smoke:
        wanted = [("as is", None), ("synthesis", 2.0), ("oversample", 2.0), ("weight", 2.0), ("focal", 2.0)]
    steps, small = _steps(effort, "published", 3), effort.device == "cpu"
    return [
        published_classifier(
            steps=steps,
            size=size,
            small=small,
            arm=arm,
            others_per_expanded=ratio,
            batch=_batch(effort),
            seed=effort.seed,
        )
        for arm, ratio in wanted
    ]


def _batch(effort: Effort) -> int:
    return 4 if effort.smoke else 32 if effort.device != "cpu" else 16


def _steps(effort: Effort, what: str, folds: int) -> int:
    """Choose the length of a schedule: an arm may take a quarter of the minutes of a network, for all its
    folds.
    """
    return (
        3
        if effort.smoke
        else int(np.clip(60 * effort.minutes / 4 / folds / _SECONDS_PER_STEP[what], 30, 3000))
    )


def _generator_steps(effort: Effort) -> int:
    """Choose the length of a generator's training: each fold's takes the minutes of a network; with a
    tenth of them it draws noise.
    """
    return 3 if effort.smoke else int(np.clip(60 * effort.minutes / _SECONDS_PER_STEP["generator"], 30, 3000))


def _asked(
    people: People,
    name: str,
    recipe: ClassifierSettings,
    out: Path,
    effort: Effort,
    folds: int,
    made: Callable[[int, Sequence[Example]], Sequence[Example]] | None,
    *,
    published: bool,
) -> Mapping[str, float] | str:
    def examples(group: Sequence[Person]) -> list[Example]:
        return [e for p in group for e in (p.published() if published else p.ours())]

    stem, given = name.replace(", ", "-").replace(" ", "").replace(":", "to"), examples(people.training)
    folder = out / "classifiers" / stem
    try:
        trained = train_ensemble(
            given, recipe, folder, folds=folds, synthetic=made, device=effort.device, say=effort.say
        )
    except InputRefused as refusal:
        return str(refusal)
    truth, held = {p.patient: p.outcome for p in people.training}, trained.out_of_fold
    area = auc([truth[p] for p in held], list(held.values())).value
    told: dict[str, Any] = {
        "data": {"images and outcomes": examples_fingerprint(given, recipe)},
        "validation": {"AUC out of fold": area},
    }
    model = save_classifier(
        trained,
        recipe,
        out / "models" / stem,
        **told,
        command=f"ichnos study yu2025, {name}",
        device=effort.device,
    )
    people.cuts[name] = _cut(people, trained)
    return load_classifier(model.folder, device=effort.device)(
        examples(people.external), device=effort.device
    )


def _cut(people: People, trained: Classifier) -> float:
    """Return the probability with the greatest sensitivity + specificity on the out-of-fold training
    scores.
    """
    truth = {p.patient: p.outcome for p in people.training}
    held = trained.out_of_fold
    curve = roc_curve([truth[p] for p in held], trained.recalibrator(list(held.values())))
    best = int(np.argmax(curve.true_positive_rate - curve.false_positive_rate))
    return float(min(curve.threshold[best], 1.0))


def _maker(
    people: People,
    recipe: ClassifierSettings,
    out: Path,
    models: Path,
    effort: Effort,
    drawn: list[tuple[str, list[synthesis.Picture]]],
) -> Callable[[int, Sequence[Example]], Sequence[Example]]:
    """Return what makes expanded images from a fold's training patients until the classes stand at the
    recipe's ratio.
    """
    pictures = {p.patient: p.slices for p in people.training}
    size = people.training[0].slices[0].image.shape[0]

    def make(fold: int, train: Sequence[Example]) -> list[Example]:
        chosen = [s for patient in dict.fromkeys(e.patient for e in train) for s in pictures[patient]]
        events = sum(e.outcome for e in train)
        wanted = round((len(train) - events) / (recipe.others_per_expanded or 1.0) - events)
        plan = synthesis.GeneratorSettings(
            kind="published", size=size, loop=synthesis.GeneratorLoop(steps=10_000, seed=effort.seed)
        )
        if effort.device == "cpu":
            steps, noise = _generator_steps(effort), 20 if effort.smoke else 400
            plan = synthesis.small_generator(
                "published", steps=steps, size=size, seed=effort.seed, noise_steps=noise
            )
        network = synthesis.train_generator(chosen, plan, out / f"fold-{fold}", device=effort.device)
        told: dict[str, Any] = {
            "trained_on": chosen,
            "steps": plan.loop.steps,
            "command": "ichnos study yu2025",
            "device": effort.device,
        }
        generator_store.save_generator(network, plan, models / f"generator-fold-{fold}", **told)
        made = list(
            synthesis.sample_pictures(
                network,
                plan,
                max(2, wanted),
                trained_on=chosen,
                seed=effort.seed + fold,
                few_steps=5 if effort.smoke else 50,
                device=effort.device,
            )
        )
        generator_store.write_ledger(
            made, out / f"{recipe.named().replace(' ', '-').replace(':', 'to')}-fold-{fold}.csv"
        )
        drawn.append((f"{recipe.named()}, fold {fold + 1}", made))
        return [Example("", np.repeat(p.image[None], 3, axis=0), 1.0, sources=p.sources) for p in made]

    return make


def _laws(people: People) -> dict[str, Mapping[str, float] | str]:
    """Return the risk by the growth law, fitted on the training patients where they are enough, and by the
    one that ships.
    """
    found: dict[str, Mapping[str, float] | str] = {}
    cases = [
        GrowthCase(p.patient, p.inputs, p.followup_ml, p.followup_ivh_ml, p.oracle) for p in people.training
    ]
    try:
        fitted = fit_growth_model(
            cases, cohort="training centres", simulated=False, refits=0, rng=np.random.default_rng(0)
        )
        found["ours, growth law fitted here"] = _risk_by(fitted, people)
    except InputRefused as refusal:
        found["ours, growth law fitted here"] = str(refusal)
    try:
        found["ours, growth law that ships"] = _risk_by(load_growth_model(SHIPPED / "expansion"), people)
    except InputRefused as refusal:
        found["ours, growth law that ships"] = str(refusal)
    return found


def _risk_by(law: GrowthModel, people: People) -> dict[str, float]:
    return {
        p.patient: law.forecast(p.inputs).probability(DEFINITIONS[DEFAULT_DEFINITION])
        for p in people.external
    }


def _scores(people: People) -> dict[str, Mapping[str, float] | str]:
    """Return volume alone, BAT, BRAIN and HEP, from measured signs and the clinical row; a score that
    lacks a column says so.
    """
    import pandas as pd

    table = pd.DataFrame(
        [
            {
                **p.facts,
                "ich_ml": p.inputs.ich_ml,
                "ivh": p.inputs.ivh_ml >= 0.5,
                "blend_sign": p.inputs.blend > 0,
                "hypodensity": p.inputs.black_hole > 0 or p.inputs.dark_share > 0.1,
                **(
                    {"recurrent_ich": 0} if np.isfinite(p.oracle) else {}
                ),  # in a simulation nobody has bled before
            }
            for p in people.external
        ]
    )
    found: dict[str, Mapping[str, float] | str] = {}
    for score in comparators(table):
        name = {"volume": "volume alone", "bat": "BAT", "brain": "BRAIN", "hep": "HEP"}[score.name]
        people.scores_only.add(name)
        found[name] = score.missing or dict(
            zip((p.patient for p in people.external), score.values.tolist(), strict=True)
        )
    return found


def _made_table(people: People, drawn: Sequence[tuple[str, Sequence[synthesis.Picture]]]) -> Table:
    every = [s for p in people.external for s in p.slices]  # three of each patient
    real = [s for s in every if s.outcome > 0] or every
    features = realism.RandomFeatures()
    known = features([s.image for s in real])
    rows: list[dict[str, Cell]] = []
    for name, made in drawn:
        learnt = [s for p in people.training for s in p.slices if p.patient in made[0].sources]
        own = features([p.image for p in made])

        def new(
            what: str, made: Sequence[synthesis.Picture] = made, learnt: Sequence[synthesis.Picture] = learnt
        ) -> Cell:
            return cell(lambda: float(getattr(realism.novelty(made, learnt, real), what)))

        rows.append(
            {
                "images": name,
                "made": len(made),
                "learnt from, patients": len(made[0].sources),
                "FID": cell(lambda own=own: realism.frechet_distance(own, known)),  # type: ignore[misc]
                "KID": cell(lambda own=own: realism.kernel_distance(own, known)),  # type: ignore[misc]
                "nearest made over nearest held-out": new("ratio"),
                "share of copies": new("copies_share"),
            }
        )
    if not rows:
        rows = [
            {
                "images": "none were made",
                "why": "too few patients of a class to train a generator in every fold",
            }
        ]
    note = "Against slices of expanded patients of the external centres."
    return comparison("synthesis", "Synthetic images", rows, note=note)


def _sheet(
    people: People, drawn: Sequence[tuple[str, Sequence[synthesis.Picture]]], out: Path
) -> tuple[Image, ...]:
    if not drawn:
        return ()
    real = [s for p in people.training for s in p.slices if s.outcome > 0]
    out.mkdir(parents=True, exist_ok=True)
    rows = [(name, made[:10]) for name, made in drawn[:4]]
    realism.slice_sheet((*rows, ("patients who expanded", real[:10])), out / "contact_sheet.png")
    caption = "Images that were made, unselected, above slices of training patients who expanded."
    return (Image("contact_sheet", caption, (out / "contact_sheet.png").read_bytes()),)
