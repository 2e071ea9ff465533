"""How dense a clot is, and what the signs do to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from builders.small_patient import small_patient
from ichnos.simulation.disease.arrival import HeadCrop
from ichnos.simulation.disease.clot import base_density_hu, densities
from ichnos.simulation.patient import SIGNS, Tissue

SIDE = 41


@pytest.fixture(scope="module")
def clot() -> tuple[torch.Tensor, HeadCrop]:
    """A ball of arrival times in white matter, voxels of 1 mm."""
    axis = torch.arange(SIDE, dtype=torch.float32) - SIDE // 2
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    affine = np.eye(4)
    affine[:3, 3] = -(SIDE // 2)
    tissue = torch.full((SIDE,) * 3, int(Tissue.WHITE), dtype=torch.uint8)
    return (x**2 + y**2 + z**2).sqrt(), HeadCrop(affine, tissue, 1.0)


def hu_of(
    clot, *, signs: tuple[str, ...] = (), seed: int = 3, **changes: float
) -> tuple[torch.Tensor, torch.Tensor]:
    latent = replace(small_patient().latent, signs=signs, drawn_ich_ml=14.0, heterogeneity=-1.0, **changes)
    time, crop = clot
    return densities(time, crop, latent, np.zeros(3), torch.Generator().manual_seed(seed))


def inside(clot, hu: torch.Tensor) -> torch.Tensor:
    return hu[clot[0] <= 12.0]


def test_density_rises_with_haematocrit_and_with_the_clots_age() -> None:
    assert base_density_hu(0.45, 3) > base_density_hu(0.41, 3) > base_density_hu(0.30, 3)
    assert base_density_hu(0.41, 24) > base_density_hu(0.41, 1)
    assert all(44 <= base_density_hu(h, t) <= 90 for h in (0.1, 0.41, 0.7) for t in (0.5, 72))


@pytest.mark.parametrize("seed", range(4))
def test_every_density_lies_between_thin_blood_and_a_retracted_clot(clot, seed: int) -> None:
    early, late = hu_of(clot, signs=SIGNS, seed=seed)
    assert 26 <= float(early.min()) <= float(early.max()) <= 100
    assert 40 <= float(late.min()) <= float(late.max()) <= 100


@pytest.mark.parametrize("sign", ["blend", "black_hole", "swirl", "fluid_level"])
def test_a_density_sign_darkens_a_part_and_only_a_part(clot, sign: str) -> None:
    plain, marked = (inside(clot, hu_of(clot, signs=s)[0]) for s in ((), (sign,)))
    darker = float((plain - marked > 8).float().mean())
    assert 0.03 < darker < 0.75


def test_a_fluid_level_has_cells_at_the_back_and_isodense_fluid_before_them(clot) -> None:
    early = hu_of(clot, signs=("fluid_level",))[0]
    middle = SIDE // 2
    front, back = (float(early[middle, middle + y, middle]) for y in (9, -9))
    assert back > 55
    assert front < 48


def test_most_signs_have_evened_out_a_day_later(clot) -> None:
    early, late = hu_of(clot, signs=("blend", "black_hole"))
    assert float(inside(clot, late).std()) < 0.6 * float(inside(clot, early).std())
