"""What the networks of each study cost under the recipe `small`, at the full design and with one seed.

An estimate: the measured pace of a step (`benchmarks/precision.py`: forward and backward pass of one batch on
one thread, in the faster of fp32 and bf16) times the most steps that a training takes. Data, optimiser,
validations, reading and the simulation of patients are not in it; segmentation and forecasts may stop
earlier, and arms that oversample or draw images take more. python benchmarks/recipe_costs.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from ichnos.learning.expansion.pairs import SYNTHETIC_FACTORS
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.models import default_model
from ichnos.simulation.cohort.design import PRESETS
from ichnos.studies.abramova2024.training import FORECAST_ARMS, arm_settings, fold_groups
from ichnos.studies.murray2024.design import tract_plans
from ichnos.studies.ryu2025.design import white_matter_plans
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.training import SegmentationPlan
from ichnos.studies.yu2025.arms import classifier_arms
from ichnos.studies.yu2025.outlines import outline_networks
from ichnos.studies.yu2025.synthetic import generator_settings
from precision import Trained, region, row, segmenter, slices
from run import table

BUDGET = StudyBudget()
FOLDS = 3  # of the classifiers
SLICES = 3  # of a patient, as the published classifier sees it
# parts of yu2025, by the generator whose images an arm sees
PARTS = {"": "yu2025, expansion", "published": "yu2025, synthesis", "conditional": "yu2025, conditional"}
PIXELS = 64  # of a side of a slice under the recipe `small`


@dataclass(frozen=True)
class Training:
    """Networks of one kind that a part of a study trains."""

    part: str
    network: Trained
    steps: int  # of all of them together, at most


def patients(study: str) -> int:
    """Return how many patients a study trains on."""
    return sum(group.patients for group in PRESETS[study].groups if group.split == "train")


def outliner(name: str, plan: SegmentationPlan) -> Trained:
    """Return a network that outlines; one that starts from the weights that ship has their shape."""
    assert isinstance(plan, TrainSettings)
    if not plan.start:
        return segmenter(name, plan)
    shipped = default_model().manifest
    shape = (plan.loop.batch, shipped.input_channels, *shipped.preprocessing.patch)
    return Trained(name, shipped.network, shape)


def segmentation_trainings() -> Iterator[Training]:
    """Yield the networks that outline, each trained once."""
    for part, plans in (
        ("ryu2025", white_matter_plans(BUDGET)),
        ("murray2024, tracts", tract_plans(BUDGET)),
        ("yu2025, outlines", outline_networks(BUDGET)),
    ):
        for name, plan in plans.items():
            assert isinstance(plan, TrainSettings)
            yield Training(part, outliner(name, plan), plan.loop.steps)


def forecast_trainings() -> Iterator[Training]:
    """Yield the forecasters: every arm without each group in turn; a quarter of the others only watches."""
    groups = fold_groups(patients("abramova2024"), BUDGET)
    for arm, (_, synthetic) in FORECAST_ARMS.items():
        settings, steps = arm_settings(arm, BUDGET), 0
        for group in groups:
            others = patients("abramova2024") - len(group)
            pairs = (others - others // 4) * (1 + synthetic * len(SYNTHETIC_FACTORS))
            steps += settings.loop.for_examples(pairs * settings.patches_per_pair).steps
        yield Training("abramova2024", region(arm, settings), steps)


def expansion_trainings() -> Iterator[Training]:
    """Yield classifiers and generators of one seed; each fold trains on two thirds of the patients."""
    each = patients("yu2025") * (FOLDS - 1) // FOLDS
    one = SimpleNamespace(slices=[SimpleNamespace(image=np.zeros((PIXELS, PIXELS)))])
    people = cast(Any, SimpleNamespace(training=[one] * 99))
    for arm in classifier_arms(people, BUDGET):
        part = PARTS[arm.generator]
        network, count = arm.settings.network, each * SLICES if arm.published else each
        arguments, batch = network.arguments, arm.settings.loop.batch
        facts = int(arguments.get("clinical_features", 0))
        shape = (batch, arguments["input_channels"], *arguments["image_size"])
        steps = FOLDS * arm.settings.loop.for_examples(count).steps
        yield Training(part, Trained(arm.name, network, shape, facts), steps)
    expanded = round(each * (PRESETS["yu2025"].groups[0].expansion_share or 0.0))
    settings = generator_settings("published", PIXELS, budget=BUDGET)
    for kind, seen in (("published", expanded), ("conditional", each)):  # one pace: their first layers differ
        steps = FOLDS * settings.loop.for_examples(seen * SLICES).steps
        yield Training(PARTS[kind], slices(f"generator, {kind}", settings), steps)


def main() -> list[dict[str, Any]]:
    """Return a row per kind of network, then one per part of a study."""
    torch.set_num_threads(1)
    known: dict[str, float] = {}
    rows, hours = [], dict[str, float]()
    for training in (*segmentation_trainings(), *forecast_trainings(), *expansion_trainings()):
        network = training.network
        key = f"{network.spec} {network.shape}"
        if key not in known:
            measured = row(network)
            known[key] = float(min(measured["fp32, s"], measured["bf16, s"]))
        own = known[key] * training.steps / 3600
        hours[training.part] = hours.get(training.part, 0.0) + own
        made = {"part": training.part, "network": network.name, "steps": training.steps}
        rows.append(made | {"s per step": known[key], "core-hours": own})
    return [*rows, *({"part": part, "network": "all", "core-hours": total} for part, total in hours.items())]


if __name__ == "__main__":
    print(table(main()), flush=True)
