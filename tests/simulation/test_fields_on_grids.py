"""Maps on grids in millimetres: sampling, enlarging, gathering, and smooth noise of known spread."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.ball_phantom import seeded
from ichnos.simulation.fields import (
    Grid,
    enlarged,
    gathered,
    gradient,
    indices_of,
    looked_up,
    points_of,
    sampled,
    smooth_noise,
)

CPU = torch.device("cpu")
SIZES = st.tuples(*[st.integers(2, 6)] * 3)


def _affine(spacing: tuple[float, float, float] = (2.0, 2.0, 2.0)) -> np.ndarray:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-7.0, 3.0, 11.0)
    return affine


def _ramp(shape: tuple[int, int, int]) -> torch.Tensor:
    """Return a field that is linear in the voxel's index."""
    x, y, z = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij")
    return (2 * x - 3 * y + 0.5 * z)[None]


@given(SIZES, st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_enlarging_keeps_linear_fields_linear(shape: tuple[int, int, int], step: int) -> None:
    fine = enlarged(_ramp(shape), step)
    assert fine.shape == (1, *((n - 1) * step + 1 for n in shape))
    assert torch.allclose(fine, _ramp(tuple(fine.shape[1:])) / step, atol=1e-4)  # type: ignore[arg-type]


@given(SIZES, st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_enlarging_keeps_the_coarse_voxels(shape: tuple[int, int, int], step: int) -> None:
    field = torch.randn((2, *shape), generator=seeded(0))
    assert torch.allclose(enlarged(field, step)[:, ::step, ::step, ::step], field, atol=1e-5)


@given(SIZES)
@settings(max_examples=20, deadline=None)
def test_enlarging_is_what_torch_interpolates(shape: tuple[int, int, int]) -> None:
    field = torch.randn((1, *shape), generator=seeded(1))
    size = [(n - 1) * 3 + 1 for n in shape]
    wanted = torch.nn.functional.interpolate(field[None], size=size, mode="trilinear", align_corners=True)
    assert torch.allclose(enlarged(field, 3), wanted[0], atol=1e-5)


def test_indices_undo_points() -> None:
    points = points_of(_affine((1.0, 2.0, 4.0)), (3, 4, 5), CPU)
    index = indices_of(points, _affine((1.0, 2.0, 4.0)))
    assert torch.allclose(index, points_of(np.eye(4), (3, 4, 5), CPU), atol=1e-5)


def test_indices_of_a_turned_grid_undo_its_affine() -> None:
    affine = np.eye(4)
    affine[:3, :3] = [[0, -2, 0], [2, 0, 0], [0, 0, 2]]
    affine[:3, 3] = (1, 2, 3)
    index = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 3.0]])
    mm = torch.from_numpy(affine[:3, :3]).float() @ index + torch.from_numpy(affine[:3, 3:]).float()
    assert torch.allclose(indices_of(mm, affine), index, atol=1e-5)


def test_sampling_at_the_voxels_gives_the_voxels() -> None:
    field = torch.randn((2, 5, 4, 3), generator=seeded(2))
    assert torch.allclose(sampled(field, _affine(), points_of(_affine(), (5, 4, 3), CPU)), field, atol=1e-5)


def test_sampling_between_voxels_is_linear() -> None:
    points = points_of(_affine(), (5, 4, 3), CPU)[:, :-1, :-1, :-1] + 1.0  # half a voxel along each axis
    wanted = _ramp((5, 4, 3))[:, :-1, :-1, :-1] + 0.5 * (2 - 3 + 0.5)
    assert torch.allclose(sampled(_ramp((5, 4, 3)), _affine(), points), wanted, atol=1e-4)


def test_beyond_the_edge_lies_the_edge_or_what_was_asked_for() -> None:
    field = _ramp((5, 4, 3))
    far = torch.full((3, 1, 1, 1), 1000.0)
    assert float(sampled(field, _affine(), far)) == float(field[0, -1, -1, -1])
    assert float(sampled(field, _affine(), far, fill=-1.0)) == -1.0


def test_gathering_takes_the_nearest_code() -> None:
    codes = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4)
    index = torch.tensor([0.4, 1.6, 2.4]).view(3, 1, 1, 1)
    assert int(gathered(codes, index)) == int(codes[0, 2, 2])
    assert int(gathered(codes, torch.full((3, 1, 1, 1), 99.0))) == 23
    assert int(gathered(codes, torch.full((3, 1, 1, 1), -99.0))) == 0


def test_looking_up_is_indexing() -> None:
    table = torch.randn(30, generator=seeded(3))
    codes = torch.randint(0, 30, (3, 4, 5), generator=seeded(4)).to(torch.uint8)
    assert torch.equal(looked_up(table, codes), table[codes.long()])


def test_the_gradient_of_a_ramp_is_its_slopes() -> None:
    slopes = gradient(_ramp((5, 6, 4))[0])
    for axis, slope in enumerate((2.0, -3.0, 0.5)):
        assert torch.allclose(slopes[axis], torch.tensor(slope), atol=1e-4)


def _noise(seed: int, correlation: float) -> torch.Tensor:
    return smooth_noise((40, 40, 40), correlation=correlation, generator=seeded(seed), device=CPU, channels=2)


def test_noise_follows_its_seed_and_has_about_unit_variance() -> None:
    assert torch.equal(_noise(1, 6.0), _noise(1, 6.0))
    assert not torch.equal(_noise(1, 6.0), _noise(2, 6.0))
    spread = np.mean([float(_noise(seed, 6.0).std()) for seed in range(6)])
    assert 0.6 < spread < 1.4


def test_noise_is_smoother_the_farther_it_correlates() -> None:
    steps = [float(gradient(_noise(1, correlation)[0]).abs().mean()) for correlation in (4.0, 8.0, 20.0)]
    assert steps[0] > steps[1] > steps[2]


@pytest.fixture
def grid() -> Grid:
    """Return a grid of 5 x 4 x 3 coarse voxels."""
    return Grid(_affine((1.5, 1.5, 1.5)), (5, 4, 3), 1.5)


def test_every_fourth_voxel_is_a_coarse_one(grid: Grid) -> None:
    assert grid.shape == (17, 13, 9)
    coarse, fine = grid.coarse_points(CPU), points_of(grid.affine, grid.shape, CPU)
    assert torch.allclose(coarse, fine[:, ::4, ::4, ::4], atol=1e-4)
    assert torch.allclose(grid.enlarged(coarse), fine, atol=1e-3)


def test_a_box_holds_its_mask_with_the_margin(grid: Grid) -> None:
    mask = torch.zeros(5, 4, 3, dtype=torch.bool)
    mask[2, 1:3, 1] = True
    assert grid.box(mask) == (slice(2, 4), slice(1, 3), slice(1, 3))
    assert grid.box(mask, margin=1) == (slice(1, 4), slice(0, 4), slice(0, 3))


def test_the_box_of_nothing_is_everything(grid: Grid) -> None:
    nothing = torch.zeros(5, 4, 3, dtype=torch.bool)
    assert grid.box(nothing) == (slice(0, 5), slice(0, 4), slice(0, 3))


@given(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 2)))
def test_a_box_is_never_thinner_than_two_voxels(voxel: tuple[int, int, int]) -> None:
    grid = Grid(_affine(), (5, 4, 3), 2.0)
    mask = torch.zeros(5, 4, 3, dtype=torch.bool)
    mask[voxel] = True
    box = grid.box(mask)
    assert all(s.stop - s.start >= 2 for s in box)
    assert bool(mask[box].any())


def test_a_fine_box_covers_the_coarse_one(grid: Grid) -> None:
    coarse = (slice(1, 3), slice(0, 2), slice(1, 3))
    fine = points_of(grid.affine, grid.shape, CPU)[(slice(None), *grid.fine(coarse))]
    box = grid.coarse_points(CPU)[(slice(None), *coarse)]
    assert torch.allclose(fine[:, ::4, ::4, ::4], box, atol=1e-4)
    assert float(fine.amax()) == pytest.approx(float(box.amax()))
