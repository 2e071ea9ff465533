"""A score says what was promised and what came, counts once, and survives its table."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from builders.audited import chance_score, volume_score
from ichnos.audit.score import interval_score, once, promised_level, score_of, scores_of_text, scores_text
from ichnos.errors import InputRefused


def test_an_interval_holds_its_ends_and_nothing_beyond() -> None:
    held = [volume_score(1, 20, truth).held for truth in (14.99, 15, 25, 25.01)]
    assert held == [False, True, True, False]


def test_without_a_promised_level_nothing_is_held_or_broken() -> None:
    score = volume_score(1, 20, 40)
    assert score.__class__(**{**score.__dict__, "level": None}).held is None


def test_the_loss_of_each_kind() -> None:
    assert chance_score(1, 0.25, True).loss == 0.5625
    base = chance_score(1, 0.8, True).__dict__
    assert chance_score(1, 0, False).__class__(**{**base, "kind": "overlap"}).loss == pytest.approx(0.2)
    grade = chance_score(1, 0, False).__class__(**{**base, "kind": "grade", "predicted": 2.0, "truth": 1.0})
    assert grade.loss == 1.0


def test_the_error_of_a_volume_is_nearly_a_factor() -> None:
    assert volume_score(1, 99, 199).error == pytest.approx(math.log(2))


def test_the_interval_score_is_least_for_the_true_distribution() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(20, 3, 4000)

    def mean(centre: float, sd: float) -> float:
        low, high = stats.norm(centre, sd).ppf([0.1, 0.9])
        return float(np.mean([interval_score(centre, low, high, t, level=0.8) for t in truth]))

    right = mean(20, 3)
    assert right < min(mean(21, 3), mean(19, 3), mean(20, 2.2), mean(20, 4.2))


@given(st.floats(0, 100), st.floats(0, 20), st.floats(0, 20), st.floats(0, 200))
def test_the_interval_score_is_never_negative(
    median: float, below: float, above: float, truth: float
) -> None:
    assert interval_score(median, median - below, median + above, truth, level=0.8) >= 0


def test_the_same_key_counts_once_and_the_first_holds() -> None:
    first, again = volume_score(1, 20, 22), volume_score(1, 30, 22)
    assert once([first, again, volume_score(2, 1, 1)]) == [first, volume_score(2, 1, 1)]


def test_scores_come_back_from_their_table() -> None:
    scores = [volume_score(1, 20.5, 22, month="2026-01", thickness_mm=5.0), chance_score(2, 0.3, False)]
    assert scores_of_text(scores_text(scores)) == scores


@pytest.mark.parametrize("change", [{"kind": "guess"}, {"truth": ""}, {"predicted": "much"}])
def test_a_row_that_is_no_score_is_refused_with_its_line(change: dict[str, str]) -> None:
    with pytest.raises(InputRefused, match="line 7 is not a score"):
        score_of({**volume_score(1, 2, 3).__dict__, **change}, where="x, line 7")


def test_refits_and_threshold_bands_promise_no_coverage() -> None:
    assert promised_level("90 % of refits on resampled patients") is None
    assert promised_level("80 % prediction interval, widened because …") == 0.8
