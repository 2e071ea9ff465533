"""What a clot does to its surroundings: it pushes away, the skull holds, the fluid gives way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ichnos.simulation.disease.mass_effect import DISPLACING_SHARE, displacement, shrinkage
from ichnos.simulation.fields import Grid

SIDE = 37  # coarse voxels of 4 mm: a cavity of 128 mm
GRID = Grid(np.eye(4), (SIDE, SIDE, SIDE), 1.0)
MIDDLE = SIDE // 2


def _ball(centre: tuple[int, int, int], radius: float) -> torch.Tensor:
    """Return the distance to a sphere's edge, voxels; positive inside."""
    axes = torch.meshgrid(*[torch.arange(SIDE, dtype=torch.float32) for _ in range(3)], indexing="ij")
    return radius - sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)).sqrt()  # type: ignore[union-attr]


DEPTH_MM = 4 * _ball((MIDDLE,) * 3, 16)
BRAIN = ((DEPTH_MM > 8) & (DEPTH_MM <= 60)).float()
FLUID = ((DEPTH_MM > 0) & (DEPTH_MM <= 8)).float()  # a rim under the skull
NOTHING = torch.zeros(SIDE, SIDE, SIDE)
CLOT = (_ball((MIDDLE - 6, MIDDLE, MIDDLE), 3) > 0).float()


@pytest.fixture(scope="module")
def pushed() -> torch.Tensor:
    """What a clot of about 7 mL on the left displaces."""
    return displacement(CLOT, FLUID, NOTHING, DEPTH_MM, GRID)


def test_without_blood_nothing_moves() -> None:
    assert not displacement(NOTHING, FLUID, NOTHING, DEPTH_MM, GRID).any()


def test_tissue_beside_the_clot_is_pushed_away_from_it(pushed: torch.Tensor) -> None:
    x = pushed[0, :, MIDDLE, MIDDLE]
    assert float(x[MIDDLE]) > 0.2  # towards the other side
    assert float(x[MIDDLE - 10]) < 0  # towards the near skull
    assert float(x[MIDDLE]) > float(x[MIDDLE + 10]) > -0.05


def test_the_skull_stays(pushed: torch.Tensor) -> None:
    outside = DEPTH_MM < -6
    assert float(pushed[:, outside].abs().max()) < 0.02 * float(pushed.abs().max())


def test_the_clot_makes_the_room_that_it_takes(pushed: torch.Tensor) -> None:
    divergence = sum(torch.gradient(part, dim=axis)[0] for axis, part in enumerate(pushed)) / 4
    source = divergence[(_ball((MIDDLE - 6, MIDDLE, MIDDLE), 8) > 0) & (DEPTH_MM > 12)].sum()  # type: ignore[index]
    wanted = DISPLACING_SHARE * float(CLOT.sum())
    assert float(source) == pytest.approx(wanted, rel=0.25)


def test_a_mirrored_clot_pushes_the_other_way(pushed: torch.Tensor) -> None:
    mirrored = displacement(CLOT.flip(0), FLUID, NOTHING, DEPTH_MM, GRID).flip(1)
    mirrored[0] *= -1
    assert torch.allclose(mirrored, pushed, atol=0.02 * float(pushed.abs().max()))


def test_a_larger_clot_pushes_further(pushed: torch.Tensor) -> None:
    larger = (_ball((MIDDLE - 6, MIDDLE, MIDDLE), 4) > 0).float()
    further = displacement(larger, FLUID, NOTHING, DEPTH_MM, GRID)
    assert float(further[0, MIDDLE, MIDDLE, MIDDLE]) > 1.5 * float(pushed[0, MIDDLE, MIDDLE, MIDDLE])


def test_ventricles_give_way_before_sulci() -> None:
    ventricle = (_ball((MIDDLE + 2, MIDDLE, MIDDLE), 3) > 0).float()
    fluid = torch.maximum(FLUID, ventricle)
    u = displacement(CLOT, fluid, ventricle, DEPTH_MM, GRID)
    divergence = sum(torch.gradient(part, dim=axis)[0] for axis, part in enumerate(u)) / 4
    inner = divergence[ventricle > 0].mean()  # type: ignore[index]
    outer = divergence[FLUID > 0].mean()  # type: ignore[index]
    assert float(inner) < 0
    assert float(inner) < 2 * float(outer)


def test_blood_that_casts_the_ventricles_widens_them() -> None:
    ventricle = (_ball((MIDDLE + 2, MIDDLE, MIDDLE), 3) > 0).float()
    fluid = torch.maximum(FLUID, ventricle)
    cast = 0.5 * ventricle
    u = displacement(NOTHING, fluid, ventricle, DEPTH_MM, GRID, distended=cast)
    divergence = sum(torch.gradient(part, dim=axis)[0] for axis, part in enumerate(u)) / 4
    assert float(divergence[ventricle > 0].sum()) > 0.3 * float(cast.sum())  # type: ignore[index]


def test_fluid_beside_shrunken_tissue_takes_its_room() -> None:
    ventricle = (_ball((MIDDLE, MIDDLE, MIDDLE), 4) > 0).float()
    infarct = (_ball((MIDDLE - 9, MIDDLE, MIDDLE), 3) > 0).float()
    pull = shrinkage(0.4 * infarct, FLUID + ventricle, ventricle, DEPTH_MM, GRID)
    divergence = sum(torch.gradient(part, dim=axis)[0] for axis, part in enumerate(pull)) / 4
    gained = float(divergence[ventricle > 0].sum())  # type: ignore[index]
    lost = float(divergence[_ball((MIDDLE - 9, MIDDLE, MIDDLE), 5) > 0].sum())  # type: ignore[index]
    assert gained > 0.3 * 0.4 * float(infarct.sum())
    assert lost == pytest.approx(-0.4 * float(infarct.sum()), rel=0.3)
    assert float(pull[0, MIDDLE - 6, MIDDLE, MIDDLE]) < -0.05  # what lies between is drawn to the infarct
    assert float(pull[:, DEPTH_MM < -6].abs().max()) < 0.05 * float(pull.abs().max())


def test_nothing_shrinks_without_an_infarct() -> None:
    assert not shrinkage(NOTHING, FLUID, NOTHING, DEPTH_MM, GRID).any()
