"""Lesions of earlier years: their volumes, their grades, and who carries them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.ball_phantom import seeded
from ichnos.simulation.disease.chronic import (
    Chronic,
    calcified,
    degree,
    drawn_chronic,
    fazekas,
    shrunken_share,
)
from ichnos.simulation.fields import Grid
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.patient import Tissue

SHAPE = (22, 26, 22)  # feature voxels of 8 mm
GRID = Grid(np.eye(4), (13, 13, 13), 1.0)


@pytest.fixture(scope="module")
def head() -> SourceHead:
    """A ball of brain with a ball of ventricle, in MNI millimetres."""
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    affine[:3, 3] = (-84.0, -100.0, -64.0)
    axes = [torch.arange(n) * 8.0 + float(affine[i, 3]) for i, n in enumerate(SHAPE)]
    mni = torch.stack(torch.meshgrid(*axes, indexing="ij")).float()
    away = mni.square().sum(0).sqrt()
    features = torch.stack([away - 12, 75 - away])
    codes = torch.full(SHAPE, int(Tissue.WHITE), dtype=torch.uint8)
    return SourceHead("ball", codes, affine, features, affine, mni)


def _drawn(head: SourceHead, seed: int, **changes: float) -> Chronic:
    usual = {"leukoaraiosis_ml": 5.0, "acute_probability": 0.0, "old_probability": 0.0, "age_years": 70.0}
    return drawn_chronic(head, **{**usual, **changes}, generator=seeded(seed))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(6))
def test_a_certain_infarct_has_a_volume_and_an_impossible_one_none(head: SourceHead, seed: int) -> None:
    with_both = _drawn(head, seed, acute_probability=1.0, old_probability=1.0)
    assert 0.5 <= with_both.acute_ml <= 90
    assert 0.2 <= with_both.old_ml <= 180
    without = _drawn(head, seed, leukoaraiosis_ml=0.0)
    assert (without.acute_ml, without.old_ml) == (0.0, 0.0)
    assert float(without.scores[1].max()) == float(without.scores[2].max()) == -9.0


def test_old_infarcts_go_with_white_matter_disease(head: SourceHead) -> None:
    counts = [
        sum(_drawn(head, seed, old_probability=0.1, leukoaraiosis_ml=ml).old_ml > 0 for seed in range(40))
        for ml in (0.0, 30.0)
    ]
    assert counts[0] < counts[1]


def test_calcium_comes_with_age(head: SourceHead) -> None:
    def carriers(age_years: float) -> int:
        drawn = (_drawn(head, seed, age_years=age_years).calcium for seed in range(24))
        return sum(calcium[Tissue.ARTERY] > 0 for calcium in drawn)

    assert carriers(25.0) < 5 < 8 < carriers(90.0)


def test_the_same_generator_draws_the_same_lesions(head: SourceHead) -> None:
    first, again = (_drawn(head, 5, acute_probability=1.0, old_probability=1.0) for _ in range(2))
    assert torch.equal(first.scores, again.scores)
    assert (first.acute_ml, first.old_ml, first.calcium) == (again.acute_ml, again.old_ml, again.calcium)


@given(voxels=st.integers(1, 200), softness=st.floats(0.05, 2))
@settings(max_examples=30, deadline=None)
def test_so_many_voxels_reach_half_a_degree(voxels: int, softness: float) -> None:
    score = torch.randn((7, 8, 9), generator=seeded(1))
    where = torch.rand((7, 8, 9), generator=seeded(2)) < 0.7
    lesion = degree(score, where, voxels, softness=softness)
    assert int((lesion >= 0.5).sum()) == min(voxels, int(where.sum()))
    assert not lesion[~where].any()


def test_no_lesion_is_asked_for_or_nowhere_to_lie() -> None:
    score = torch.arange(5.0)
    assert not degree(score, score > 0, 0, softness=0.5).any()
    assert not degree(score, score > 9, 3, softness=0.5).any()


def test_calcium_lies_in_its_structure_and_the_pineal_gland_everywhere() -> None:
    tissue = torch.tensor([int(Tissue.CHOROID), int(Tissue.WHITE), int(Tissue.WHITE)], dtype=torch.uint8)
    fraction = calcified(torch.tensor([0.5, 0.5, 26.0]), tissue, {Tissue.CHOROID: 0.6})
    assert fraction.tolist() == pytest.approx([0.6, 0.0, 0.8])


def _graded(*balls: tuple[tuple[int, int, int], float]) -> tuple[int, int]:
    """Grade balls (centre, radius in mm) beside a ventricle whose wall is the plane x = 8 mm."""
    points = np.stack(np.indices(GRID.shape)).astype(float)
    lesion = np.zeros(GRID.shape, bool)
    for centre, radius in balls:
        lesion |= ((points - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(0) <= radius**2
    wall = (torch.arange(13, dtype=torch.float32) * 4 - 8).reshape(1, 13, 1, 1).expand(1, 13, 13, 13)
    return fazekas(torch.from_numpy(lesion).float(), wall.contiguous(), GRID)


def test_nothing_is_grade_nought_in_both_regions() -> None:
    assert _graded() == (0, 0)


def test_a_cap_on_the_ventricle_is_periventricular_and_grows_into_the_white_matter() -> None:
    grades = [_graded(((8, 24, 24), radius)) for radius in (5.0, 12.0, 22.0)]
    assert [grade for grade, _ in grades] == [1, 2, 3]


def test_patches_away_from_the_ventricle_are_deep_and_graded_by_the_largest() -> None:
    assert _graded(((30, 24, 24), 4.0)) == (0, 1)  # 0.27 mL
    assert _graded(((30, 24, 24), 8.0), ((30, 44, 44), 3.0)) == (0, 2)  # 2.1 mL
    assert _graded(((32, 24, 24), 12.0)) == (0, 3)  # 7.2 mL


def test_only_a_large_infarct_of_long_ago_has_shrunk(head: SourceHead) -> None:
    infarct = replace(_drawn(head, 1), old_ml=40.0, old_hu=5.0)
    weeks, years, ancient = (shrunken_share(replace(infarct, old_hu=hu)) for hu in (22.0, 12.0, 4.0))
    assert weeks == 0 < years < ancient == 0.4
    assert shrunken_share(replace(infarct, old_ml=0.5)) == 0
