"""The first network of the training on one GPU: its plan, its input, its loss and its smallest run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders.ball_phantom import seeded
from ichnos import networks
from ichnos.learning.virtual.accelerated.first_network import (
    FIRST_PREPROCESSING,
    FirstPlan,
    difficulty,
    first_image,
    first_network,
    step_loss,
    windowed,
)
from ichnos.learning.virtual.accelerated.looks import GRID, LOOK_TARGETS, LookBatch
from ichnos.learning.virtual.accelerated.weights import Run, toy_run
from ichnos.learning.virtual.default_model import DEFAULT_TARGETS

SHAPE = (2, len(LOOK_TARGETS), 6, 6, 6)


def _batch() -> LookBatch:
    truth = torch.zeros(SHAPE)
    truth[:, :, 2:4, 2:4, 2:4] = 1.0
    mni = torch.zeros(2, 3, 6, 6, 6)
    mni[:, :, 0] = float("nan")
    return LookBatch(torch.zeros(2, 6, 6, 6), truth, mni)


def _logits(sure: float, *, position: float = 0.0) -> torch.Tensor:
    masks = (2 * _batch().truth - 1) * sure
    return torch.cat([masks, torch.full((2, 3, 6, 6, 6), position)], 1)


@given(st.floats(-2000, 3000))
def test_windows_end_at_minus_one_and_one(hu: float) -> None:
    image = windowed(torch.full((1, 2, 2, 2), hu), ((0, 80), (-1000, 1000)))
    assert image.shape == (1, 2, 2, 2, 2)
    assert float(image.abs().max()) <= 1.0


def test_an_image_does_not_depend_on_the_scanners_zero() -> None:
    hu = torch.full((1, 24, 24, 24), -1000.0)
    hu[:, 2:22, 2:22, 2:22] = 34.0 + 3 * torch.randn(20, 20, 20, generator=seeded(0))
    shifted = torch.where(hu > -900, hu + 7.0, hu)
    inside = (slice(None), slice(None), slice(4, 20), slice(4, 20), slice(4, 20))
    assert torch.allclose(first_image(hu)[inside], first_image(shifted)[inside], atol=1e-3)


@pytest.mark.parametrize("features", [(4, 8, 8), (4, 8, 8, 12)])
def test_a_plan_builds_a_network_of_every_target(features: tuple[int, ...]) -> None:
    spec = first_network(FirstPlan(features=features))
    network = networks.build(spec.name, **spec.arguments)
    channels = len(FIRST_PREPROCESSING.windows_hu)
    with torch.inference_mode():
        logits = network(torch.zeros(1, channels, 16, 16, 16))
    assert logits.shape == (1, len(DEFAULT_TARGETS), 16, 16, 16)


def test_patches_grow_until_they_hold_the_whole_head() -> None:
    growth = FirstPlan().growth
    assert [row[0] for row in growth] == sorted(row[0] for row in growth)
    assert growth[-1][0] > 1.0
    assert growth[-1][1] == GRID == FIRST_PREPROCESSING.patch
    assert all(count % 2 == 0 for *_, count in growth)  # two scans of each head


@pytest.mark.parametrize("done", [0.0, 0.5, 1.0])
def test_a_surer_right_answer_costs_less(done: float) -> None:
    losses = [float(step_loss(_logits(sure), _batch(), done)) for sure in (0.5, 2.0, 8.0)]
    assert losses[0] > losses[1] > losses[2] >= 0


def test_positions_are_asked_for_where_they_are_known_alone() -> None:
    right, wrong = _logits(8.0), _logits(8.0)
    wrong[:, len(LOOK_TARGETS) :, 0] = 99.0  # where no position is known
    assert float(step_loss(wrong, _batch(), 1.0)) == pytest.approx(float(step_loss(right, _batch(), 1.0)))
    assert float(step_loss(_logits(8.0, position=1.0), _batch(), 1.0)) > 1.0


def test_the_order_of_a_heads_two_scans_does_not_matter() -> None:
    apart = _logits(2.0)
    apart[1, : len(LOOK_TARGETS)] *= 0.25
    first, second = (float(step_loss(logits, _batch(), 1.0)) for logits in (apart, apart.flip(0)))
    assert first == pytest.approx(second, rel=1e-5)


def test_agreement_counts_in_full_from_half_of_the_time_on() -> None:
    apart = _logits(2.0)
    apart[1, : len(LOOK_TARGETS)] *= -1
    late = [float(step_loss(apart, _batch(), done)) for done in (0.6, 0.8, 1.0)]
    assert late[0] == late[1] == late[2]


def test_what_is_learnt_better_is_less_difficult() -> None:
    values = [float(difficulty(_logits(sure), _batch().truth).mean()) for sure in (0.1, 2.0, 8.0)]
    assert values[0] > values[1] > values[2]
    assert all(0 <= value <= 1 for value in values)


def test_the_smallest_run_keeps_its_folders_and_shrinks_the_rest(tmp_path: Path) -> None:
    run = Run(heads=tmp_path / "heads", out=tmp_path / "out", first_minutes=1, second_minutes=2)
    toy = toy_run(run)
    assert (toy.heads, toy.out, toy.first_minutes, toy.second_minutes) == (run.heads, run.out, 1, 2)
    assert sum(toy.first.features) < sum(run.first.features)
    assert toy.first.capacity < run.first.capacity
    assert toy_run(replace(run, workers=9)).workers == 1
