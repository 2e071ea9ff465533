"""Every arm of Abramova 2024 trained on the other patients and scored on those left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ichnos.arrays import Floats32
from ichnos.errors import InputRefused
from ichnos.learning.expansion.forecast import forecast_map, save_forecaster, train_forecaster
from ichnos.learning.expansion.forecast_scores import (
    ForecastScore,
    best_threshold,
    score,
    uniform_dilation,
)
from ichnos.learning.expansion.pairs import SYNTHETIC_FACTORS, LesionPair, synthetic_pair
from ichnos.learning.expansion.settings import ForecastKind, ForecastSettings
from ichnos.learning.loop.resources import Resources
from ichnos.learning.loop.settings import changed
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.pace import measured_steps

FORECAST_ARMS: Mapping[str, tuple[ForecastKind, bool]] = {
    "warp": ("warp", False),
    "warp + synthetic": ("warp", True),
    "ours": ("forecast", False),
    "ours + synthetic": ("forecast", True),
}
_LEAST_FOLD_SECONDS = 60.0  # with less, patients are left out in groups
LEAST_GROWTH_ML = 0.5


@dataclass
class ScoresByMethod:
    """What each method reached on each patient left out."""

    by_method: dict[str, list[ForecastScore]] = field(default_factory=dict)
    expected_ml: dict[str, list[float]] = field(default_factory=dict)  # error of the sum of probabilities

    def add(self, method: str, found: ForecastScore) -> None:
        self.by_method.setdefault(method, []).append(found)


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
    seconds = 60 * budget.minutes / patients
    count = (
        patients
        if seconds >= _LEAST_FOLD_SECONDS and not budget.smoke
        else min(5 if not budget.smoke else 2, patients)
    )
    order = np.random.default_rng(budget.seed).permutation(patients)
    return [sorted(int(i) for i in part) for part in np.array_split(order, count)]


def training_steps(
    pairs: Sequence[LesionPair], out: Path, budget: StudyBudget, folds: int
) -> dict[ForecastKind, int]:
    """Return how long each kind is trained: the minutes of a network are for all groups together."""

    def within(kind: ForecastKind) -> int:
        def trial(steps: int, folder: Path) -> None:
            resources = Resources(budget.device)
            train_forecaster(pairs, _settings(kind, steps, budget), folder, resources=resources)

        return measured_steps(
            out / "steps.json", kind, 60 * budget.minutes / folds, trial, least=20, most=2000
        )

    kinds = dict.fromkeys(kind for kind, _ in FORECAST_ARMS.values())
    return dict.fromkeys(kinds, 6) if budget.smoke else {kind: within(kind) for kind in kinds}


def _settings(kind: ForecastKind, steps: int, budget: StudyBudget) -> ForecastSettings:
    own = ForecastSettings(kind=kind, width=_width(budget))
    return changed(own, {"steps": steps, "seed": budget.seed})


def _width(budget: StudyBudget) -> int:
    return 4 if budget.smoke else 8 if budget.device == "cpu" else 16


def fold_maps(
    others: Sequence[LesionPair],
    held: Sequence[LesionPair],
    out: Path,
    budget: StudyBudget,
    steps: Mapping[ForecastKind, int],
    scores: ScoresByMethod,
) -> list[dict[str, Floats32]]:
    """Train every arm on the others, score it on those left out, and return their maps at the operating
    point's scale.
    """
    rng = np.random.default_rng([budget.seed, len(others)])
    made = [synthetic_pair(p, factor, rng) for p in others for factor in SYNTHETIC_FACTORS]
    maps: list[dict[str, Floats32]] = [{} for _ in held]
    for arm, (kind, synthetic) in FORECAST_ARMS.items():
        budget.say(f"  training {arm}")
        folder = out / arm.replace(" ", "")
        known = [*others, *made] if synthetic else list(others)
        how = _settings(kind, steps[kind], budget)
        network = train_forecaster(known, how, folder, resources=Resources(budget.device))
        stem = f"{arm.replace(' + ', '-')}-{out.name}"
        save_forecaster(
            network, how, out.parent / "models" / stem, pairs=known, command="ichnos study abramova2024"
        )
        seen = [forecast_map(network, p, kind, device=budget.device) for p in others]
        cut = best_threshold(others, seen) if kind == "forecast" else 0.5
        for j, pair in enumerate(held):
            found = forecast_map(network, pair, kind, device=budget.device)
            scores.add(arm, score(pair, found, threshold=cut))
            if kind == "forecast":
                expected = float(found.sum() - pair.later.sum()) * pair.voxel_ml
                scores.expected_ml.setdefault(arm, []).append(expected)
            maps[j][arm] = (found > cut).astype(np.float32)
    _reference_scores(others, held, scores)
    return maps


def _reference_scores(
    others: Sequence[LesionPair], held: Sequence[LesionPair], scores: ScoresByMethod
) -> None:
    factor = float(np.mean([p.later.sum() / p.blood.sum() for p in others]))
    oracles = [p.oracle for p in others if p.oracle is not None]
    cut = best_threshold([p for p in others if p.oracle is not None], oracles) if oracles else 0.5
    for pair in held:
        scores.add("no growth", score(pair, pair.blood))
        scores.add("uniform dilation", score(pair, uniform_dilation(pair, factor)))
        if pair.oracle is not None:
            scores.add("oracle", score(pair, pair.oracle, threshold=cut))
            scores.expected_ml.setdefault("oracle", []).append(
                float(pair.oracle.sum() - pair.later.sum()) * pair.voxel_ml
            )
