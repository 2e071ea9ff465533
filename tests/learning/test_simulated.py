"""Batches of virtual patients depend on the step's number and nothing else, and mirror what has a side."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ichnos.learning.virtual.batches import (
    Look,
    Population,
    Schedule,
    SimulatedBatches,
    looks_at,
    masks_among,
)
from ichnos.learning.virtual.default_model import DEFAULT_TARGETS, default_settings

WINDOWS = default_settings(steps=1).preprocessing.windows_hu
NAMES = [target.name for target in DEFAULT_TARGETS]
MASKS = masks_among(NAMES)


def made_look(side: int) -> Look:
    """A head of nothing but brain, its left half marked as left tract, MNI x running from left to right."""
    hu = np.full((side,) * 3, 35, np.int16)
    degrees = np.zeros((len(MASKS), *hu.shape), np.uint8)
    order = MASKS
    degrees[order.index("brain")] = 8
    degrees[order.index("tract_left"), : side // 2] = 8
    x = (np.arange(side) - (side - 1) / 2)[:, None, None] * np.ones(hu.shape)
    return Look(hu, degrees, np.stack([x * 16, 0 * x, 0 * x]).round().astype(np.int16))


def batches(schedule: Schedule) -> SimulatedBatches:
    """Batches whose only look is the made one."""
    made = SimulatedBatches(Population(), schedule, DEFAULT_TARGETS, WINDOWS)
    made._group = lambda group: [made_look(schedule.side)]  # type: ignore[method-assign]
    return made


def test_left_stays_left_when_a_patch_is_mirrored() -> None:
    schedule = Schedule((8, 8, 8), patients=1, looks=1, uses=40, side=8)
    seen = set()
    draw = batches(schedule)
    for step in range(40):
        truth = draw(step).truth[0]
        left, right, x = (truth[NAMES.index(name)] for name in ("tract_left", "tract_right", "mni_x"))
        known = torch.isfinite(x)
        assert (x[known & (left > 0.5)] < 0).all(), "the tract called left lies on the left of the atlas"
        assert (x[known & (right > 0.5)] > 0).all()
        assert bool((x[known].diff() >= 0).any()), "MNI x grows from left to right of the patch"
        seen.add((bool(left[:4].any()), bool(right[4:].any())))
    assert seen == {(True, False), (False, True)}, "mirrored and not, each tract on its own side"


def test_what_is_cut_off_is_not_asked_for() -> None:
    draw = batches(Schedule((8, 8, 8), patients=1, looks=1, uses=60, side=8))
    cut = 0
    for step in range(60):
        batch = draw(step)
        gone = (batch.image[0, 3] < -0.99).all(dim=0).all(dim=0)
        if gone.any():
            cut += 1
            assert batch.truth[0, NAMES.index("brain")][:, :, gone].max() == 0
            assert torch.isnan(batch.truth[0, NAMES.index("mni_z")][:, :, gone]).all()
    assert 8 <= cut <= 35


@pytest.mark.slow
def test_a_batch_is_a_function_of_its_step() -> None:
    schedule = Schedule((16, 16, 16), spacing_mm=6.0 / 2, patients=2, looks=1, uses=2, side=32)
    population = Population(haematoma_share=1.0, spacing_mm=4.0)
    first, second = (SimulatedBatches(population, schedule, DEFAULT_TARGETS, WINDOWS) for _ in range(2))
    try:
        in_order = [first(step) for step in range(schedule.steps_per_group)]
        jumped = second(3)
        assert torch.equal(in_order[3].image, jumped.image)
        assert torch.equal(in_order[3].truth.nan_to_num(), jumped.truth.nan_to_num())
        assert not torch.equal(in_order[2].image, in_order[3].image)
    finally:
        first.close()
        second.close()


@pytest.mark.slow
def test_a_look_shows_brain_blood_and_positions() -> None:
    population = Population(haematoma_share=1.0, spacing_mm=4.0)
    (look,) = looks_at(population, Schedule((16, 16, 16), looks=1, side=64), tuple(NAMES), 0)
    order = [name for name in MASKS if name in NAMES]
    brain = look.degrees[order.index("brain")] >= 4
    assert 900 < brain.sum() * 27 / 1000 < 1900, "mL of brain"
    assert look.degrees[order.index("ICH")].max() >= 4
    height = look.mni[2][brain] / 16
    assert -75 < height.min() < -30 < 50 < height.max() < 95, "mm of MNI152 space"
