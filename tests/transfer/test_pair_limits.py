"""Numbers of a pair against their limits, one by one."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from ichnos.transfer.pair_numbers import PairNumbers
from ichnos.transfer.pair_verdict import PLAUSIBLE, PairLimits, judge_pair, judge_target
from ichnos.volume import Volume

GOOD = PairNumbers(
    margin=0.2,
    least_margin=0.05,
    mirror_margin=0.2,
    similarity=1.2,
    head_overlap=0.97,
    brain_coverage=0.99,
    deformation_mm=1.0,
    jacobian_min=0.8,
    jacobian_max=1.3,
)
JUDGED = [field.name for field in fields(PairLimits) if hasattr(GOOD, field.name)]


def test_a_good_pair_passes_on_every_number() -> None:
    verdict = judge_pair(GOOD, interval_h=2.0, landmark_mm=1.0)
    assert verdict.level == "pass"
    assert len(verdict.reasons) == len(JUDGED) + 2


@pytest.mark.parametrize("name", JUDGED)
def test_each_number_beyond_its_limits_warns_and_then_refuses(name: str) -> None:
    warn, refuse = getattr(PairLimits(), name)
    step = 0.01 * (refuse - warn)
    assert judge_pair(replace(GOOD, **{name: warn + step})).level == "warn"
    verdict = judge_pair(replace(GOOD, **{name: refuse + step}))
    assert verdict.level == "refuse"
    assert len(verdict.at("refuse")) == 1


@pytest.mark.parametrize("name", ["margin", "head_overlap", "brain_coverage", "jacobian_min"])
def test_what_should_be_large_and_could_not_be_measured_warns(name: str) -> None:
    verdict = judge_pair(replace(GOOD, **{name: float("nan")}))
    assert "could not be measured" in verdict.at("warn")[0].text


def test_no_deformable_step_is_nothing_to_object_to() -> None:
    assert judge_pair(replace(GOOD, deformation_mm=float("nan"))).level == "pass"


def test_rows_hold_none_for_nan_and_four_digits() -> None:
    row = replace(GOOD, margin=0.123456, deformation_mm=float("nan")).as_row()
    assert row["margin"] == 0.1235
    assert row["deformation_mm"] is None


@pytest.mark.parametrize("name", sorted(PLAUSIBLE))
def test_a_target_outside_the_brain_is_refused_and_one_inside_is_not(name: str) -> None:
    grid = Volume(np.zeros((40, 40, 40), np.uint8), np.diag([2.0, 2, 2, 1]))
    brain, inside, outside = (np.zeros(grid.shape, np.uint8) for _ in range(3))
    brain[:, :, 20:] = 1
    inside[10:20, 10:20, 25:35] = 1  # 8 mL
    outside[10:20, 10:20, 2:12] = 1
    assert judge_target(name, grid.with_array(inside), grid.with_array(brain)).level == "pass"
    assert judge_target(name, grid.with_array(outside), grid.with_array(brain)).level == "refuse"


@pytest.mark.parametrize(
    ("name", "level"), [("tract_left", "refuse"), ("expansion", "warn"), ("leukoaraiosis", "pass")]
)
def test_an_empty_target_means_different_things(name: str, level: str) -> None:
    grid = Volume(np.zeros((8, 8, 8), np.uint8), np.eye(4))
    assert judge_target(name, grid, grid).level == level
