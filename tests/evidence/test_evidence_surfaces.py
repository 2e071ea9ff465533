"""Surfaces against analytic shapes, against the readable twin, and against surface-distance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ichnos.errors import InputRefused
from ichnos.evidence.metrics import surfaces
from ichnos.evidence.metrics.surfaces import distances_between, surface_distances, union_box
from ichnos.volume import Volume, sphere

SPACINGS = [(1.0, 1.0, 1.0), (0.5, 0.5, 5.0), (0.8, 0.4, 2.5)]


def _slab(first: int, last: int, axis: int, shape: tuple[int, int, int] = (24, 20, 16)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(first, last) if a == axis else slice(2, -2) for a in range(3))] = True
    return mask


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shifted_slab_is_as_far_as_it_was_shifted(spacing: tuple[float, float, float], axis: int) -> None:
    truth, moved = _slab(4, 9, axis), _slab(6, 11, axis)
    found = distances_between(truth, moved, spacing)
    assert found.hausdorff_mm(100) == pytest.approx(2 * spacing[axis])
    assert found.normalised_surface_distance(2 * spacing[axis] + 1e-6) == pytest.approx(1.0)
    assert found.normalised_surface_distance(0.999 * min(spacing)) < 1.0


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_faces_of_a_box_have_the_area_of_its_faces(spacing: tuple[float, float, float]) -> None:
    mask = np.zeros((30, 30, 30), bool)
    mask[5:25, 5:25, 5:25] = True
    area = distances_between(mask, mask, spacing).truth_area_mm2
    faces = [spacing[1] * spacing[2], spacing[0] * spacing[2], spacing[0] * spacing[1]]
    for face in faces:
        assert np.isclose(area, face).sum() == 2 * 19 * 19 * faces.count(face)


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (0.5, 0.5, 1.0)])
def test_the_surface_of_a_ball_is_that_of_geometry(spacing: tuple[float, float, float]) -> None:
    ball = sphere(radius_mm=15, spacing_mm=spacing)
    area = surface_distances(ball, ball).truth_area_mm2
    assert area.sum() == pytest.approx(
        4 * np.pi * 15**2, rel=0.10
    )  # polygons through edge middles overshoot a smooth ball a little


def test_concentric_balls_are_apart_by_the_difference_of_their_radii() -> None:
    grid = sphere(radius_mm=16, spacing_mm=0.5)
    small = sphere(radius_mm=12, spacing_mm=0.5).on_grid(grid, interpolation="nearest")
    found = surface_distances(grid, small)
    assert found.assd_mm() == pytest.approx(
        4.0, abs=0.3
    )  # cells are half a voxel from the voxels on either side
    assert found.hausdorff_mm(95) == pytest.approx(4.0, abs=0.4)
    assert found.normalised_surface_distance(3.0) == 0.0
    assert found.normalised_surface_distance(4.6) == 1.0


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # it uses a name that SciPy is about to drop
def test_agrees_with_surface_distance(spacing: tuple[float, float, float], order: Any) -> None:
    reference = pytest.importorskip("surface_distance")
    rng = np.random.default_rng(3)
    smooth = ndimage.gaussian_filter(rng.standard_normal((40, 36, 20)), 2.5)
    truth, guess = (
        smooth > 0.8 * smooth.std(),
        ndimage.shift(smooth, (1, -2, 0), mode="nearest") > 0.7 * smooth.std(),
    )
    truth, guess = np.array(truth, order=order), np.array(guess, order=order)
    theirs = reference.compute_surface_distances(truth, guess, spacing)
    ours = distances_between(truth, guess, spacing)
    assert np.sort(ours.truth_to_prediction_mm) == pytest.approx(np.sort(theirs["distances_gt_to_pred"]))
    assert np.sort(ours.prediction_to_truth_mm) == pytest.approx(np.sort(theirs["distances_pred_to_gt"]))
    # The areas differ where a cell's polygon is not flat: ours is its vector area, theirs a sum of triangles.
    assert ours.truth_area_mm2.sum() == pytest.approx(theirs["surfel_areas_gt"].sum(), rel=0.06)
    for tolerance in (1.0, 2.0):
        expected = reference.compute_surface_dice_at_tolerance(theirs, tolerance)
        assert ours.normalised_surface_distance(tolerance) == pytest.approx(expected, abs=0.01)
    assert ours.hausdorff_mm(100) == pytest.approx(reference.compute_robust_hausdorff(theirs, 100))
    assert ours.hausdorff_mm(95) == pytest.approx(reference.compute_robust_hausdorff(theirs, 95), rel=0.1)
    there, back = reference.compute_average_surface_distance(theirs)
    assert min(there, back) * 0.98 <= ours.assd_mm() <= max(there, back) * 1.02


@pytest.mark.parametrize("spacing", SPACINGS)
def test_flat_cells_have_the_areas_of_surface_distance(spacing: tuple[float, float, float]) -> None:
    tables = pytest.importorskip("surface_distance.lookup_tables")
    theirs = np.array(tables.create_table_neighbour_code_to_surface_area(spacing))
    # they number a cell's corners from the other end
    mirrored = [int(f"{code:08b}"[::-1], 2) for code in range(256)]
    ours, theirs = surfaces._cell_areas(spacing), theirs[mirrored]
    filled = np.array([code.bit_count() for code in range(256)])
    assert (ours[1:-1] > 0).all()
    assert ours[[0, 255]] == pytest.approx([0, 0])
    assert ours[filled <= 2] == pytest.approx(theirs[filled <= 2])  # all of them flat
    assert (
        np.isclose(ours, theirs).sum() == 116
    )  # every flat one; where a polygon is bent they add triangles, we take the vector area
    plane = [0b00001111, 0b11110000, 0b00110011, 0b01010101]
    assert ours[plane] == pytest.approx(theirs[plane])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SPACINGS), st.floats(0.02, 0.6))
def test_the_fast_kernel_is_its_twin(seed: int, spacing: tuple[float, float, float], density: float) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 7, 3))
    truth, guess = rng.random(shape) < density, rng.random(shape) < density
    fast, slow = (
        distances_between(truth, guess, spacing),
        surfaces._slow_surface_distances(truth, guess, spacing),
    )
    assert fast.truth_to_prediction_mm == pytest.approx(slow.truth_to_prediction_mm)
    assert fast.prediction_to_truth_mm == pytest.approx(slow.prediction_to_truth_mm)
    assert fast.truth_area_mm2 == pytest.approx(slow.truth_area_mm2)


def test_far_masks_take_the_tree_and_are_still_right() -> None:
    truth, guess = np.zeros((80, 12, 12), bool), np.zeros((80, 12, 12), bool)
    truth[3:6, 4:7, 4:7], guess[70:75, 3:8, 3:8] = True, True
    fast, slow = (
        distances_between(truth, guess, (1.0, 1.0, 2.0)),
        surfaces._slow_surface_distances(truth, guess, (1.0, 1.0, 2.0)),
    )
    assert fast.truth_to_prediction_mm.min() > 60
    assert fast.truth_to_prediction_mm == pytest.approx(slow.truth_to_prediction_mm)
    assert fast.hausdorff_mm() == pytest.approx(slow.hausdorff_mm())


def test_swapping_the_masks_changes_nothing_symmetric() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((12, 9, 7)) < 0.4, rng.random((12, 9, 7)) < 0.4
    there, back = distances_between(a, b, (0.5, 0.7, 3.0)), distances_between(b, a, (0.5, 0.7, 3.0))
    assert there.assd_mm() == pytest.approx(back.assd_mm())
    assert there.hausdorff_mm() == pytest.approx(back.hausdorff_mm())
    assert there.normalised_surface_distance(1.0) == pytest.approx(back.normalised_surface_distance(1.0))


def test_orientation_does_not_matter() -> None:
    truth = sphere(radius_mm=8, spacing_mm=(1.0, 1.0, 2.5), centre_mm=(3, 5, 7))
    guess = truth.map_array(lambda a: np.roll(a, 1, axis=0))
    plain = surface_distances(truth, guess)
    for code in ("LPS", "SAR", "PIR"):
        turned = surface_distances(truth.reoriented(code), guess.reoriented(code))
        assert turned.assd_mm() == pytest.approx(plain.assd_mm())
        assert turned.hausdorff_mm() == pytest.approx(plain.hausdorff_mm())


def test_empty_masks_are_undefined_not_zero() -> None:
    nothing, something = np.zeros((5, 5, 5), bool), np.ones((5, 5, 5), bool)
    neither = distances_between(nothing, nothing, (1, 1, 1))
    one = distances_between(something, nothing, (1, 1, 1))
    assert np.isnan(
        [neither.assd_mm(), neither.hausdorff_mm(), neither.normalised_surface_distance(1.0)]
    ).all()
    assert np.isnan([one.assd_mm(), one.hausdorff_mm()]).all()
    assert one.normalised_surface_distance(1.0) == 0.0
    assert union_box(nothing) == ((0, 0, 0), (0, 0, 0))


def test_other_and_sheared_grids_are_refused_by_name() -> None:
    ball = sphere(radius_mm=5, spacing_mm=1.0)
    with pytest.raises(InputRefused, match="another grid"):
        surface_distances(ball, sphere(radius_mm=5, spacing_mm=0.9))
    sheared = np.array(ball.affine)
    sheared[1, 2] = 0.3
    with pytest.raises(InputRefused, match="sheared"):
        surface_distances(Volume(ball.array, sheared), Volume(ball.array, sheared))
