"""Blood's way: time grows with distance, metric and slowness; narrow sulci open to it, cisterns do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ichnos.simulation.disease.arrival import FAR, arrival, narrow_fluid, slowness
from ichnos.simulation.patient import Tissue


def from_middle(side: int = 21) -> torch.Tensor:
    start = torch.full((side,) * 3, FAR)
    start[side // 2, side // 2, side // 2] = 0.0
    return start


def test_in_even_tissue_time_is_about_the_distance() -> None:
    start = from_middle()
    time = arrival(start, torch.ones_like(start), 2.0)
    assert float(time[10, 10, 10]) == 0
    assert float(time[15, 10, 10]) == pytest.approx(10.0)
    assert float(time[15, 15, 15]) == pytest.approx(10 * np.sqrt(3), rel=0.01)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_time_scales_with_slowness_and_spacing(factor: float) -> None:
    start = from_middle(11)
    slow = torch.rand((11,) * 3, generator=torch.Generator().manual_seed(1)) + 0.5
    one = arrival(start, slow, 1.0)
    assert torch.allclose(arrival(start, slow * factor, 1.0), one * factor, rtol=1e-4)
    assert torch.allclose(arrival(start, slow, factor), one * factor, rtol=1e-4)


def test_a_metric_stretches_what_is_filled_along_its_short_axis_of_length() -> None:
    start = from_middle()
    time = arrival(start, torch.ones_like(start), 1.0, metric=np.diag([0.5, 1.0, 2.0]))
    inside = (time <= 4.0).nonzero().float()
    spread = inside.std(0)
    assert spread[0] > 1.5 * spread[1] > 2.2 * spread[2]


def test_fibres_let_blood_run_along_them() -> None:
    start = from_middle()
    fibre = torch.zeros(3, *start.shape)
    fibre[1] = 1.0
    time = arrival(start, torch.ones_like(start), 1.0, fibre=fibre, anisotropy=2.0)
    assert float(time[10, 15, 10]) == pytest.approx(5.0)
    assert 13.0 < float(time[15, 10, 10]) <= 15.0  # diagonal steps save a little


def test_a_wall_is_gone_around_or_never_passed() -> None:
    start = from_middle(11)
    slow = torch.ones_like(start)
    slow[7] = FAR
    assert float(arrival(start, slow, 1.0)[9, 5, 5]) > 1000
    slow[7, 0, 0] = 1.0  # a hole in the corner
    around = float(arrival(start, slow, 1.0)[9, 5, 5])
    assert 8 < around < 40


def brain_with_fluid(width: int) -> torch.Tensor:
    tissue = torch.full((31, 31, 31), int(Tissue.WHITE), dtype=torch.uint8)
    middle = 15
    tissue[middle - width // 2 : middle - width // 2 + width] = int(Tissue.CSF)
    return tissue


def test_a_sulcus_is_narrow_and_a_cistern_is_not() -> None:
    assert bool(narrow_fluid(brain_with_fluid(2), 1.0)[15].all())
    assert not bool(narrow_fluid(brain_with_fluid(13), 1.0)[15].any())
    assert not bool(narrow_fluid(brain_with_fluid(2), 1.0)[3].any())


def test_superficial_blood_enters_sulci_and_cortex_and_no_other_fluid() -> None:
    tissue = brain_with_fluid(2)
    tissue[25:] = int(Tissue.VENTRICLE)
    tissue[:5] = int(Tissue.CORTEX)
    deep, superficial = (slowness(tissue, 1.0, into_sulci=flag) for flag in (False, True))
    assert float(deep[15].min()) == FAR
    assert float(superficial[15].max()) < 5
    assert float(superficial[2].max()) < float(deep[2].min())
    assert float(superficial[28].min()) == float(deep[28].min()) == FAR
