"""Scanning a phantom: poses, slices, offsets, gain, motion, and where every label lands."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.ball_phantom import (
    BRAIN_MM,
    CUBE_AT_MM,
    CUBE_MM,
    ball_phantom,
    quiet_scanner,
    seeded,
    straight_pose,
)
from ichnos.learning.virtual.accelerated.phantom import LABELS
from ichnos.learning.virtual.accelerated.scanner import (
    FIELD,
    PIXEL_MM,
    REACH_MM,
    Pose,
    Slices,
    draw_pose,
    draw_scanning,
    field_axes,
    hu_weights,
    positions,
    scan_phantom,
)
from ichnos.simulation.patient import Tissue

HEIGHTS = np.arange(-24.0, 24.1, 12.0)  # few slices, so that a scan takes little time


@pytest.fixture(scope="module")
def hu() -> torch.Tensor:
    """Return a phantom's HU without any texture."""
    maps = ball_phantom().maps
    hu = torch.full(maps.tissue.shape, -1000.0)
    for tissue, value in ((Tissue.BONE, 1000.0), (Tissue.WHITE, 30.0), (Tissue.VENTRICLE, 8.0)):
        hu[maps.tissue == int(tissue)] = value
    return torch.where(maps.ich > 0, 65.0, hu)


def _scan(hu: torch.Tensor, pose: Pose, *, seed: int = 0, rng: int = 3, **changed: float) -> Slices:
    return scan_phantom(
        ball_phantom(),
        hu,
        pose,
        quiet_scanner(HEIGHTS, 3.0, **changed),
        generator=seeded(seed),
        rng=np.random.default_rng(rng),
    )


def _brain(slices: Slices) -> torch.Tensor:
    """Return the HU of brain without blood, away from its rim."""
    x, y = field_axes(torch.device("cpu"), PIXEL_MM)
    inside = (torch.hypot(x[:, None], y[None]) < 40) & (x[:, None] > 15)
    return slices.hu[:, inside]


@pytest.fixture(scope="module")
def straight(hu: torch.Tensor) -> Slices:
    """Return the quiet scan of a head that lies straight."""
    return _scan(hu, straight_pose())


def test_a_scan_has_its_slices_on_the_field(straight: Slices) -> None:
    assert straight.hu.shape == (len(HEIGHTS), *FIELD)
    assert straight.masks.shape == (len(LABELS), len(HEIGHTS), *FIELD)
    assert straight.masks.dtype == torch.uint8
    assert int(straight.masks.max()) == 1


def test_the_brain_of_the_middle_slice_has_its_area(straight: Slices) -> None:
    area = float(straight.masks[LABELS.index("brain"), 2].sum()) * PIXEL_MM**2
    assert area == pytest.approx(np.pi * BRAIN_MM**2, rel=0.03)


def test_blood_lies_on_the_left_and_has_its_area(straight: Slices) -> None:
    mask = straight.masks[LABELS.index("ich"), 2]
    x, _ = field_axes(torch.device("cpu"), PIXEL_MM)
    middle = float((mask.sum(1) * x).sum() / mask.sum())
    assert middle == pytest.approx(CUBE_AT_MM, abs=PIXEL_MM)
    assert float(mask.sum()) * PIXEL_MM**2 == pytest.approx((2 * CUBE_MM) ** 2, rel=0.3)


def test_no_label_is_seen_that_the_phantom_does_not_hold(straight: Slices) -> None:
    for label in ("ivh", "leukoaraiosis", "tract_left", "followup"):
        assert not bool(straight.masks[LABELS.index(label)].any())


@pytest.mark.parametrize("offset_hu", [-10.0, 7.0])
def test_an_offset_moves_the_brain_by_itself(hu: torch.Tensor, straight: Slices, offset_hu: float) -> None:
    moved = _scan(hu, straight_pose(), offset_hu=offset_hu)
    assert float((_brain(moved) - _brain(straight)).mean()) == pytest.approx(offset_hu, abs=0.2)
    assert torch.equal(moved.masks, straight.masks)


def test_gain_scales_the_brain(hu: torch.Tensor, straight: Slices) -> None:
    louder = _scan(hu, straight_pose(), scale=1.1)
    assert float(_brain(louder).mean() / _brain(straight).mean()) == pytest.approx(1.1, abs=0.01)


def test_noise_grows_as_asked_for(hu: torch.Tensor, straight: Slices) -> None:
    spread = [
        float((_brain(_scan(hu, straight_pose(), noise_hu=noise)) - _brain(straight)).std())
        for noise in (2.0, 4.0)
    ]
    assert spread[1] == pytest.approx(2 * spread[0], rel=0.05)
    assert spread[0] > 0.3


def test_one_seed_is_one_scan(hu: torch.Tensor) -> None:
    first, again, other = (_scan(hu, straight_pose(), noise_hu=3.0, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.hu, again.hu)
    assert not torch.equal(first.hu, other.hu)


def test_values_stay_in_the_range_of_a_scanner(hu: torch.Tensor) -> None:
    wild = _scan(hu, straight_pose(), noise_hu=300.0, offset_hu=400.0, streaks_hu=900.0)
    assert float(wild.hu.min()) >= -1024
    assert float(wild.hu.max()) <= 3071


def test_cupping_brightens_the_rim_more_than_the_middle(hu: torch.Tensor, straight: Slices) -> None:
    cupped = _scan(hu, straight_pose(), cupping_hu=20.0)
    x, y = field_axes(torch.device("cpu"), PIXEL_MM)
    away = torch.hypot(x[:, None], y[None])
    change = (cupped.hu - straight.hu)[2]
    rim, middle = change[(away > 58) & (away < 62)].mean(), change[away < 10].mean()
    assert float(rim) > float(middle) + 1.0


def test_motion_moves_masks_with_the_image(hu: torch.Tensor, straight: Slices) -> None:
    moved = _scan(hu, straight_pose(), motion_mm=5.0, rng=11)
    brain = LABELS.index("brain")
    assert int(moved.masks[brain].sum()) == pytest.approx(int(straight.masks[brain].sum()), rel=0.05)
    inside = moved.masks[brain].bool()
    assert float(moved.hu[inside].median()) == pytest.approx(float(straight.hu[inside].median()), abs=2)


def test_a_mirrored_pose_puts_blood_on_the_other_side(hu: torch.Tensor, straight: Slices) -> None:
    mirrored = _scan(hu, straight_pose(mirrored=True))
    ich = LABELS.index("ich")
    assert torch.equal(mirrored.masks[ich], straight.masks[ich].flip(1))


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=15, deadline=None)
def test_poses_are_rigid_and_scans_have_a_possible_extent(seed: int, wild: bool) -> None:
    pose = draw_pose(ball_phantom(), np.random.default_rng(seed), wild=wild)
    assert np.allclose(pose.turn @ pose.turn.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(pose.turn) == pytest.approx(-1.0 if pose.mirrored else 1.0)
    assert 15 <= pose.high_mm - pose.low_mm <= REACH_MM + 1e-6


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=25, deadline=None)
def test_scanners_make_ascending_slices_and_possible_numbers(seed: int, wild: bool) -> None:
    scanning = draw_scanning(straight_pose(), np.random.default_rng(seed), wild=wild)
    assert (np.diff(scanning.heights_mm) > 0).all()
    assert len(scanning.heights_mm) >= 4
    assert 0.5 < scanning.thickness_mm <= 10.0
    assert 0.8 < scanning.scale < 1.2
    assert scanning.noise_hu > 0
    assert scanning.step_mm == pytest.approx(np.diff(scanning.heights_mm).max())


def test_even_slices_have_one_distance() -> None:
    for seed in range(12):
        scanning = draw_scanning(straight_pose(), np.random.default_rng(seed), wild=True, even=True)
        steps = np.diff(scanning.heights_mm)
        assert steps.max() - steps.min() < 1e-6


def test_a_single_slice_has_its_thickness_as_step() -> None:
    assert quiet_scanner(np.array([0.0]), 5.0).step_mm == 5.0


@given(st.floats(1.0, 8.0), st.floats(1.0, 6.0))
@settings(max_examples=25, deadline=None)
def test_weights_of_planes_sum_to_one_within_and_to_zero_beyond(step: float, least: float) -> None:
    heights = np.arange(10) * step
    sums = hu_weights(heights, np.array([-2 * step, 4.3 * step, 9 * step, 11 * step]), least).sum(1)
    assert sums.tolist() == pytest.approx([0.0, 1.0, 1.0, 0.0], abs=1e-5)


def test_positions_are_the_phantoms_own() -> None:
    axis = torch.tensor([-24.0, 0.0, 12.0])
    mni = positions(ball_phantom(), straight_pose(), (axis, axis, axis))
    assert mni.shape == (3, 3, 3, 3)
    assert torch.allclose(mni[:, 1, 1, 1], torch.zeros(3), atol=1e-3)
    assert torch.allclose(mni[0, 0, :, 0], axis, atol=1e-3)
    assert torch.allclose(mni[1, 0, 0, :], axis, atol=1e-3)
    assert torch.allclose(mni[2, :, 0, 0], axis, atol=1e-3)


@pytest.mark.parametrize("step_mm", [1.5, 3.0])
def test_the_field_keeps_its_extent_at_every_pixel(step_mm: float) -> None:
    for axis, n in zip(field_axes(torch.device("cpu"), step_mm), FIELD, strict=True):
        assert float(axis[-1] - axis[0]) + step_mm == pytest.approx(n * PIXEL_MM)
        assert float(axis.mean()) == pytest.approx(0.0, abs=1e-4)
