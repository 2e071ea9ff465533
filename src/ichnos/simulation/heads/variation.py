"""From one source head to one person: affine, smooth diffeomorphism, atrophy, asymmetry and skull
thickness as one coarse map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ichnos.simulation.fields import Grid, gradient, sampled, smooth_noise
from ichnos.simulation.heads.source import SourceHead
from ichnos.volume import Floats

ADULT_INTRACRANIAL_ML = 1500.0  # mean of patients; they spread by about 8 %


@dataclass(frozen=True, eq=False)
class Variation:
    """Where each place of the healthy patient comes from in the source head."""

    grid: Grid
    source_mm: Tensor  # (3, x, y, z) on the coarse grid

    def at(self, points_mm: Tensor) -> Tensor:
        """Return source mm of patient points (3, X, Y, Z); beyond the grid, the nearest."""
        return sampled(self.source_mm, self.grid.coarse_affine, points_mm)


def varied(
    head: SourceHead,
    *,
    atrophy: float,
    ventricles_mm: float = 0.0,
    strength: float,
    spacing_mm: float,
    generator: torch.Generator,
) -> Variation:
    """Draw one person's deformation of a source head. `strength` 0 gives the head itself, 1 the usual
    variety; `ventricles_mm` widens the ventricles beyond what atrophy does.
    """
    device = head.codes.device
    inverse = _random_affine(head, strength, generator)
    grid = _grid_around(head, np.linalg.inv(inverse).astype(np.float64), spacing_mm)
    points = grid.coarse_points(device)
    matrix = torch.from_numpy(inverse).to(points)
    x = torch.einsum("ij,jxyz->ixyz", matrix[:3, :3], points) + matrix[:3, 3].reshape(3, 1, 1, 1)
    x = x + strength * _diffeomorphism(grid, generator, device)
    ventricle, depth = sampled(head.features, head.feature_affine, x)
    draws = torch.randn(4, generator=generator).tolist()
    wider_mm = (4.2 * (atrophy - 0.22) + 0.5 * draws[0] + ventricles_mm) * min(strength, 1)
    smaller_mm = (1.5 * (atrophy - 0.25) + 0.2 * draws[2]) * min(strength, 1)
    x = x + _ventricles_widened(ventricle, grid, wider_mm, draws[1] * 0.3)
    x = x + _brain_shrunk(depth, grid, smaller_mm)
    return Variation(grid, x + _skull_thickened(depth, points[2], grid, 0.14 * draws[3] * strength))


def _random_affine(head: SourceHead, strength: float, generator: torch.Generator) -> Floats:
    """Return source from patient: an adult's size, scales about 3 % per axis and 2 % in common, small shears;
    rotation is the exam's pose.

    Source heads differ in size, and the template is far too large (an average of aligned heads has the extent
    of the largest): all are brought to the same mean first.
    """
    draw = torch.randn(7, generator=generator, dtype=torch.float64).clamp(-2.2, 2.2).numpy() * strength
    size = strength * np.log(head.intracranial_ml / ADULT_INTRACRANIAL_ML) / 3
    scale = np.exp(size - 0.02 * draw[0] - np.array([0.03, 0.035, 0.03]) * draw[1:4])
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag(scale) @ np.array(
        [[1, 0.015 * draw[4], 0.015 * draw[5]], [0, 1, 0.02 * draw[6]], [0, 0, 1]]
    )
    return matrix


def _grid_around(head: SourceHead, patient_from_source: Floats, spacing_mm: float) -> Grid:
    occupied = head.codes[::4, ::4, ::4] > 0
    lo, hi = [], []
    for axis in range(3):
        others = [i for i in range(3) if i != axis]
        hits = occupied.any(dim=others[1]).any(dim=others[0]).nonzero()
        lo.append(4 * int(hits[0]))
        hi.append(4 * int(hits[-1]) + 3)
    corners = np.array(np.meshgrid(*zip(lo, hi, strict=True))).reshape(3, -1)
    there = (patient_from_source @ head.affine @ np.vstack([corners, np.ones(8)]))[:3]
    margin, step = 6.0, 4 * spacing_mm
    first = there.min(1) - margin
    n = np.ceil((there.max(1) + margin - first) / step).astype(int) + 1
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = np.round(first)
    return Grid(affine, (int(n[0]), int(n[1]), int(n[2])), spacing_mm)


def _diffeomorphism(grid: Grid, generator: torch.Generator, device: torch.device) -> Tensor:
    """Return a smooth displacement in mm (3, x, y, z): two scales of noise, integrated so that it can be
    inverted.
    """
    step_mm = grid.step * grid.spacing_mm
    wide = smooth_noise(
        grid.coarse_shape, correlation=60 / step_mm, generator=generator, device=device, channels=3
    )
    narrow = smooth_noise(
        grid.coarse_shape, correlation=26 / step_mm, generator=generator, device=device, channels=3
    )
    velocity = (2.0 * wide + 0.6 * narrow) / step_mm  # voxels
    displacement = velocity / 16
    points = torch.stack(
        torch.meshgrid(
            *[torch.arange(n, device=device, dtype=torch.float32) for n in grid.coarse_shape], indexing="ij"
        )
    )
    for _ in range(4):  # scaling and squaring
        displacement = displacement + sampled(displacement, np.eye(4), points + displacement)
    return displacement * step_mm


def _ventricles_widened(distance: Tensor, grid: Grid, millimetres: float, asymmetry: float) -> Tensor:
    """Return the displacement that moves the ventricles' walls outward (their signed distance is positive
    outside).
    """
    direction = gradient(distance) / (grid.step * grid.spacing_mm)
    reach = torch.where(distance > 0, 22.0, 8.0)
    weight = torch.exp(-((distance / reach) ** 2))
    x = grid.coarse_points(distance.device)[0]
    side = 1 + asymmetry * torch.tanh(x / 8)
    return -float(np.clip(millimetres, -1.2, 6.5)) * side * weight * direction


def _brain_shrunk(depth: Tensor, grid: Grid, millimetres: float) -> Tensor:
    """Return the displacement that moves the brain's surface away from the skull, which stays."""
    direction = gradient(depth) / (grid.step * grid.spacing_mm)
    weight = torch.where(depth > 0, torch.tanh(depth / 4) * torch.exp(-depth / 16), 0.0)
    return -float(np.clip(millimetres, -0.6, 2.4)) * weight * direction


def _skull_thickened(depth: Tensor, z: Tensor, grid: Grid, share: float) -> Tensor:
    """Return the displacement that stretches the vault (up to 9 mm outside the cavity) by a share of its
    thickness.
    """
    direction = gradient(depth) / (grid.step * grid.spacing_mm)
    vault = torch.sigmoid((z - 5) / 8)
    return float(1 / (1 + np.clip(share, -0.3, 0.5)) - 1) * depth.clamp(-9, 0) * vault * direction


def scale_at(variation: Variation, source_mm: Floats) -> float:
    """Return the volume of patient tissue per volume of source tissue near a source point."""
    step_mm = variation.grid.step * variation.grid.spacing_mm
    distance = (
        (variation.source_mm - torch.from_numpy(source_mm).to(variation.source_mm).reshape(3, 1, 1, 1)) ** 2
    ).sum(0)
    weight = torch.exp(-distance / (2 * 15.0**2))
    rows = torch.stack([gradient(component) for component in variation.source_mm]) / step_mm
    determinant = torch.linalg.det(rows.permute(2, 3, 4, 0, 1))
    return float(1 / ((determinant * weight).sum() / weight.sum()))
