"""Poses, slice stacks and pulls between grids: rigid, centred, linear, and left stays left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.ball_phantom import seeded
from ichnos.simulation.exams.pose import HeadMotion, pull, pull_thick, rigid, slice_stack_affine
from ichnos.simulation.exams.truth import coarser

ANGLES = st.tuples(*[st.floats(-40, 40)] * 3)
SHIFTS = st.tuples(*[st.floats(-30, 30)] * 3)


@given(ANGLES, SHIFTS)
def test_a_rigid_map_keeps_distances(angles: tuple[float, ...], shift: tuple[float, ...]) -> None:
    points = np.random.default_rng(0).normal(0, 50, (6, 3))
    moved = rigid(rotation_deg=angles, shift_mm=shift, about_mm=(4, 5, 6)).map(points)
    before = np.linalg.norm(points[:, None] - points[None], axis=-1)
    after = np.linalg.norm(moved[:, None] - moved[None], axis=-1)
    assert np.allclose(before, after, atol=1e-6)


@given(ANGLES, SHIFTS)
def test_the_fixed_point_is_shifted_alone(angles: tuple[float, ...], shift: tuple[float, ...]) -> None:
    centre = np.array([[7.0, -3.0, 12.0]])
    moved = rigid(rotation_deg=angles, shift_mm=shift, about_mm=centre[0]).map(centre)
    assert np.allclose(moved, centre + shift, atol=1e-9)


@given(ANGLES)
def test_a_rigid_map_keeps_left_and_right(angles: tuple[float, ...]) -> None:
    assert np.linalg.det(rigid(rotation_deg=angles).matrix[:3, :3]) == pytest.approx(1.0)


@given(ANGLES, SHIFTS)
def test_the_inverse_of_a_rigid_map_takes_everything_back(
    angles: tuple[float, ...], shift: tuple[float, ...]
) -> None:
    there = rigid(rotation_deg=angles, shift_mm=shift, about_mm=(1, 2, 3))
    assert np.allclose((~there @ there).matrix, np.eye(4), atol=1e-9)


@given(st.floats(-25, 25), st.booleans())
def test_a_stack_has_its_middle_its_pixels_and_its_steps(tilt: float, sheared: bool) -> None:
    affine = slice_stack_affine(
        centre_mm=np.array([3.0, -2.0, 9.0]),
        shape=(10, 12, 5),
        pixel_mm=0.5,
        step_mm=4.0,
        tilt_deg=tilt,
        sheared=sheared,
    )
    middle = affine @ [4.5, 5.5, 2.0, 1.0]
    assert np.allclose(middle[:3], [3.0, -2.0, 9.0])
    assert np.linalg.norm(affine[:3, 0]) == pytest.approx(0.5)
    assert np.linalg.norm(affine[:3, 1]) == pytest.approx(0.5)
    normal = np.cross(affine[:3, 0], affine[:3, 1]) / 0.25
    assert affine[:3, 2] @ normal == pytest.approx(4.0)  # planes lie a step apart, sheared or not
    orthogonal = abs(affine[:3, 2] @ affine[:3, 1]) < 1e-6
    assert orthogonal or (sheared and abs(tilt) > 1e-6)


def test_a_positive_tilt_tips_the_normal_forward() -> None:
    affine = slice_stack_affine(
        centre_mm=np.zeros(3), shape=(4, 4, 4), pixel_mm=1.0, step_mm=1.0, tilt_deg=15.0
    )
    assert affine[1, 2] > 0
    assert affine[2, 2] > 0


def _maps(channels: int = 1) -> torch.Tensor:
    return torch.randn((channels, 6, 5, 4), generator=seeded(0))


def test_pulling_onto_the_same_grid_changes_nothing() -> None:
    maps = _maps(2)
    assert torch.allclose(pull(maps, np.eye(4), (6, 5, 4)), maps, atol=1e-5)
    assert torch.equal(pull(maps, np.eye(4), (6, 5, 4), nearest=True), maps)


def test_pulling_a_shifted_grid_shifts_the_map() -> None:
    maps, shift = _maps(), np.eye(4)
    shift[:3, 3] = (1, 2, 0)
    assert torch.allclose(pull(maps, shift, (5, 3, 4)), maps[:, 1:, 2:], atol=1e-5)


def test_beyond_a_map_lies_its_rim_or_nothing() -> None:
    maps, away = _maps(), np.eye(4)
    away[0, 3] = 50
    assert torch.allclose(pull(maps, away, (1, 5, 4)), maps[:, -1:], atol=1e-5)
    assert float(pull(maps, away, (1, 5, 4), mode="zeros").abs().max()) == 0.0


@given(st.integers(1, 5), st.floats(0.2, 2.0))
@settings(max_examples=15, deadline=None)
def test_thick_slices_of_a_ramp_are_its_middle(samples: int, reach: float) -> None:
    ramp = torch.arange(12, dtype=torch.float32).expand(1, 4, 4, 12)
    inner = np.eye(4)
    inner[2, 3] = 2
    thick = pull_thick(ramp, inner, (4, 4, 8), samples=samples, reach=reach)
    assert torch.allclose(thick[0, 1, 1], torch.arange(2.0, 10.0), atol=1e-4)


def test_a_thick_slice_is_the_mean_over_its_thickness() -> None:
    edge = (torch.arange(12) >= 6).float().expand(1, 3, 3, 12).contiguous()
    thick = pull_thick(edge, np.diag([1, 1, 4.0, 1]), (3, 3, 3), samples=8)
    assert thick[0, 1, 1].tolist() == pytest.approx([0.0, 0.0, 1.0], abs=0.15)
    assert thick[0, 1, 1, 1] < thick[0, 1, 1, 2]


def test_a_restless_head_lies_where_its_motion_says() -> None:
    away = np.zeros((2, 3, 3))
    away[1, 2] = (2.0, -1.0, 5.0)
    motion = HeadMotion(away)
    assert np.allclose(motion.at(0, 0.5), np.eye(4))
    assert np.allclose(motion.at(1, 0.99), rigid(rotation_deg=(0, 0, 5), shift_mm=(2, -1, 0)).matrix)
    assert np.allclose(motion.at(1, 1.0), motion.at(1, 0.99))
    assert np.allclose(motion.at(1, 0.4), np.eye(4))


@given(st.integers(16, 600), st.floats(0.3, 1.2))
def test_a_coarser_grid_covers_the_same_field(pixels: int, pixel_mm: float) -> None:
    matrix, (width, height) = coarser((pixels, pixels, 4), pixel_mm=pixel_mm)
    assert width == height <= pixels
    first, last = (matrix @ [k - 0.5, 0, 0, 1] for k in (0, width))
    assert first[0] == pytest.approx(-0.5)
    assert last[0] == pytest.approx(pixels - 0.5)
    assert matrix[2].tolist() == [0, 0, 1, 0]
