"""Positions in MNI152 space: the network's noise goes, a real displacement stays, an atlas is found there."""

from __future__ import annotations

import numpy as np
import pytest

from ichnos.inference.coordinates import AtlasCoordinates, sample_atlas, smoothed_coordinates
from ichnos.inference.grid import reading_grid
from ichnos.volume import Box, Volume


def _ball(shape: tuple[int, int, int]) -> np.ndarray:
    at = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    return ((at**2).sum(0) < 0.9).astype(np.float32)


def test_noise_goes_and_a_push_stays() -> None:
    shape = (40, 48, 40)
    index = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij"))
    truth = 3 * (index - np.array([20, 24, 20], np.float32)[:, None, None, None])
    push = 6 * np.exp(-(((index - np.array([28, 24, 20])[:, None, None, None]) * 3 / 20) ** 2).sum(0))
    truth[0] += push
    noisy = truth + np.random.default_rng(0).normal(0, 5, truth.shape)
    weight = _ball(shape)
    found = smoothed_coordinates(noisy.astype(np.float32), weight, (3.0, 3.0, 3.0))
    error = np.linalg.norm(found - truth, axis=0)[weight > 0.5]
    assert np.median(error) < 1.0, "the raw error is 8 mm"
    assert abs(found[0, 28, 24, 20] - truth[0, 28, 24, 20]) < 2.5


def _straight(shift_mm: float = 0.0) -> tuple[AtlasCoordinates, Volume]:
    """Return coordinates of a scan that lies straight in its atlas, and the atlas: a ramp along x."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -39.0
    ras = Volume(np.zeros((40, 40, 40), np.float32), affine)
    grid = reading_grid(ras, Box((0, 0, 0), (40, 40, 40)), (4.0, 4.0, 4.0))
    index = np.indices(grid.shape).astype(np.float32)
    step = 80.0 / grid.shape[0]
    mni = (index + 0.5) * np.float32(step) - 40
    mni[0] += shift_mm
    ramp = np.broadcast_to(np.linspace(0, 1, 40, dtype=np.float32)[:, None, None], (40, 40, 40))
    return AtlasCoordinates(mni, np.ones(grid.shape, np.float32), grid, ras), ras.with_array(ramp.copy())


def test_an_atlas_is_found_where_the_scan_lies() -> None:
    coordinates, atlas = _straight()
    inside = (slice(4, -4),) * 3
    assert np.abs(coordinates.look_up(atlas).array - atlas.array)[inside].max() < 0.02


def test_an_atlas_moves_with_the_coordinates() -> None:
    coordinates, atlas = _straight(shift_mm=8.0)
    shown = coordinates.look_up(atlas).array
    assert np.allclose(shown[8:-12, 20, 20], atlas.array[12:-8, 20, 20], atol=0.02)


def test_positions_of_a_mask_are_those_of_its_voxels() -> None:
    coordinates, atlas = _straight()
    mask = atlas.with_array(np.zeros(atlas.shape, bool))
    mask.array[10, 20, 30] = True
    (found,) = coordinates.positions_mm(mask)
    assert found == pytest.approx(atlas.world((10, 20, 30)), abs=2.5)
    many = atlas.with_array(np.ones(atlas.shape, bool))
    assert len(coordinates.positions_mm(many, most=100)) < 220


def test_outside_the_atlas_there_is_nothing() -> None:
    _, atlas = _straight()
    far = np.full((3, 1), 500.0, np.float32)
    assert sample_atlas(atlas.map_array(np.ones_like), far) == pytest.approx(0.0)


def test_the_grids_voxel_size_follows_the_scan() -> None:
    coordinates, _ = _straight()
    assert coordinates.spacing_mm == pytest.approx((4.0, 4.0, 4.0), rel=0.1)
