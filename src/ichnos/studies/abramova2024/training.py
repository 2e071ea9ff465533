"""Every arm of Abramova 2024 trained on the other patients and scored on those left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.arrays import Floats32
from ichnos.errors import InputRefused
from ichnos.learning.expansion.forecast import forecast_map, save_forecaster, train_forecaster
from ichnos.learning.expansion.forecast_scores import best_threshold, score, uniform_dilation
from ichnos.learning.expansion.pairs import SYNTHETIC_FACTORS, LesionPair, synthetic_pair
from ichnos.learning.expansion.settings import CURVE, ForecastKind, ForecastSettings
from ichnos.learning.expansion.synthetic import registered_baseline, registered_followup
from ichnos.learning.loop.resources import Resources
from ichnos.learning.loop.settings import changed
from ichnos.learning.recipes import PUBLISHED, forecast_recipe
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.curves import TrainingCurve, curve_of_lines

FORECAST_ARMS: Mapping[str, tuple[ForecastKind, bool]] = {
    "warp": ("warp", False),
    "warp + synthetic": ("warp", True),
    "ours": ("forecast", False),
    "ours + synthetic": ("forecast", True),
}
LEAST_GROWTH_ML = 0.5
_GROUPS = 10  # that patients are left out in; as published: one patient at a time
_INNER_SHARE = 4  # one in so many of the others stops the training and chooses the operating point
_WATCHED = {"validations": 10, "patience": 4}
_SMOKE = {
    "steps": 2,
    "epochs": 0,
    "width": 4,
    "validations": 1,
    "precision": "fp32",
    "spacing_mm": (4.0, 4.0, 6.0),
    "shape": (24, 24, 16),  # the same region, coarser
    "patch": None,
}
_MEASURE = "growth Dice of the inner fold"


@dataclass(frozen=True, eq=False)
class GroupResult:
    """What the arms reached on the patients of one group."""

    rows: tuple[dict[str, Any], ...]  # a row per method and patient
    maps: tuple[dict[str, Floats32], ...]  # of each patient, by arm, above the operating point
    curves: tuple[TrainingCurve, ...]


def check_apart(pairs: Sequence[LesionPair]) -> None:
    """Refuse a patient who is there twice: who is left out would be learnt from under the other name."""
    seen: dict[bytes, str] = {}
    for pair in pairs:
        other = seen.setdefault(pair.hu.tobytes(), pair.patient)
        if other != pair.patient:
            raise InputRefused(
                f"leakage: sub-{other} and sub-{pair.patient} have the same CT; take one of them out of the"
                " cohort"
            )


def fold_groups(patients: int, budget: StudyBudget) -> list[list[int]]:
    """Divide patients into the groups that are left out."""
    most = 2 if budget.smoke else patients if budget.recipe.base == PUBLISHED else _GROUPS
    order = np.random.default_rng(budget.seed).permutation(patients)
    return [sorted(int(i) for i in part) for part in np.array_split(order, min(most, patients))]


def inner_fold(others: Sequence[LesionPair], seed: int) -> tuple[list[LesionPair], list[LesionPair]]:
    """Divide the patients learnt from into those of the gradient and those of the inner fold.

    The inner fold ends the training and chooses the operating point; who is left out takes no part in either.
    """
    order = [int(k) for k in np.random.default_rng([seed, 5]).permutation(len(others))]
    inner = sorted(order[: max(1, len(others) // _INNER_SHARE)])
    return [p for k, p in enumerate(others) if k not in inner], [others[k] for k in inner]


def arm_settings(arm: str, budget: StudyBudget) -> ForecastSettings:
    """Return how an arm is trained under the study's recipe."""
    kind, _ = FORECAST_ARMS[arm]
    settings = changed(forecast_recipe(budget.recipe.base, kind=kind), {**_WATCHED, "seed": budget.seed})
    settings = budget.recipe.applied(arm_stem(arm), settings)
    return changed(settings, _SMOKE) if budget.smoke else settings


def arm_stem(arm: str) -> str:
    """Return the name of an arm's folders.

    >>> arm_stem("ours + synthetic")
    'ours-synthetic'
    """
    return arm.replace(" + ", "-")


def group_result(
    others: Sequence[LesionPair], held: Sequence[LesionPair], out: Path, budget: StudyBudget
) -> GroupResult:
    """Train every arm on the others, and score it on those left out."""
    budget.say(f"{out.name}: {len(held)} patient(s) left out")
    rows: list[dict[str, Any]] = []
    maps: list[dict[str, Floats32]] = [{} for _ in held]
    curves = []
    for arm in FORECAST_ARMS:
        budget.say(f"  training {arm}")
        curve = _trained_arm(arm, others, held, out, budget, rows, maps)
        curves += [curve] if curve else []
    rows += _reference_rows(others, held)
    return GroupResult(tuple(rows), tuple(maps), tuple(curves))


def _trained_arm(
    arm: str,
    others: Sequence[LesionPair],
    held: Sequence[LesionPair],
    out: Path,
    budget: StudyBudget,
    rows: list[dict[str, Any]],
    maps: list[dict[str, Floats32]],
) -> TrainingCurve | None:
    (kind, synthetic), folder, settings = FORECAST_ARMS[arm], out / arm_stem(arm), arm_settings(arm, budget)
    real, inner = inner_fold(others, budget.seed)
    rng = np.random.default_rng([budget.seed, len(others)])
    known = [*real, *(synthetic_copies(real, rng, budget) if synthetic else ())]
    resources = Resources(budget.device)
    network = train_forecaster(known, settings, folder, validation=inner, resources=resources)
    models, stem = out.parent / "models", f"{arm_stem(arm)}-{out.name}"
    save_forecaster(network, settings, models / stem, pairs=known, command="ichnos study abramova2024")

    def read(pair: LesionPair) -> Floats32:
        return forecast_map(network, pair, kind, patch=settings.patch, device=budget.device)

    cut = best_threshold(inner, [read(p) for p in inner]) if kind == "forecast" else 0.5
    for pair, own in zip(held, maps, strict=True):
        found = read(pair)
        rows.append(_row(arm, pair, found, cut, expected=kind == "forecast"))
        own[arm] = (found > cut).astype(np.float32)
    return curve_of_lines(folder / CURVE, f"{arm}, {out.name}", "growth_dice", _MEASURE)


def synthetic_copies(
    real: Sequence[LesionPair], rng: np.random.Generator, budget: StudyBudget
) -> list[LesionPair]:
    """Return grown copies of the pairs that are learnt from.

    Under `published` as published, by registration of the masks, and baselines made smaller among them.
    """
    if budget.recipe.base == PUBLISHED:
        return [copy for pair in real for copy in _registered(pair, budget.seed)]
    return [synthetic_pair(pair, factor, rng) for pair in real for factor in SYNTHETIC_FACTORS]


@cache  # every group learns from most of the same pairs
def _registered(pair: LesionPair, seed: int) -> tuple[LesionPair, ...]:
    rng = np.random.default_rng([seed, *pair.patient.encode()])
    later = [registered_followup(pair, factor, rng) for factor in SYNTHETIC_FACTORS]
    if pair.later_hu is None:  # a loss that only copies know would pull the network away from the patients
        later = [replace(made, later_hu=None) for made in later]
    return (*later, *(registered_baseline(pair, factor) for factor in SYNTHETIC_FACTORS))


def _row(
    method: str, pair: LesionPair, found: Floats32, cut: float = 0.5, *, expected: bool = False
) -> dict[str, Any]:
    row = {"method": method, "patient": pair.patient, **asdict(score(pair, found, threshold=cut))}
    if expected:
        row["expected_error_ml"] = float(found.sum() - pair.later.sum()) * pair.voxel_ml
    return row


def _reference_rows(others: Sequence[LesionPair], held: Sequence[LesionPair]) -> list[dict[str, Any]]:
    factor = float(np.mean([p.later.sum() / p.blood.sum() for p in others]))
    known = [p for p in others if p.oracle is not None]
    cut = best_threshold(known, [p.oracle for p in known if p.oracle is not None]) if known else 0.5
    rows = []
    for pair in held:
        rows.append(_row("no growth", pair, pair.blood))
        rows.append(_row("uniform dilation", pair, uniform_dilation(pair, factor)))
        if pair.oracle is not None:
            rows.append(_row("oracle", pair, pair.oracle, cut, expected=True))
    return rows
