"""The estimate of what a recipe costs counts the trainings that the studies make."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from ichnos.learning.recipes import classifier_recipe, generator_recipe
from ichnos.studies.abramova2024.training import FORECAST_ARMS
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.yu2025.arms import classifier_arms

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the benchmark, which imports others beside it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("recipe_costs", "precision", "run"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import recipe_costs

    return recipe_costs


def test_every_part_that_trains_is_counted(costs: ModuleType) -> None:
    segmentation = list(costs.segmentation_trainings())
    assert {t.part for t in segmentation} == {"ryu2025", "murray2024, tracts", "yu2025, outlines"}
    assert {t.network.name: t.steps for t in segmentation if t.part == "murray2024, tracts"} == {
        "pairs": 3000,
        "thread": 2000,
    }
    assert [t.network.name for t in costs.forecast_trainings()] == list(FORECAST_ARMS)


def test_classifiers_are_trained_on_two_thirds_in_every_fold(costs: ModuleType) -> None:
    loop, each = classifier_recipe("small").loop, 1103 * 2 // 3
    trained = {t.network.name: t for t in costs.expansion_trainings() if t.part == "yu2025, expansion"}
    assert trained["published, as is"].steps == 3 * loop.epochs * -(-each * 3 // loop.batch)
    assert len(trained) == 8
    assert trained["ours, as is"].network.facts > 0


def test_the_published_generator_sees_expanded_haematomas_alone(costs: ModuleType) -> None:
    steps = {t.network.name: t.steps for t in costs.expansion_trainings() if "generator" in t.network.name}
    assert steps["generator, published"] < 0.25 * steps["generator, conditional"]
    assert steps["generator, published"] % generator_recipe("small").loop.epochs == 0


def test_hours_are_pace_times_steps_and_a_network_is_measured_once(
    costs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def row(network: object) -> dict[str, float]:
        asked.append(f"{network.spec} {network.shape}")  # type: ignore[attr-defined]
        return {"fp32, s": 3.0, "bf16, s": 2.0}

    monkeypatch.setattr(costs, "row", row)
    rows = costs.main()
    assert len(asked) == len(set(asked))
    assert all(r["core-hours"] == pytest.approx(r["steps"] * 2.0 / 3600) for r in rows if "steps" in r)
    parts = {r["part"]: r["core-hours"] for r in rows if r["network"] == "all"}
    each = sum(r["core-hours"] for r in rows if r["part"] == "abramova2024" and "steps" in r)
    assert parts["abramova2024"] == pytest.approx(each)


def test_each_generator_is_a_part_of_its_own(costs: ModuleType) -> None:
    trained = {t.part: t.network.name for t in costs.expansion_trainings() if "generator" in t.network.name}
    assert trained == {
        "yu2025, synthesis": "generator, published",
        "yu2025, conditional": "generator, conditional",
    }


@pytest.mark.parametrize(
    ("parts", "generators"),
    [
        (("expansion",), set()),
        (("expansion", "synthesis"), {"published"}),
        (("expansion", "conditional"), {"conditional"}),
        ((), {"published", "conditional"}),
    ],
)
def test_a_part_trains_its_own_generator_alone(parts: tuple[str, ...], generators: set[str]) -> None:
    one = SimpleNamespace(slices=[SimpleNamespace(image=np.zeros((64, 64)))])
    people = cast(Any, SimpleNamespace(training=[one] * 99))
    arms = list(classifier_arms(people, StudyBudget(parts=parts)))
    assert {arm.generator for arm in arms} - {""} == generators
    assert sum(bool(arm.generator) for arm in arms) == 2 * len(generators), "both ratios"
