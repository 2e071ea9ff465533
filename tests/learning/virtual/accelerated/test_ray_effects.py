"""Beam hardening and noise of whole scans: bigger strength, bigger error; equal slices, equal effects."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from builders.ball_phantom import seeded
from ichnos.learning.virtual.accelerated.rays import ray_effects_at_once, smooth_errors
from ichnos.simulation.exams.ct_physics import RAYS

SHAPE = (2, 48, 60)


def _head(pixels: tuple[int, int], *, bone_hu: float = 1200.0, radius: float = 20.0) -> torch.Tensor:
    """Return one slice of a round head in air."""
    x, y = ((torch.arange(n) - (n - 1) / 2) for n in pixels)
    away = torch.hypot(x[:, None], y[None])
    return torch.where(away < radius, 35.0, torch.where(away < radius + 3, bone_hu, -1000.0))


@lru_cache(maxsize=8)
def _errors(strength: float, streaks: float = 0.0, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    slices = _head(SHAPE[1:]).expand(count, -1, -1)
    return smooth_errors(slices, 6.0, strength, seeded(0), streaks=streaks)


def test_errors_and_noise_lie_on_the_slices_own_pixels() -> None:
    error, noise = _errors(1.0)
    assert error.shape == noise.shape == SHAPE
    assert bool((noise > 0).all())


def test_hardening_grows_with_its_strength() -> None:
    sizes = [float(_errors(strength)[0].abs().mean()) for strength in (0.5, 1.0, 2.0)]
    assert sizes[0] < sizes[1] < sizes[2]
    assert sizes[2] == pytest.approx(2 * sizes[1], rel=0.05)


def test_without_hardening_and_streaks_nothing_is_added() -> None:
    assert float(_errors(0.0)[0].abs().max()) < 1e-3


def test_noise_does_not_depend_on_hardening() -> None:
    assert torch.allclose(_errors(0.0)[1], _errors(2.0)[1])


def test_noise_is_greater_within_the_head_than_in_air() -> None:
    noise = _errors(1.0)[1][0]
    assert float(noise[24, 30]) > float(noise[2, 2])


def test_equal_slices_have_equal_errors() -> None:
    error = _errors(1.0, count=3)[0]
    assert torch.allclose(error[0], error[2], atol=1e-4)


def test_a_round_head_has_a_symmetrical_error() -> None:
    error = _errors(1.0)[0][0]
    assert float((error - error.flip(0)).abs().max()) < 0.1 * float(error.abs().max()) + 0.5


@pytest.mark.parametrize(("step_mm", "count"), [(1.5, 7), (3.0, 5), (6.0, 1)])
def test_slices_that_share_rays_are_counted_right(step_mm: float, count: int) -> None:
    slices = _head((40, 48), radius=14.0).expand(count, -1, -1)
    error, noise = smooth_errors(slices, step_mm, 1.0, seeded(0))
    assert len(error) == len(noise) == count


def test_neighbouring_thin_slices_share_their_rays() -> None:
    slices = torch.stack([_head((40, 48), radius=10.0 + k) for k in range(4)])
    error, _ = smooth_errors(slices, 1.5, 1.0, seeded(0), streaks=0.0)
    assert torch.equal(error[0], error[3])


def test_streaks_follow_their_seed_alone() -> None:
    slices = _head((RAYS, RAYS), bone_hu=2500.0, radius=30.0)[None]
    first, again, other = (
        ray_effects_at_once(slices, pixel_mm=3.0, strength=1.0, generator=seeded(seed), streaks=3.0)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first.error_hu, again.error_hu)
    assert not torch.equal(first.error_hu, other.error_hu)
    assert torch.equal(first.noise, other.noise)


def test_denser_bone_means_more_noise_behind_it() -> None:
    noise = [
        ray_effects_at_once(
            _head((RAYS, RAYS), bone_hu=bone_hu, radius=28.0)[None],
            pixel_mm=3.0,
            strength=1.0,
            generator=seeded(0),
        ).noise[0, RAYS // 2, RAYS // 2]
        for bone_hu in (300.0, 1000.0, 2000.0)
    ]
    assert float(noise[0]) < float(noise[1]) < float(noise[2])
