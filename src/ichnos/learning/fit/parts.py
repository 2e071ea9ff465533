"""Fit the prognostic and calibration models of a model folder: simulate, measure, fit, check, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.files import atomic_file
from ichnos.learning.fit.cards import growth_card, outcome_card
from ichnos.learning.fit.growth import fit_growth_model
from ichnos.learning.fit.growth_cases import GrowthCase, case_of, case_row, redrawn, simulated_case
from ichnos.learning.fit.growth_checks import cross_validation
from ichnos.learning.fit.outcome import fit_outcome_model, outcome_validation
from ichnos.learning.fit.outcome_cases import Anatomy, simulated_anatomy, simulated_trial
from ichnos.learning.fit.readings import (
    ReadPatients,
    fazekas_of_readings,
    read_patient,
    volumes_of_readings,
)
from ichnos.learning.virtual.default_model import taught_heads
from ichnos.models import Model
from ichnos.models.store import SHIPPED
from ichnos.prognosis.fazekas import FAZEKAS_FILE
from ichnos.prognosis.growth import GROWTH_FILE, GrowthModel
from ichnos.prognosis.outcome import OUTCOME_FILE, OutcomeModel
from ichnos.prognosis.store import plain_text
from ichnos.prognosis.volume import VOLUME_FILE
from ichnos.runs import Numbered, apply
from ichnos.simulation.heads.from_mni import mni_head

PARTS = ("growth", "outcome", "volumes", "fazekas")
_FOLDS = 5  # of the growth model's cross-validation
_FUTURES = 8  # follow-ups drawn for each simulated patient
_GROWTH_SEED, _ANATOMY_SEED = 20_000, 40_000  # first seeds, apart from those of any training


@dataclass(frozen=True)
class FitPlan:
    """What is fitted, on how many simulated patients."""

    parts: tuple[str, ...] = PARTS
    readings: int = 68  # patients simulated and read, for volumes and Fazekas grades
    growth_patients: int = 500
    anatomies: int = 300  # patients simulated in voxels, for the outcome model
    trial_patients: int = 3000
    heads: tuple[Path, ...] = ()  # label maps; the held-out ones are left to the stress test
    command: str = ""


@dataclass(frozen=True)
class FitResources:
    """How the work is done; decides no result."""

    work: Path  # measured patients lie here; a later call resumes
    workers: int = 1
    progress: bool = False
    worker_context: Callable[[], AbstractContextManager[None]] = nullcontext  # entered around each patient


@dataclass(frozen=True)
class Fitted:
    """One model that was written."""

    part: str
    file: Path
    cohort: str  # on whom it was fitted, in words
    measures: Mapping[str, float]  # on patients it was not fitted on


def fit_model(model: Model, plan: FitPlan, resources: FitResources) -> list[Fitted]:
    """Fit the parts of a plan and write them beside the model's weights."""
    fitted = []
    if "growth" in plan.parts:
        fitted.append(_fit_growth(_home(model, "expansion"), plan, resources))
    if "outcome" in plan.parts:
        fitted.append(_fit_outcome(_home(model, "outcome"), plan, resources))
    if {"volumes", "fazekas"} & set(plan.parts):
        fitted += _fit_readings(model, plan, resources)
    return fitted


def _home(model: Model, part: str) -> Path:
    """Return where a model's part lies: the default's growth and outcome models have folders of their own."""
    return SHIPPED / part if model.folder.parent == SHIPPED else model.folder


def _measured(
    task: Any, cases: list[Numbered], settings: Mapping[str, Any], name: str, resources: FitResources
) -> list[dict[str, Any]]:
    done = apply(
        partial(_within, task=task, context=resources.worker_context),
        cases,
        out=resources.work / name,
        settings=settings,
        name=name,
        workers=resources.workers,
        progress=resources.progress,
    )
    return list(done.rows)


def _within(
    case: Numbered, folder: Path, *, task: Any, context: Callable[[], AbstractContextManager[None]]
) -> dict[str, Any]:
    with context():
        row: dict[str, Any] = task(case, folder)
    return row


# ---- growth --------------------------------------------------------------------------------------


def _measure_growth(seed: Numbered, folder: Path, *, cache: Path) -> dict[str, Any]:
    del folder
    case = simulated_case(seed.number, mni_head(cache))
    return {"seen": False} if case is None else {"seen": True, **case_row(case)}


def _fit_growth(home: Path, plan: FitPlan, resources: FitResources) -> Fitted:
    seeds = [Numbered(_GROWTH_SEED + n) for n in range(plan.growth_patients)]
    task = partial(_measure_growth, cache=resources.work / "heads")
    rows = _measured(task, seeds, {"version": 1}, "growth", resources)
    model = growth_model_of([case_of(row) for row in rows if row["seen"]], command=plan.command)
    file = _written(home / GROWTH_FILE, plain_text(model), growth_card(model))
    return Fitted("growth", file, model.cohort, model.validation)


def growth_model_of(cases: list[GrowthCase], *, command: str) -> GrowthModel:
    """Fit the growth model on simulated patients with redrawn futures, and cross-validate it."""
    futures = [future for case in cases for future in redrawn(case, int(case.id), _FUTURES)]
    cohort = (
        f"{len(cases)} simulated patients (MNI head, five simulated centres, 1 to 7 mm slices), measured on"
        f" the true masks of their baseline CT, each with {_FUTURES} simulated follow-ups"
    )

    def rng() -> np.random.Generator:
        return np.random.default_rng(0)

    model = fit_growth_model(futures, cohort=cohort, simulated=True, command=command, rng=rng())
    image_only = cross_validation(futures, folds=_FOLDS, clinical=False, rng=rng())
    one_future = cross_validation(futures, judged=cases, folds=_FOLDS, rng=rng())
    measures = {
        **cross_validation(futures, folds=_FOLDS, rng=rng()),
        **{f"image_only_{name}": value for name, value in image_only.items()},
        **{f"one_future_each_{name}": value for name, value in one_future.items()},
    }
    return model.model_copy(update={"validation": measures})


# ---- outcome -------------------------------------------------------------------------------------


def _measure_anatomy(seed: Numbered, folder: Path, *, cache: Path) -> dict[str, Any]:
    del folder
    return asdict(simulated_anatomy(seed.number, mni_head(cache)))


def _fit_outcome(home: Path, plan: FitPlan, resources: FitResources) -> Fitted:
    seeds = [Numbered(_ANATOMY_SEED + n) for n in range(plan.anatomies)]
    task = partial(_measure_anatomy, cache=resources.work / "heads")
    rows = _measured(task, seeds, {"version": 2}, "outcome", resources)
    anatomies = [Anatomy(**{name: row[name] for name in Anatomy.__dataclass_fields__}) for row in rows]
    model = outcome_model_of(anatomies, plan.trial_patients, command=plan.command)
    file = _written(home / OUTCOME_FILE, plain_text(model), outcome_card(model))
    return Fitted("outcome", file, model.cohort, model.validation)


def outcome_model_of(anatomies: list[Anatomy], patients: int, *, command: str) -> OutcomeModel:
    """Fit the outcome model on one simulated trial and evaluate it on another."""
    cases, others = (simulated_trial(patients, anatomies, seed=seed) for seed in (1, 2))
    cohort = (
        f"{len(cases)} patients of a simulated randomised trial of surgery; tract injury, load and midline"
        f" shift measured on {len(anatomies)} patients simulated in voxels (MNI head) and given to the most"
        " similar ones"
    )
    model = fit_outcome_model(cases, cohort=cohort, simulated=True, randomised=True, command=command)
    return model.model_copy(update={"validation": outcome_validation(model, others)})


# ---- volumes and Fazekas grades ------------------------------------------------------------------


def _fit_readings(model: Model, plan: FitPlan, resources: FitResources) -> list[Fitted]:
    heads = taught_heads(plan.heads)
    how = ReadPatients(model.folder, heads, resources.work / "heads")
    settings = {"model": model.all_weights(), "heads": [head.name for head in heads]}
    cases = [Numbered(number) for number in range(plan.readings)]
    rows = _measured(partial(read_patient, how=how), cases, settings, "readings", resources)
    fitted = []
    if "volumes" in plan.parts:
        volumes = volumes_of_readings(rows)
        file = _written(model.folder / VOLUME_FILE, plain_text(volumes))
        fitted.append(Fitted("volumes", file, volumes.cohort, {}))
    if "fazekas" in plan.parts:
        fazekas = fazekas_of_readings(rows)
        file = _written(model.folder / FAZEKAS_FILE, plain_text(fazekas))
        fitted.append(Fitted("fazekas", file, fazekas.cohort, {}))
    return fitted


def _written(file: Path, text: str, card: str = "") -> Path:
    """Write a model and its card, CARD.md where the folder holds no other model's card."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
    if card:
        alone = not (file.parent / "model.json").is_file()
        with atomic_file(file.with_name("CARD.md" if alone else f"{file.stem}.CARD.md")) as temporary:
            temporary.write_text(card, encoding="utf-8")
    return file
