"""The table of docs/studies.md on what a recipe costs says what designs and recipes say."""

from __future__ import annotations

from pathlib import Path

import pytest

from ichnos.learning.nnunet.settings import NnunetSettings
from ichnos.learning.recipes import classifier_recipe, forecast_recipe, generator_recipe
from ichnos.simulation.cohort.design import preset
from ichnos.studies.murray2024.design import tract_plans
from ichnos.studies.ryu2025.design import white_matter_plans
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.recipe import study_recipe
from ichnos.studies.shared.training import SegmentationPlan
from ichnos.studies.yu2025.outlines import outline_networks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "studies.md"
PLANS = {
    "`ryu2025`": white_matter_plans,
    "`murray2024`, `tracts`": tract_plans,
    "`yu2025`, `outlines`": outline_networks,
}
BASES = ("small", "published")


def row(name: str) -> dict[str, str]:
    """Return a row of the table, by its columns."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    head = next(line for line in lines if "core-hours" in line)
    found = next(line for line in lines if line.startswith(f"| {name} |"))
    columns, cells = ([part.strip() for part in line.strip("|").split(" | ")] for line in (head, found))
    return dict(zip((c.strip("`| ") for c in columns), cells, strict=True))


def length(plan: SegmentationPlan) -> str:
    if isinstance(plan, NnunetSettings):
        return f"{plan.epochs:,} epochs x {plan.iterations}"
    return f"{plan.loop.steps:,}"


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", PLANS)
def test_segmentations_are_as_long_as_their_recipes(name: str, base: str) -> None:
    said = row(name)
    asked = row(name)["small"] if "as in `small`" in said[base] else ""
    plans = PLANS[name](StudyBudget(recipe=study_recipe(base)))
    for network, plan in plans.items():
        assert length(plan) in said[base] + asked, network


@pytest.mark.parametrize("base", BASES)
def test_image_networks_are_trained_for_the_epochs_of_their_recipes(base: str) -> None:
    published, ours = classifier_recipe(base), classifier_recipe(base, kind="ours", features=1)
    generator = generator_recipe(base)
    assert f"{published.loop.epochs} epochs" in row("`yu2025`, `expansion`")[base]
    assert f"{ours.loop.epochs} epochs" in row("`yu2025`, `expansion`")[base]
    makers = [row(f"`yu2025`, `{part}`")[base] for part in ("synthesis", "conditional")]
    assert all(f"{generator.loop.epochs:,} epochs" in cell for cell in makers)
    for cell in (row("`yu2025`, `expansion`")[base], *makers):
        assert f"{generator.size} pixels" in cell
    assert published.network.arguments["image_size"] == [generator.size] * 2
    for kind in ("warp", "forecast"):
        loop = forecast_recipe(base, kind=kind).loop
        asked = f"{loop.epochs} epochs" if loop.epochs else f"{loop.steps:,} steps"
        assert asked in row("`abramova2024`")[base]


def test_patients_are_those_of_the_designs() -> None:
    def count(study: str, *splits: str) -> str:
        return f"{sum(g.patients for g in preset(study).groups if g.split in splits):,}"

    assert row("`yu2025`, `outlines`")["patients: to train, held out"] == (
        f"{count('yu2025', 'train')}, {count('yu2025', 'external')}"
    )
    assert count("ryu2025", "train", "validation") in row("`ryu2025`")["patients: to train, held out"]
    assert count("murray2024", "external") in row("`murray2024`, `trial`")["patients: to train, held out"]
    assert count("abramova2024", "train") in row("`abramova2024`")["patients: to train, held out"]
