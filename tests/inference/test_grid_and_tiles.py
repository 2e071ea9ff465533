"""The way to the network's grid and back, and the tiling between them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ichnos.errors import InputRefused
from ichnos.formats.dicom.geometry import SharedSlabs
from ichnos.inference.grid import axis_weights, reading_grid
from ichnos.inference.head import head_box
from ichnos.inference.sliding import slide, tiles
from ichnos.volume import Box, Volume


def test_planes_of_one_slice_get_one_value() -> None:
    scan = Volume(np.random.default_rng(0).normal(size=(20, 20, 9)).astype(np.float32), np.eye(4))
    grid = reading_grid(scan, Box((0, 0, 2), (20, 20, 9)), (2.0, 2.0, 2.0))
    owner = np.array([0, 0, 1, 1, 1, 2, 3, 3, 3])
    level = grid.levelled(SharedSlabs(2, owner))
    before, after = (g.push(grid.pull(scan.array), slice(None)) for g in (grid, level))
    for k in (1, 2, 3):
        planes = owner[2:] == k
        mean = before[..., planes].mean(axis=-1, keepdims=True)
        assert np.allclose(after[..., planes], mean, atol=1e-6)
    assert grid.levelled(None) is grid


@given(st.integers(2, 60), st.floats(0.3, 6), st.floats(0.3, 6))
@settings(max_examples=60, deadline=None)
def test_weights_keep_constants_and_centre(n: int, step_in: float, step_out: float) -> None:
    n_out = max(1, int(np.ceil(n * step_in / step_out)))
    weights = axis_weights(n, step_in, n_out, step_out)
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert np.allclose(weights, weights[::-1, ::-1], atol=1e-5), (
        "a symmetric grid must have symmetric weights: otherwise left is not left"
    )


def test_a_ball_keeps_its_place_and_volume_through_the_grid_and_back() -> None:
    x, y, z = np.ogrid[:100, :90, :30]
    ball = ((x - 30) * 0.8) ** 2 + ((y - 50) * 0.8) ** 2 + ((z - 14) * 3.0) ** 2 <= 20**2
    scan = Volume(np.where(ball, 60.0, 30.0).astype(np.float32), np.diag([0.8, 0.8, 3.0, 1.0]))
    grid = reading_grid(scan, Box((4, 6, 2), (90, 88, 30)), (2.0, 2.0, 2.0))
    back = grid.push(grid.pull(scan.array), slice(0, 28))
    found = back > 45
    truth = ball[4:90, 6:88, 2:30]
    assert found.sum() == pytest.approx(truth.sum(), rel=0.03)
    shift = (np.argwhere(found).mean(axis=0) - np.argwhere(truth).mean(axis=0)) * np.array([0.8, 0.8, 3.0])
    assert np.abs(shift).max() < 0.05


def test_slabs_join_without_a_seam() -> None:
    scan = Volume(
        np.random.default_rng(0).normal(size=(40, 40, 20)).astype(np.float32), np.diag([1.0, 1.0, 4.0, 1.0])
    )
    grid = reading_grid(scan, Box((0, 0, 0), (40, 40, 20)), (2.0, 2.0, 2.0))
    field = grid.pull(scan.array)
    whole = grid.push(field, slice(0, 20))
    parts = np.concatenate([grid.push(field, slice(a, min(a + 8, 20))) for a in range(0, 20, 8)], axis=2)
    assert np.allclose(whole, parts, atol=1e-6)


@given(st.tuples(st.integers(3, 40), st.integers(3, 40)), st.integers(3, 12), st.floats(0, 0.75))
@settings(max_examples=50, deadline=None)
def test_tiles_cover_every_voxel(shape: tuple[int, int], patch: int, overlap: float) -> None:
    covered = np.zeros([max(n, patch) for n in shape], int)
    for tile in tiles(covered.shape, (patch, patch), overlap):
        assert covered[tile].shape == (patch, patch)
        covered[tile] += 1
    assert covered.min() >= 1


def test_blending_gives_back_a_voxelwise_function_exactly() -> None:
    image = np.random.default_rng(1).normal(size=(2, 21, 17, 30)).astype(np.float32)
    out = slide(image, lambda tile: tile.sum(axis=1, keepdims=True), patch=(8, 8, 8), channels=1)
    assert np.allclose(out[0], image.sum(axis=0), atol=1e-5)


def test_a_small_image_lies_in_the_middle_of_its_tile_and_left_and_right_are_alike() -> None:
    seen = []
    odd = np.random.default_rng(2).normal(size=(1, 5, 8, 19)).astype(np.float32)
    rim = np.random.default_rng(3).normal(size=(1, 1, 9, 8, 8)).astype(np.float32)
    rim += rim[:, :, ::-1]  # an answer that hangs on the place in the tile, left and right alike

    def run(tile: np.ndarray) -> np.ndarray:
        seen.append(tile.shape)
        return np.asarray(tile * rim, np.float32)

    out = slide(odd, run, patch=(9, 8, 8), channels=1, padding=7.0)
    mirrored = slide(odd[:, ::-1], run, patch=(9, 8, 8), channels=1, padding=7.0)
    assert set(seen) == {(1, 1, 9, 8, 8)}
    assert np.allclose(out, mirrored[:, ::-1], atol=1e-5)


def test_head_box_is_filled_up_from_the_scan_as_far_as_it_reaches() -> None:
    x, y, z = np.ogrid[:120, :120, :40]
    head = (x - 60) ** 2 + (y - 80) ** 2 + ((z - 20) * 2) ** 2 <= 35**2
    scan = Volume(np.where(head, 40.0, -1000.0).astype(np.float32), np.diag([2.0, 2.0, 4.0, 1.0]))
    tight, wide = head_box(scan), head_box(scan, least_mm=(200.0, 200.0, 200.0))
    assert [b - a for a, b in zip(wide.start, wide.stop, strict=True)] == [100, 100, 40], (
        "the scan is 160 mm high"
    )
    assert (wide.start[0] + wide.stop[0]) // 2 == (tight.start[0] + tight.stop[0]) // 2
    assert wide.stop[1] == 120, "the head lies near the scan's end: the box grows to the other side"
    assert all(w <= t for w, t in zip(wide.start, tight.start, strict=True))
    assert all(w >= t for w, t in zip(wide.stop, tight.stop, strict=True))
    assert head_box(scan, least_mm=(10.0, 10.0, 10.0)) == tight


def test_head_box_finds_the_head_and_not_the_table() -> None:
    x, y, z = np.ogrid[:120, :120, :40]
    head = (x - 60) ** 2 + (y - 70) ** 2 + ((z - 20) * 2) ** 2 <= 35**2
    hu = np.where(head, 40.0, -1000.0).astype(np.float32)
    hu[20:100, 15:20] = 100.0  # a table under it
    box = head_box(Volume(hu, np.diag([2.0, 2.0, 4.0, 1.0])), margin_mm=0)
    assert box.start[1] >= 20
    assert box.start[1] <= 36
    assert box.stop[1] >= 104


def test_air_has_no_head() -> None:
    with pytest.raises(InputRefused, match="no head"):
        head_box(Volume(np.full((20, 20, 20), -1000.0, np.float32), np.eye(4)))


def test_the_part_that_can_exceed_a_value_is_all_that_exceeds_it() -> None:
    rng = np.random.default_rng(0)
    scan = Volume(np.zeros((41, 37, 19), np.float32), np.diag([0.7, 0.9, 4.0, 1.0]))
    grid = reading_grid(scan, Box((3, 2, 1), (40, 37, 18)), (2.0, 2.0, 3.0))
    array = rng.random(grid.shape).astype(np.float32) ** 6
    whole = np.zeros(scan.shape, np.float32)
    whole[grid.box.slices] = grid.push(array, slice(0, 17))
    for least in (0.2, 0.9, 2.0):
        found = np.zeros(scan.shape, bool)
        for place, values in grid.above(array, least):
            found[place] = values > least
        assert (found == (whole > least)).mean() > 0.9999, "rounding may turn a voxel"
        assert found.any() == (whole > least).any()
