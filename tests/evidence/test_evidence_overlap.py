"""Overlap, growth, centre lines and lesions on shapes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from ichnos.errors import InputRefused
from ichnos.evidence.metrics.overlap import cl_dice, growth_dice, lesion_detection, overlap, volume_error_ml
from ichnos.evidence.pack.flags import iou_of_dice
from ichnos.volume import Volume, sphere

AFFINE = np.diag([0.5, 0.5, 5.0, 1.0])


def _volume(array: np.ndarray, affine: np.ndarray = AFFINE) -> Volume:
    return Volume(np.asarray(array, np.uint8), affine)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_shares_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, guess = rng.random((6, 5, 4)) < 0.4, rng.random((6, 5, 4)) < 0.5
    truth[0, 0, 0] = guess[0, 0, 0] = True
    found = overlap(_volume(truth), _volume(guess))
    flat = truth.ravel(), guess.ravel()
    assert found.dice == pytest.approx(f1_score(*flat))
    assert found.iou == pytest.approx(jaccard_score(*flat))
    assert found.precision == pytest.approx(precision_score(*flat))
    assert found.recall == pytest.approx(recall_score(*flat))
    assert found.iou == pytest.approx(iou_of_dice(found.dice))
    assert found.volume_error_ml == pytest.approx((int(guess.sum()) - int(truth.sum())) * 0.00125)


def test_balls_overlap_as_geometry_says() -> None:
    grid = sphere(radius_mm=20, spacing_mm=0.5)
    inner = sphere(radius_mm=16, spacing_mm=0.5).on_grid(grid, interpolation="nearest")
    found = overlap(grid, inner)
    share = (16 / 20) ** 3
    assert found.recall == pytest.approx(share, abs=0.005)
    assert found.precision == 1.0
    assert found.dice == pytest.approx(2 * share / (1 + share), abs=0.005)
    assert volume_error_ml(grid, inner) == pytest.approx(4 / 3 * np.pi * (16**3 - 20**3) / 1000, rel=0.01)


def test_both_policies_for_empty_masks() -> None:
    nothing, ball = np.zeros((20, 20, 10)), np.zeros((20, 20, 10))
    ball[5:9, 5:9, 3:5] = 1
    both = overlap(_volume(nothing), _volume(nothing))
    assert both.empty == "both"
    assert np.isnan([both.dice, both.iou, both.nsd, both.hd95_mm]).all()
    assert both.under("scored").dice == 1.0
    assert both.under("scored").hd95_mm == 0.0
    false_alarm = overlap(_volume(nothing), _volume(ball))
    assert (false_alarm.empty, false_alarm.dice, false_alarm.precision) == ("truth", 0.0, 0.0)
    assert np.isnan([false_alarm.recall, false_alarm.hd95_mm]).all()
    assert false_alarm.volume_error_ml == pytest.approx(32 * 0.00125)
    miss = overlap(_volume(ball), _volume(nothing))
    assert miss.empty == "prediction"
    assert miss.under("scored").hd95_mm == pytest.approx(np.linalg.norm([10, 10, 50]))
    assert overlap(_volume(ball), _volume(ball)).under("scored") == overlap(_volume(ball), _volume(ball))


def test_growth_is_a_set_difference_not_a_signed_one() -> None:
    baseline, followup, guess = (np.zeros((30, 10, 4)) for _ in range(3))
    baseline[5:15], followup[8:20], guess[5:18] = (
        1,
        1,
        1,
    )  # part of the clot has gone on the left, it grew on the right
    new, predicted = 5, 3
    expected = 2 * 3 / (new + predicted)
    volumes = {
        "baseline": _volume(baseline),
        "truth_followup": _volume(followup),
        "predicted_followup": _volume(guess),
    }
    assert growth_dice(**volumes) == pytest.approx(expected)
    signed = np.abs(followup - baseline) > 0, np.abs(guess - baseline) > 0
    inflated_or_not = 2 * (signed[0] & signed[1]).sum() / (signed[0].sum() + signed[1].sum())
    assert inflated_or_not != pytest.approx(expected)
    assert np.isnan(
        growth_dice(
            baseline=_volume(baseline), truth_followup=_volume(baseline), predicted_followup=_volume(baseline)
        )
    )


def test_centre_line_dice_of_a_tube() -> None:
    tube = np.zeros((15, 15, 40))
    tube[5:10, 5:10, 2:38] = 1
    assert cl_dice(_volume(tube, np.eye(4)), _volume(tube, np.eye(4))) == 1.0
    half = tube.copy()
    half[:, :, 20:] = 0
    found = cl_dice(_volume(tube, np.eye(4)), _volume(half, np.eye(4)))
    assert found == pytest.approx(2 * 0.5 / 1.5, abs=0.06)  # precision 1, recall one half
    thick = np.zeros_like(tube)
    thick[3:12, 3:12, 2:38] = 1
    assert (
        cl_dice(_volume(tube, np.eye(4)), _volume(thick, np.eye(4))) > 0.85
    )  # thicker, but along the same line
    assert overlap(_volume(tube, np.eye(4)), _volume(thick, np.eye(4))).dice < 0.5
    assert np.isnan(cl_dice(_volume(tube, np.eye(4)), _volume(np.zeros_like(tube), np.eye(4))))


def test_lesions_are_counted_in_their_bins() -> None:
    truth, guess = np.zeros((60, 60, 20)), np.zeros((60, 60, 20))
    truth[2:6, 2:6, 2:6] = 1  # 64 voxels of 1 mL: > 30
    truth[20:22, 20:22, 2] = 1  # 4: 1 to 5
    truth[30, 30, 2] = 1  # 1: the bin 1 to 5 holds its lower edge
    truth[40:42, 40:43, 2:4] = 1  # 12: 5 to 30
    guess[5:7, 2:6, 2:6] = 1  # touches the first, 32 voxels
    guess[40, 40, 2] = 1  # touches the last with 1 of 12
    guess[50:52, 50, 2] = 1  # false, 2 mL
    affine = np.diag([10.0, 10.0, 10.0, 1.0])
    found = {
        (c.from_ml, c.to_ml): c for c in lesion_detection(_volume(truth, affine), _volume(guess, affine))
    }
    assert (found[1, 5].truth, found[1, 5].found, found[1, 5].predicted, found[1, 5].false) == (2, 0, 2, 1)
    assert (found[5, 30].truth, found[5, 30].found) == (1, 1)
    assert (found[30, float("inf")].truth, found[30, float("inf")].found) == (1, 1)
    assert np.isnan(found[0, 1].sensitivity)
    strict = lesion_detection(_volume(truth, affine), _volume(guess, affine), least_share=0.2)
    assert [c.found for c in strict] == [0, 0, 0, 1]
    total = sum(strict[1:], strict[0])
    assert (total.truth, total.predicted) == (4, 3)


def test_diagonal_neighbours_are_one_lesion() -> None:
    truth = np.zeros((6, 6, 6))
    truth[2, 2, 2] = truth[3, 3, 3] = 1
    counts = lesion_detection(_volume(truth), _volume(truth))
    assert sum(c.truth for c in counts) == 1


def test_other_grids_are_refused() -> None:
    a = sphere(radius_mm=6, spacing_mm=1.0)
    moved = Volume(a.array, a.affine + np.array([[0, 0, 0, 2.0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    for compare in (overlap, cl_dice, lesion_detection):
        with pytest.raises(InputRefused, match="another grid"):
            compare(a, moved)
