"""What may be looked at every day keeps its promise at every look, and notices what is false."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ichnos.audit.monitoring.betting import (
    calibration_evidence,
    coverage_evidence,
    difference_sequence,
    mean_sequence,
    pairs_until_alarm,
)
from ichnos.errors import InputRefused

TWENTY = math.log(20)


def test_the_mean_stays_inside_at_every_look_in_nearly_all_runs() -> None:
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(60):
        sequence = mean_sequence(rng.uniform(size=150) < 0.3)
        missed += bool(((sequence.low > 0.3) | (sequence.high < 0.3)).any())
    assert missed <= 6  # 5 % of 60 is 3; more than 6 has a probability of 3 %


def test_bounds_only_tighten_and_close_in() -> None:
    sequence = mean_sequence(np.random.default_rng(1).uniform(size=600))
    assert (np.diff(sequence.low) >= 0).all()
    assert (np.diff(sequence.high) <= 0).all()
    assert sequence.high[-1] - sequence.low[-1] < 0.12
    assert sequence.last.n == 600


def test_other_ranges_are_the_same_sequence_rescaled() -> None:
    x = np.random.default_rng(2).uniform(size=50)
    plain, wide = mean_sequence(x), mean_sequence(4 * x - 2, low=-2, high=2)
    assert np.allclose(wide.low, 4 * plain.low - 2)
    assert np.allclose(wide.mean, 4 * plain.mean - 2)


def test_values_outside_the_range_are_refused_and_none_has_no_interval() -> None:
    with pytest.raises(InputRefused, match="do not lie in 0 to 1"):
        mean_sequence([0.5, 1.5])
    assert math.isnan(mean_sequence([]).last.value)


@pytest.mark.parametrize("true", [0.8, 0.9])
def test_a_kept_promise_is_seldom_doubted(true: float) -> None:
    rng = np.random.default_rng(5)
    doubted = sum(coverage_evidence(rng.uniform(size=400) < true, 0.8).max() > TWENTY for _ in range(200))
    assert doubted <= 16  # at most 5 % of 200 expected; above 16 has a probability of 2 %


def test_a_broken_promise_is_noticed_the_sooner_the_worse_it_is() -> None:
    rng = np.random.default_rng(6)

    def median_pairs(true: float) -> float:
        first = []
        for _ in range(20):
            over = np.flatnonzero(coverage_evidence(rng.uniform(size=1500) < true, 0.8) > TWENTY)
            first.append(over[0] if over.size else 1500)
        return float(np.median(first))

    assert median_pairs(0.5) < 40 < median_pairs(0.7) < 400


def test_no_bet_beats_the_information_of_a_pair() -> None:
    assert pairs_until_alarm(0.8, 0.75) > 400
    assert pairs_until_alarm(0.8, 0.75, price=10) > pairs_until_alarm(0.8, 0.75)
    assert pairs_until_alarm(0.8, 0.5) < 20


def test_probabilities_that_mean_what_they_say_are_not_doubted_and_others_are() -> None:
    rng = np.random.default_rng(7)
    p = rng.uniform(0.02, 0.6, 500)
    y = rng.uniform(size=500) < p
    assert calibration_evidence(y, p).max() < TWENTY
    assert calibration_evidence(y, np.minimum(2 * p, 0.98))[-1] > TWENTY
    assert calibration_evidence(y, np.full(500, 0.02))[-1] > TWENTY


def test_a_smaller_loss_is_told_with_its_sign() -> None:
    rng = np.random.default_rng(8)
    worse, better = rng.uniform(0.2, 0.6, 400), rng.uniform(0.0, 0.4, 400)
    assert difference_sequence(worse, better).low[-1] > 0
    assert difference_sequence(better, worse).high[-1] < 0
    same = difference_sequence(worse, worse)
    assert same.low[-1] <= 0 <= same.high[-1]


def test_nothing_has_no_evidence() -> None:
    assert len(coverage_evidence([], 0.8)) == len(calibration_evidence([], [])) == 0
