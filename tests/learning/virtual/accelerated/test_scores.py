"""Dice per target and the thresholds at which it is greatest, on masks whose overlap is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders.ball_phantom import seeded
from ichnos.learning.virtual.accelerated.scores import LEAST_ML, LEVELS, Counts, score_table


def _mask(count: int, *, size: int = 40) -> torch.Tensor:
    return (torch.arange(size) < count)[None]


def _counted(share: torch.Tensor, truth: torch.Tensor, voxel_ml: float = 1.0) -> Counts:
    counts = Counts(("ICH",), voxel_ml)
    counts.add(share, truth)
    return counts


def test_levels_rise_and_stay_between_never_and_always() -> None:
    assert list(LEVELS) == sorted(set(LEVELS))
    assert 0 < LEVELS[0] < LEVELS[-1] < 1


@given(shared=st.integers(1, 10), missed=st.integers(0, 10), invented=st.integers(0, 10))
def test_dice_and_volumes_of_known_masks(shared: int, missed: int, invented: int) -> None:
    at = torch.arange(40)
    truth = (at < shared + missed)[None]
    drawn = ((at < shared) | ((at >= 30) & (at < 30 + invented)))[None]
    (score,) = _counted(drawn.float() * 0.9, truth).scores({"ICH": 0.5})
    assert score.mean_dice == pytest.approx(2 * shared / (2 * shared + missed + invented))
    assert score.bias_ml == pytest.approx(invented - missed)
    assert score.error_ml == pytest.approx(abs(invented - missed))
    assert (score.scans, score.absent) == (1, 0)


def test_scans_with_and_without_a_target_are_told_apart() -> None:
    counts = Counts(("ICH",), 1.0)
    counts.add(_mask(8).float(), _mask(8))
    counts.add(_mask(3).float(), _mask(0))
    (score,) = counts.scores({"ICH": 0.5})
    assert (score.scans, score.absent) == (1, 1)
    assert score.median_dice == 1.0  # what was invented in the other scan counts there alone
    assert score.false_ml == pytest.approx(3.0)


def test_what_no_scan_holds_is_undefined_and_not_zero() -> None:
    (score,) = _counted(_mask(0).float(), _mask(0)).scores({"ICH": 0.5})
    assert math.isnan(score.median_dice)
    assert math.isnan(score.bias_ml)
    assert score.false_ml == 0.0


def test_what_every_scan_holds_has_no_false_volume() -> None:
    (score,) = _counted(_mask(4).float(), _mask(4)).scores({"ICH": 0.5})
    assert math.isnan(score.false_ml)


def test_less_than_the_least_volume_counts_as_absent() -> None:
    voxel_ml = LEAST_ML / 4
    (few,) = _counted(_mask(3).float(), _mask(3), voxel_ml).scores({"ICH": 0.5})
    (enough,) = _counted(_mask(4).float(), _mask(4), voxel_ml).scores({"ICH": 0.5})
    assert (few.scans, enough.scans) == (0, 1)


def test_volumes_scale_with_the_voxel() -> None:
    share, truth = _mask(9).float(), _mask(6)
    for voxel_ml in (0.5, 1.0, 2.0):
        (score,) = _counted(share, truth, voxel_ml).scores({"ICH": 0.5})
        assert score.bias_ml == pytest.approx(3 * voxel_ml)
        assert score.mean_dice == pytest.approx(12 / 15)


def test_a_scans_own_voxel_overrules_the_common_one() -> None:
    counts = Counts(("ICH",), 1.0)
    counts.add(_mask(5).float(), _mask(4), voxel_ml=2.0)
    (score,) = counts.scores({"ICH": 0.5})
    assert score.bias_ml == pytest.approx(2.0)


def test_each_target_has_its_own_threshold() -> None:
    counts = Counts(("ICH", "IVH"), 1.0)
    truth = torch.cat([_mask(10), _mask(10)])
    sure = torch.where(_mask(10), 0.93, torch.where(_mask(20), 0.82, 0.0))
    faint = torch.where(_mask(10), 0.22, 0.11)
    counts.add(torch.cat([sure, faint]), truth)
    thresholds = counts.thresholds()
    assert 0.82 < thresholds["ICH"] < 0.93
    assert 0.11 < thresholds["IVH"] < 0.22
    assert all(score.mean_dice == 1.0 for score in counts.scores(thresholds))


def test_blood_drawn_where_there_is_none_raises_the_threshold() -> None:
    alone = Counts(("ICH",), 1.0)
    with_healthy = Counts(("ICH",), 1.0)
    bled = torch.where(_mask(10), 0.9, torch.where(_mask(12), 0.28, 0.0))
    for counts in (alone, with_healthy):
        counts.add(bled, _mask(12))
    for _ in range(4):
        with_healthy.add(_mask(20).float() * 0.28, _mask(0))
    assert alone.thresholds()["ICH"] < 0.28 < with_healthy.thresholds()["ICH"]


def test_the_order_of_scans_does_not_matter() -> None:
    scans = [(torch.rand(1, 30, generator=seeded(k)), _mask(5 + k, size=30)) for k in range(4)]
    first, second = Counts(("ICH",), 1.0), Counts(("ICH",), 1.0)
    for scan in scans:
        first.add(*scan)
    for scan in reversed(scans):
        second.add(*scan)
    assert first.thresholds() == second.thresholds()
    assert first.scores({"ICH": 0.5})[0].median_dice == second.scores({"ICH": 0.5})[0].median_dice


def test_without_scans_there_are_usual_thresholds_and_no_rows() -> None:
    counts = Counts(("ICH", "IVH"), 1.0)
    assert counts.thresholds() == {"ICH": 0.5, "IVH": 0.5}
    assert counts.scores({"ICH": 0.5, "IVH": 0.5}) == []


def test_the_table_has_one_row_per_target_and_no_ragged_line() -> None:
    counts = Counts(("ICH", "IVH"), 1.0)
    counts.add(torch.cat([_mask(5), _mask(0)]).float(), torch.cat([_mask(5), _mask(0)]))
    lines = score_table(counts.scores(counts.thresholds())).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| ICH |")
