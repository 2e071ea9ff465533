"""Looks at phantoms: two scans of one head, stores as rings, batches that keep left left."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from builders.ball_phantom import BRAIN_MM, ball_phantom, seeded
from ichnos.learning.virtual.accelerated.looks import (
    GRID,
    LOOK_TARGETS,
    STEP_MM,
    HeadLook,
    LookStore,
    batch_of,
    grid_heights,
    look_pair,
    recentring,
    single_look,
)
from ichnos.models import COORDINATE_MM

BRAIN = LOOK_TARGETS.index("brain")


@pytest.fixture(scope="module")
def pair() -> tuple[HeadLook, HeadLook]:
    """Return two scans of one head."""
    return look_pair(ball_phantom(), np.random.default_rng(2), seeded(2), wild_share=0.0)


@pytest.fixture(scope="module")
def store(pair: tuple[HeadLook, HeadLook]) -> LookStore:
    """Return a full store of that pair."""
    store = LookStore(2, "cpu", to_hu=34.0)
    store.add(pair)
    return store


def _flat(hu: float) -> HeadLook:
    return HeadLook(
        torch.full(GRID, hu, dtype=torch.int16),
        torch.zeros((len(LOOK_TARGETS), *GRID), dtype=torch.uint8),
        torch.zeros((3, *GRID), dtype=torch.float16),
    )


def test_looks_have_their_grid_and_little_memory(pair: tuple[HeadLook, HeadLook]) -> None:
    for look in pair:
        assert look.hu.shape == GRID
        assert look.degrees.shape == (len(LOOK_TARGETS), *GRID)
        assert look.mni.shape == (3, *GRID)
        assert (look.hu.dtype, look.degrees.dtype) == (torch.int16, torch.uint8)


def test_two_scans_of_one_head_show_one_head_by_two_scanners(pair: tuple[HeadLook, HeadLook]) -> None:
    first, second = pair
    assert torch.equal(first.mni, second.mni)
    assert not torch.equal(first.hu, second.hu)
    masks = [look.degrees[BRAIN] > 127 for look in pair]
    dice = 2 * int((masks[0] & masks[1]).sum()) / int(masks[0].sum() + masks[1].sum())
    assert dice > 0.9


def test_the_brain_of_a_look_has_its_volume(pair: tuple[HeadLook, HeadLook]) -> None:
    ml = float(pair[0].degrees[BRAIN].float().sum()) / 255 * STEP_MM**3 / 1000
    assert 0.75 * 4 / 3 * np.pi * (BRAIN_MM / 10) ** 3 < ml < 1.05 * 4 / 3 * np.pi * (BRAIN_MM / 10) ** 3


def test_positions_within_the_brain_lie_within_the_brain(pair: tuple[HeadLook, HeadLook]) -> None:
    mm = pair[0].mni.float() * COORDINATE_MM
    away = torch.linalg.vector_norm(mm, dim=0)
    assert float(away[pair[0].degrees[BRAIN] > 250].max()) < BRAIN_MM + 4


def test_one_seed_is_one_look() -> None:
    first, again = (
        single_look(ball_phantom(), np.random.default_rng(5), seeded(5), wild=True) for _ in range(2)
    )
    assert torch.equal(first.hu, again.hu)
    assert torch.equal(first.degrees, again.degrees)


def test_heights_are_even_about_the_middle() -> None:
    heights = grid_heights()
    assert len(heights) == GRID[2]
    assert np.allclose(np.diff(heights), STEP_MM)
    assert heights.sum() == pytest.approx(0.0)


def test_the_oldest_looks_leave_a_full_store() -> None:
    store = LookStore(2, "cpu", to_hu=34.0)
    for hu in (1.0, 2.0, 3.0):
        store.add((_flat(hu),))
    assert store.size == 2
    assert sorted(int(store.hu[k, 0, 0, 0]) for k in range(2)) == [2, 3]


def test_pairs_are_picked_beside_each_other(store: LookStore) -> None:
    chosen = store.pick(6, np.random.default_rng(0))
    assert len(chosen) == 6
    assert (chosen[1::2] - chosen[::2] == 1).all()
    assert (chosen[::2] % 2 == 0).all()


def test_what_was_learnt_well_is_remembered_halfway() -> None:
    store = LookStore(2, "cpu", to_hu=34.0)
    store.difficulty[:] = 0.8
    store.remember(np.array([1]), np.array([0.2]))
    assert store.difficulty.tolist() == pytest.approx([0.8, 0.5])


def test_a_whole_batch_is_what_the_store_holds(store: LookStore) -> None:
    batches = [
        batch_of(store, np.array([0, 1]), GRID, np.random.default_rng(seed), seeded(seed))
        for seed in range(4)
    ]
    brain = store.degrees[:, BRAIN].float() / 255
    for batch in batches:
        assert float(batch.truth[:, BRAIN].sum()) == pytest.approx(float(brain.sum()), rel=1e-5)
        unchanged = torch.equal(batch.truth[:, BRAIN], brain)
        assert unchanged or torch.equal(batch.truth[:, BRAIN], brain.flip(1))


def test_positions_are_unknown_outside_the_brain_alone(store: LookStore) -> None:
    batch = batch_of(store, np.array([0, 1]), GRID, np.random.default_rng(0), seeded(0))
    inside = batch.truth[:, BRAIN] >= 0.5
    assert bool(torch.isfinite(batch.mni).all(1)[inside].all())
    assert bool(torch.isnan(batch.mni).all(1)[~inside].all())


@pytest.mark.parametrize("patch", [(16, 16, 16), (32, 24, 8)])
def test_patches_have_their_size_and_one_seed_one_batch(
    store: LookStore, patch: tuple[int, int, int]
) -> None:
    first, again = (
        batch_of(store, np.array([0, 1]), patch, np.random.default_rng(1), seeded(1)) for _ in range(2)
    )
    assert first.hu.shape == (2, *patch)
    assert first.truth.shape == (2, len(LOOK_TARGETS), *patch)
    assert torch.equal(first.hu, again.hu)
    assert torch.equal(first.truth, again.truth)


def test_a_mirrored_batch_keeps_x_with_the_patients_side(store: LookStore) -> None:
    for seed in range(6):
        batch = batch_of(store, np.array([0, 1]), GRID, np.random.default_rng(seed), seeded(seed))
        left_half = batch.mni[0, 0, : GRID[0] // 4]
        known = left_half[torch.isfinite(left_half)]
        assert float(known.median()) < 0


@pytest.mark.parametrize("shift", [-15.0, 4.0])
def test_recentring_brings_the_median_to_its_place(shift: float) -> None:
    hu = torch.full((1, 24, 24, 24), -1000.0)
    hu[:, 2:22, 2:22, 2:22] = 33.0 + shift
    assert float(recentring(hu, 34.0)[0]) == pytest.approx(1.0 - shift, abs=0.01)


def test_recentring_of_several_scans_is_that_of_each() -> None:
    hu = torch.full((2, 24, 24, 24), -1000.0)
    hu[0, 2:22, 2:22, 2:22] = 30.0
    hu[1, 2:22, 2:22, 2:22] = 40.0
    together = recentring(hu, 34.0)
    assert together.tolist() == [float(recentring(hu[k : k + 1], 34.0)[0]) for k in range(2)]
