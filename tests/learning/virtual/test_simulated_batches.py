"""Batches of virtual patients and the plans of the default network: counts, sides, and pure functions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ichnos import networks
from ichnos.learning.virtual.batches import (
    DISEASED_ML,
    SMALL_ML,
    Look,
    Population,
    Schedule,
    SimulatedBatches,
    masks_among,
)
from ichnos.learning.virtual.default_model import (
    DEFAULT_TARGETS,
    HELD_OUT,
    default_settings,
    taught_heads,
)
from ichnos.learning.virtual.refinement import HOW, NAMES, REFINED_TARGETS, refinement_settings
from ichnos.models import TargetSpec
from ichnos.targets import TARGETS, mirrored

WINDOWS = ((0.0, 80.0),)
SIDE = 12
PLAN = Schedule((8, 8, 8), patients=2, looks=3, uses=4, side=SIDE)


def _look(hu: int, *, side: int = SIDE) -> Look:
    masks = masks_among(target.name for target in DEFAULT_TARGETS)
    degrees = np.zeros((len(masks), side, side, side), np.uint8)
    degrees[masks.index("brain")] = 8
    degrees[masks.index("ICH"), : side // 2] = 4
    return Look(np.full((side,) * 3, hu, np.int16), degrees, np.zeros((3, side, side, side), np.int16))


def _batches(plan: Schedule = PLAN, *, seed: int = 0) -> SimulatedBatches:
    made = SimulatedBatches(Population(seed=seed), plan, DEFAULT_TARGETS, WINDOWS)
    looks = [_look(10 * k) for k in range(plan.patients * plan.looks)]
    made._group = lambda group: looks  # type: ignore[method-assign]
    return made


@given(
    patients=st.integers(1, 9), looks=st.integers(1, 4), uses=st.integers(1, 6), size=st.sampled_from([1, 2])
)
def test_steps_of_a_group_use_every_look_as_often_as_planned(
    patients: int, looks: int, uses: int, size: int
) -> None:
    plan = Schedule((8, 8, 8), patients=patients, looks=looks, uses=uses, size=size)
    assert plan.steps_per_group * size <= patients * looks * uses < (plan.steps_per_group + 1) * size


def test_a_batch_does_not_depend_on_the_batches_before_it() -> None:
    in_order = [_batches()(step) for step in range(5)]
    alone = _batches()(4)
    assert torch.equal(in_order[4].image, alone.image)
    assert torch.equal(in_order[4].truth.nan_to_num(), alone.truth.nan_to_num())


def test_other_seeds_and_other_groups_give_other_batches() -> None:
    batches = _batches()
    one, next_group = batches(0), batches(PLAN.steps_per_group)
    assert not torch.equal(one.image, next_group.image)
    assert not torch.equal(one.image, _batches(seed=1)(0).image)


def test_every_target_is_known_in_every_batch() -> None:
    batch = _batches(replace(PLAN, size=2))(3)
    assert batch.image.shape == (2, len(WINDOWS), 8, 8, 8)
    assert batch.truth.shape == (2, len(DEFAULT_TARGETS), 8, 8, 8)
    assert torch.equal(batch.known, torch.ones(2, len(DEFAULT_TARGETS)))


def test_images_stay_within_their_windows() -> None:
    for step in range(6):
        image = _batches()(step).image
        assert bool(torch.isfinite(image).all())
        assert float(image.abs().max()) <= 1.0


def test_degrees_are_kept_as_eighths() -> None:
    ich = [target.name for target in DEFAULT_TARGETS].index("ICH")
    values: set[float] = set()
    for step in range(8):
        values |= set(_batches()(step).truth[:, ich].unique().tolist())
    assert values == {0.0, 0.5}


def test_closing_without_processes_does_nothing() -> None:
    batches = SimulatedBatches(Population(), PLAN, DEFAULT_TARGETS, WINDOWS)
    batches.close()
    assert batches._pool is None


def test_masks_come_in_the_registrys_order() -> None:
    order = list(TARGETS)
    masks = masks_among(reversed(order))
    assert masks == [name for name in order if name in masks]
    assert masks_among(["ICH", "no such target"]) == ["ICH"]
    assert masks_among([]) == []


@given(st.integers(0, 100_000))
@settings(max_examples=60, deadline=None)
def test_specifications_overrule_the_law_within_limits(seed: int) -> None:
    spec = Population(spacing_mm=3.0)._spec(np.random.default_rng(seed))
    assert spec.ich_ml is None or SMALL_ML[0] <= spec.ich_ml <= SMALL_ML[1]
    assert spec.leukoaraiosis_ml is None or DISEASED_ML[0] <= spec.leukoaraiosis_ml <= DISEASED_ML[1]
    assert spec.spacing_mm == 3.0
    assert spec.mni


def test_shares_of_small_clots_and_of_disease_are_those_asked_for() -> None:
    always = Population(small_share=1.0, diseased_share=1.0)
    never = Population(small_share=0.0, diseased_share=0.0)
    specs = [
        (always._spec(np.random.default_rng(k)), never._spec(np.random.default_rng(k))) for k in range(20)
    ]
    assert all(a.ich_ml is not None and a.leukoaraiosis_ml is not None for a, _ in specs)
    assert all(n.ich_ml is None and n.leukoaraiosis_ml is None for _, n in specs)


@pytest.mark.parametrize("count", [0, 1, HELD_OUT, HELD_OUT + 1, 20])
def test_the_last_heads_of_a_folder_are_never_taught(count: int) -> None:
    heads = tuple(Path(f"head_{k:02d}.nii.gz") for k in range(count))
    taught = taught_heads(heads)
    assert taught == heads[: len(taught)]
    assert len(taught) == (count - HELD_OUT if count > HELD_OUT else count)


def test_the_default_networks_settings_build_a_network_of_every_target() -> None:
    plan = default_settings(steps=7, patch=(16, 16, 32))
    assert plan.loop.steps == 7
    assert plan.preprocessing.patch == (16, 16, 32)
    assert plan.network.arguments["num_classes"] == len(plan.targets)
    assert plan.network.arguments["input_channels"] == len(plan.preprocessing.windows_hu)
    network = networks.build(plan.network.name, **plan.network.arguments).eval()
    with torch.inference_mode():
        logits = network(torch.zeros(1, 4, 16, 16, 32))
    assert logits.shape == (1, len(DEFAULT_TARGETS), 16, 16, 32)


def test_a_refinement_starts_as_the_first_network() -> None:
    plan = refinement_settings(steps=3, pool=())
    network = networks.build(plan.network.name, **plan.network.arguments).eval()
    channels = plan.network.arguments["input_channels"]
    image = torch.randn(1, channels, 16, 16, 4, generator=torch.Generator().manual_seed(0))
    first = plan.network.arguments["first_logits"]
    with torch.inference_mode():
        logits = network(image)
    said = image[:, first : first + len(NAMES)] * plan.network.arguments["logit_unit"]
    assert torch.allclose(logits, said)


def test_a_refinements_settings_name_their_pool() -> None:
    pool = [Path("0000_0.npz"), Path("0000_1.npz"), Path("0001_0.npz")]
    plan = refinement_settings(steps=3, pool=pool)
    assert plan.data == "3 scans from 0000_0.npz to 0001_0.npz"
    assert refinement_settings(steps=3, pool=()).data == ""
    assert plan.preprocessing is HOW


@pytest.mark.parametrize("targets", [DEFAULT_TARGETS, REFINED_TARGETS])
def test_targets_have_their_own_names_and_their_mirror_beside_them(targets: tuple[TargetSpec, ...]) -> None:
    names = [target.name for target in targets]
    assert len(set(names)) == len(names)
    assert {mirrored(target.name) for target in targets if target.kind == "mask"} <= set(names)
    assert all(0 < target.threshold < 1 for target in targets)
