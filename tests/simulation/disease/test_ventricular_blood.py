"""Blood in the ventricles: near the rupture first, dependent horns, in pieces."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from builders.small_patient import small_patient
from ichnos.simulation.disease.filling import filled
from ichnos.simulation.disease.ventricles import distension, drawn_pools, filling_order
from ichnos.simulation.patient import Latent


@pytest.fixture(scope="module")
def latent() -> Latent:
    return small_patient().latent


def pools_of(latent: Latent, ivh_ml: float, seed: int):
    return drawn_pools(latent, ivh_ml, torch.Generator().manual_seed(seed))


def mni_grid() -> torch.Tensor:
    axes = [torch.arange(low, high, 4.0) for low, high in ((-44, 45), (-84, 41), (-44, 41))]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


@pytest.mark.parametrize(
    ("site", "part"), [("putamen", "body"), ("caudate", "frontal"), ("pons", "fourth"), ("lobar", "atrium")]
)
def test_the_part_next_to_the_rupture_always_holds_blood(latent: Latent, site: str, part: str) -> None:
    for seed in range(8):
        assert pools_of(replace(latent, site=site), 4.0, seed)[0].part == part


@pytest.mark.parametrize(("side", "sign"), [("left", -1), ("right", 1)])
def test_the_first_pool_lies_on_the_side_of_the_haematoma(latent: Latent, side: str, sign: int) -> None:
    first = pools_of(replace(latent, side=side), 4.0, 1)[0]
    assert all(sign * end[0] > 0 for end in first.ends_mm)


def test_more_blood_reaches_more_parts(latent: Latent) -> None:
    few, many = (sum(len(pools_of(latent, ml, seed)) for seed in range(60)) for ml in (0.5, 12.0))
    assert many > 1.2 * few
    assert 60 <= few <= 6 * 60


def test_the_same_draw_holds_every_part_of_a_smaller_bleed(latent: Latent) -> None:
    for seed in range(20):
        small, large = ({p.ends_mm for p in pools_of(latent, ml, seed)} for ml in (1.0, 20.0))
        assert small <= large


def test_blood_starts_on_the_axes_and_spreads_from_there(latent: Latent) -> None:
    pools, mni = pools_of(latent, 8.0, 3), mni_grid()
    order = filling_order(pools, mni, torch.Generator().manual_seed(1))
    axis = torch.tensor(pools[0].ends_mm).mean(0)
    away = (mni - axis.reshape(3, 1, 1, 1)).norm(dim=0)
    assert float(order[away < 4].mean()) < float(order[away > 25].mean()) - 5
    everywhere = torch.ones_like(order, dtype=torch.bool)
    less, more = (filled(order, everywhere, n, softness=1.0) for n in (50, 200))
    assert float(less.sum()) == pytest.approx(50, rel=0.01)
    assert float(more.sum()) == pytest.approx(200, rel=0.01)
    assert bool((more >= less - 1e-6).all())


def test_the_order_repeats_with_its_generator(latent: Latent) -> None:
    pools, mni = pools_of(latent, 8.0, 3), mni_grid()
    one, same, other = (filling_order(pools, mni, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_distension_grows_with_blood_up_to_a_limit() -> None:
    values = [distension(ml) for ml in (0.5, 2.0, 6.0, 10.0, 40.0, 60.0)]
    assert values == sorted(values)
    assert values[-1] == values[-2] < 1
