"""Blood and oedema fill a region up to a volume, in the order of a score."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.ball_phantom import seeded
from ichnos.simulation.disease.filling import filled, filled_with_limit, oedema_degree

SCORE = torch.rand((8, 9, 10), generator=seeded(3)) * 20
WHERE = torch.rand((8, 9, 10), generator=seeded(4)) < 0.6


@given(share=st.floats(0.01, 0.99), softness=st.floats(0.05, 4.0))
@settings(max_examples=40, deadline=None)
def test_fractions_add_up_to_the_volume_asked_for(share: float, softness: float) -> None:
    wanted = share * int(WHERE.sum())
    part = filled(SCORE, WHERE, wanted, softness=softness)
    assert float(part.sum()) == pytest.approx(wanted, abs=0.05)
    assert float(part.min()) >= 0
    assert float(part.max()) <= 1
    assert not part[~WHERE].any()


def test_what_comes_first_is_filled_first() -> None:
    part = filled(SCORE, WHERE, 100, softness=0.5)
    order = SCORE[WHERE].argsort()
    assert (part[WHERE][order].diff() <= 1e-6).all()


def test_more_than_there_is_room_for_fills_everything() -> None:
    part = filled(SCORE, WHERE, 10_000, softness=0.5)
    assert float(part.sum()) == pytest.approx(int(WHERE.sum()), rel=1e-4)


@pytest.mark.parametrize("voxels", [0.0, -3.0])
def test_no_volume_gives_no_blood_and_an_edge_before_everything(voxels: float) -> None:
    part, limit = filled_with_limit(SCORE, WHERE, voxels, softness=0.5)
    assert not part.any()
    assert limit < float(SCORE.min())


def test_nowhere_to_go_gives_no_blood() -> None:
    nowhere = torch.zeros_like(WHERE)
    assert not filled(SCORE, nowhere, 50, softness=0.5).any()
    assert not oedema_degree(SCORE, nowhere, 50).any()


def test_the_edge_is_where_the_fraction_is_one_half() -> None:
    line = torch.linspace(0, 10, 1001)
    part, limit = filled_with_limit(line, line >= 0, 400, softness=1.0)
    assert float(part[(line - limit).abs().argmin()]) == pytest.approx(0.5, abs=0.01)


@given(voxels=st.integers(1, 300))
@settings(max_examples=30, deadline=None)
def test_so_many_voxels_of_oedema_reach_one_half(voxels: int) -> None:
    around = SCORE + 0.6  # beyond the least reach of half a millimetre
    degree = oedema_degree(around, WHERE, voxels)
    assert int((degree >= 0.5).sum()) == voxels
    assert not degree[~WHERE].any()


def test_oedema_fades_outwards_and_ends_soon_after_its_edge() -> None:
    around = torch.linspace(0, 30, 301)
    degree = oedema_degree(around, around >= 0, 101)
    assert (degree.diff() <= 1e-6).all()
    assert float(degree[0]) == 1
    assert not degree[around > 10 + 1.3].any()
