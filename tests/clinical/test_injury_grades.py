"""Injury of made tracts whose grades are known."""

from __future__ import annotations

import numpy as np
import pytest

from ichnos.clinical.injury import (
    INJURY_GRADES,
    INTERRUPTION,
    TOUCH,
    expected_grade,
    grade_probabilities,
    injury_grade,
    tract_injury,
    worst_shares,
)


@pytest.mark.parametrize(
    ("blood", "oedema", "grade"),
    [
        (None, None, "no risk"),
        (None, slice(0, 10), "PHE infiltration"),
        (slice(0, 5), slice(0, 10), "haematoma infiltration"),
        (slice(0, 10), None, "complete interruption"),
    ],
)
def test_injury_grades(blood: slice | None, oedema: slice | None, grade: str) -> None:
    tract = np.zeros((30, 30, 40), np.float32)
    tract[10:20, 10:20] = 1
    ich, phe = np.zeros_like(tract), np.zeros_like(tract)
    if blood is not None:
        ich[10:20, 10:20, 15:18][blood] = 1
    if oedema is not None:
        phe[10:20, 10:20, 12:22][oedema] = 1
    injury = tract_injury(tract, ich, phe, z_mm=np.arange(40.0), voxel_ml=0.001)
    assert injury.grade == grade
    assert injury.blood_load_ml == pytest.approx(ich[10:20, 10:20].sum() * 0.001, rel=1e-5)
    assert np.isnan(injury.largest_loss_z_mm) == (blood is None)


def test_a_bottleneck_counts_more_in_the_weighted_load() -> None:
    tract = np.zeros((30, 30, 40), np.float32)
    tract[5:25, 5:25, :20] = 1  # wide
    tract[10:20, 10:20, 20:] = 1  # narrow
    wide, narrow = np.zeros_like(tract), np.zeros_like(tract)
    wide[12:16, 12:16, 10] = 1
    narrow[12:16, 12:16, 30] = 1
    none = np.zeros_like(tract)
    z = np.arange(40.0)
    at_wide = tract_injury(tract, wide, none, z_mm=z, voxel_ml=0.001)
    at_narrow = tract_injury(tract, narrow, none, z_mm=z, voxel_ml=0.001)
    assert at_wide.blood_load_ml == pytest.approx(at_narrow.blood_load_ml)
    assert at_narrow.weighted_blood_load_ml == pytest.approx(4 * at_wide.weighted_blood_load_ml, rel=1e-5)


def test_grades_rise_with_what_is_taken() -> None:
    grades = [
        injury_grade(0, 0),
        injury_grade(0, TOUCH),
        injury_grade(TOUCH, 0),
        injury_grade(INTERRUPTION, 0),
    ]
    assert tuple(grades) == INJURY_GRADES


def test_levels_at_the_tapered_ends_of_a_tract_do_not_decide() -> None:
    section = np.array([100.0] * 20 + [5.0])
    blood = np.zeros(21)
    blood[20] = 5.0  # the thin end wholly in blood: below a tenth of the median cross-section
    assert worst_shares(section, blood, blood) == (0.0, 0.0)


def slab(start: int, stop: int) -> np.ndarray:
    part = np.zeros((40, 40, 4), np.float32)
    part[start:stop, 15:25] = 1
    return part


def test_probabilities_of_grades_pass_smoothly_over_the_steps() -> None:
    tract, none = slab(15, 25), slab(0, 0)
    reached = [
        grade_probabilities(tract, slab(start, 40), none, spacing_mm=(1.0, 1.0))["haematoma infiltration"]
        for start in (20, 24, 25, 27, 29, 32)
    ]
    assert reached[0] == pytest.approx(1)
    assert reached[-1] == 0
    assert reached == sorted(reached, reverse=True)
    assert sum(0.02 < chance < 0.98 for chance in reached) >= 3, "where the grade has one step"


@pytest.mark.parametrize(("blood", "oedema"), [((15, 25), (0, 0)), ((0, 0), (20, 40)), ((24, 40), (10, 40))])
def test_probabilities_of_grades_agree_with_the_grade_where_the_place_is_certain(
    blood: tuple[int, int], oedema: tuple[int, int]
) -> None:
    parts = slab(15, 25), slab(*blood), slab(*oedema)
    grade = tract_injury(*parts, z_mm=np.arange(4.0), voxel_ml=1.0).grade
    certain = grade_probabilities(*parts, spacing_mm=(1.0, 1.0), sd_mm=0.0)
    assert certain[grade] == pytest.approx(1)
    assert expected_grade(certain) == pytest.approx(INJURY_GRADES.index(grade))
    usual = grade_probabilities(*parts, spacing_mm=(1.0, 1.0))
    assert sum(usual.values()) == pytest.approx(1)


def test_an_empty_tract_cannot_be_graded() -> None:
    nothing = np.zeros((3, 3, 3), np.float32)
    with pytest.raises(ValueError, match="empty"):
        grade_probabilities(nothing, nothing, nothing, spacing_mm=(1.0, 1.0))
    with pytest.raises(ValueError, match="empty"):
        tract_injury(nothing, nothing, nothing, z_mm=np.arange(3.0), voxel_ml=1.0)


def test_the_level_of_the_largest_loss_is_named() -> None:
    tract = np.ones((4, 4, 10), np.float32)
    blood = np.zeros_like(tract)
    blood[:2, :, 7] = 1
    injury = tract_injury(tract, blood, np.zeros_like(tract), z_mm=np.arange(10.0) * 3, voxel_ml=1.0)
    assert (injury.largest_loss, injury.largest_loss_z_mm) == (0.5, 21.0)
