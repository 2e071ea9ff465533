"""Beam hardening and noise level of a whole scan at once: the twin of `ct_physics.ray_effects`.

All views are one look-up, where the other turns the slices view by view: on a GPU the number of operations
counts, and not their size.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from ichnos.simulation.exams.ct_physics import (
    RAYS,
    REFERENCE_SUM,
    VIEWS,
    WATER_PER_CM,
    RayEffects,
    ramp_filtered,
)

_GROUP_MM = 6.0  # slices nearer than this share their rays


def ray_effects_at_once(
    hu: Tensor, *, pixel_mm: float, strength: float, generator: torch.Generator, streaks: float = 1.0
) -> RayEffects:
    """Derive beam hardening and noise level from slices (s, r, r) with pixels of `pixel_mm`."""
    pixel_cm = pixel_mm / 10.0
    water = (hu.clamp(-1000, 100) / 1000.0 + 1.0) * pixel_cm
    bone = (hu.clamp(120, 3000) - 120.0) / 1000.0 * pixel_cm
    water_cm, bone_cm = _ray_sums(torch.cat([water, bone])).chunk(2)
    total = WATER_PER_CM * water_cm + 0.33 * bone_cm
    hardening = -strength * (0.0080 * bone_cm**2 + 0.0015 * bone_cm * water_cm)
    variance = torch.exp(0.75 * (total - REFERENCE_SUM)).clamp(0.05, 400.0)
    starved = (
        torch.randn(variance.shape, device=hu.device, generator=generator)
        * (0.010 * streaks)
        * (variance.sqrt() - 1.5).clamp(min=0.0)
    )
    error, spread = _back_projection(
        torch.cat([ramp_filtered(hardening + starved, pixel_cm), variance])
    ).chunk(2)
    return RayEffects(error * 1000.0, (spread / VIEWS).clamp(min=0.05).sqrt())


def smooth_errors(
    slices: Tensor, step_mm: float, strength: float, generator: torch.Generator, *, streaks: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return beam-hardening error and relative noise level of slices (s, x, y) with pixels of 1.5 mm."""
    count, width, depth = slices.shape
    together = max(1, round(_GROUP_MM / step_mm))
    groups = math.ceil(count / together)
    padding = (0, 0, (depth - width) // 2, depth - width - (depth - width) // 2)
    square = functional.pad(slices, padding, value=-1000.0)
    short = groups * together - count
    if short:
        square = torch.cat([square, square[-1:].expand(short, -1, -1)])
    gathered = square.reshape(groups, together, depth, depth).mean(1)
    coarse = functional.interpolate(gathered[None], size=(RAYS, RAYS), mode="area")[0]
    rays = ray_effects_at_once(
        coarse, pixel_mm=depth * 1.5 / RAYS, strength=strength, generator=generator, streaks=streaks
    )
    both = functional.interpolate(
        torch.stack([rays.error_hu, rays.noise]), size=(depth, depth), mode="bilinear", align_corners=False
    )[:, :, padding[2] : padding[2] + width]
    spread = both.repeat_interleave(together, dim=1)[:, :count]
    return spread[0], spread[1]


@lru_cache(maxsize=4)
def _turned(device: torch.device) -> Tensor:
    """Return every view's pixels as positions in the slice (view, r, r, 2)."""
    at = (torch.arange(RAYS, device=device, dtype=torch.float32) * 2 + 1) / RAYS - 1
    x, y = at.expand(RAYS, RAYS), at.view(-1, 1).expand(RAYS, RAYS)
    angle = (torch.arange(VIEWS, device=device) * (math.pi / VIEWS)).view(-1, 1, 1)
    return torch.stack([angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y], dim=-1)


@lru_cache(maxsize=4)
def _ray_of(device: torch.device) -> Tensor:
    """Return which ray of each view meets each pixel, as look-up positions (view, r, r, 2)."""
    at = (torch.arange(RAYS, device=device, dtype=torch.float32) - (RAYS - 1) / 2).expand(RAYS, RAYS)
    angle = (torch.arange(VIEWS, device=device) * (math.pi / VIEWS)).view(-1, 1, 1)
    ray = (angle.cos() * at + angle.sin() * at.T + (RAYS - 1) / 2).clamp(0, RAYS - 1.001)
    return torch.stack([ray * (2.0 / (RAYS - 1)) - 1, torch.zeros_like(ray)], dim=-1)


def _ray_sums(slices: Tensor) -> Tensor:
    every = slices[None].expand(VIEWS, -1, -1, -1)
    turned = functional.grid_sample(every, _turned(slices.device), align_corners=False)
    return turned.sum(2).transpose(0, 1)


def _back_projection(sums: Tensor) -> Tensor:
    rows = sums.transpose(0, 1)[:, :, None]  # (view, s, 1, ray)
    return functional.grid_sample(rows, _ray_of(sums.device), align_corners=True).sum(0)
