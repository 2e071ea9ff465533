"""What a site learns from its pairs: intervals that hold again, probabilities that mean what they say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from builders.audited import chance_score, volume_score
from ichnos.audit.recalibration import chance_of, recalibrate, scaling_of, what_pairs_allow
from ichnos.audit.score import Score
from ichnos.errors import InputRefused
from ichnos.prognosis.site import (
    SITE_FILE,
    ChanceShift,
    IntervalScaling,
    SiteRecalibration,
    from_scaled,
    load_site_recalibration,
    scaled_error,
)
from ichnos.prognosis.store import plain_text

INTERVALS = st.tuples(st.floats(0.5, 80), st.floats(0.1, 0.9), st.floats(1.1, 3)).map(
    lambda t: (t[0], t[0] * t[1], t[0] * t[2])
)


@given(INTERVALS, st.floats(-3, 3))
def test_a_place_in_an_interval_and_the_truth_there_are_inverse(
    interval: tuple[float, float, float], scaled: float
) -> None:
    truth = from_scaled(scaled, *interval)
    if truth > 0:
        assert scaled_error(truth, *interval) == pytest.approx(scaled, abs=1e-6)


@given(INTERVALS)
def test_the_old_limits_leave_an_interval_as_it_is(interval: tuple[float, float, float]) -> None:
    same = IntervalScaling(low=-1, middle=0, high=1, pairs=20, level=0.8).applied(*interval)
    assert same == pytest.approx((interval[1], interval[0], interval[2]))


def test_limits_must_rise_and_volumes_stay_above_zero() -> None:
    with pytest.raises(ValidationError, match="must rise"):
        IntervalScaling(low=1, middle=0, high=2, pairs=20, level=0.8)
    far = IntervalScaling(low=-9, middle=0, high=1, pairs=20, level=0.8)
    assert far.applied(1.0, 0.2, 3.0)[0] == 0.0


def biased(n: int, factor: float, seed: int = 0) -> list[Score]:
    """Return scores of a reader that reads too little by a factor, with intervals for a factor of one."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(8, 60, n)
    read = np.expm1(np.log1p(truth) - math.log(factor) + rng.normal(0, 0.2, n))
    return [
        volume_score(k, r, t).__class__(
            **{**volume_score(k, r, t).__dict__, "low": r * 0.77, "high": r * 1.29}
        )
        for k, (r, t) in enumerate(zip(read, truth, strict=True))
    ]


def coverage(scores: list[Score], scaling: IntervalScaling) -> float:
    held = []
    for s in scores:
        assert s.low is not None
        assert s.high is not None
        low, _, high = scaling.applied(s.predicted, s.low, s.high)
        held.append(low <= s.truth <= high)
    return float(np.mean(held))


def test_forty_pairs_bring_a_biased_interval_back() -> None:
    later = biased(2000, 1.6, seed=99)
    assert np.mean([bool(s.held) for s in later]) < 0.3
    after = [coverage(later, scaling_of(biased(40, 1.6, seed=k), level=0.8)) for k in range(40)]
    assert np.mean(after) == pytest.approx(0.8, abs=0.03)


def judged_by_an_exam_that_errs(n: int, sd: float, seed: int) -> list[Score]:
    """Return scores of an unbiased reader by an exam that errs by this standard deviation of ln(1 + mL)."""
    noise = np.random.default_rng([seed, 1]).normal(0, sd, n)
    return [
        replace(s, truth=float(np.expm1(np.log1p(s.truth) + e)))
        for s, e in zip(biased(n, 1.0, seed), noise, strict=True)
    ]


def test_the_error_of_the_exam_does_not_widen_the_interval_once_it_is_known() -> None:
    taught = judged_by_an_exam_that_errs(2000, 0.15, seed=5)
    truth = biased(4000, 1.0, seed=6)
    left_in, taken_out = (coverage(truth, scaling_of(taught, level=0.8, exam_sd=sd)) for sd in (0.0, 0.15))
    assert left_in > 0.85
    assert taken_out == pytest.approx(0.8, abs=0.02)


def test_the_median_stays_and_an_error_that_explains_most_of_the_scatter_is_refused() -> None:
    taught = judged_by_an_exam_that_errs(200, 0.15, seed=7)
    plain, without = (scaling_of(taught, level=0.8, exam_sd=sd) for sd in (0.0, 0.1))
    assert without.middle == pytest.approx(plain.middle)
    assert plain.low < without.low < without.high < plain.high
    with pytest.raises(InputRefused, match=r"errs by 0\.5 would explain .* measure it again"):
        scaling_of(taught, level=0.8, exam_sd=0.5)


def test_the_error_of_an_exam_is_kept_and_one_of_an_unknown_quantity_is_refused() -> None:
    fitted = recalibrate(biased(40, 1.2), exam_sd={"followup_volume": 0.05})
    assert fitted.intervals["followup_volume"].exam_sd == 0.05
    with pytest.raises(InputRefused, match=r"given for ich_volume.*recalibrated are followup_volume"):
        recalibrate(biased(40, 1.2), exam_sd={"ich_volume": 0.05})


@given(st.integers(20, 60), st.sampled_from([0.5, 0.8, 0.9]))
def test_limits_lie_between_the_order_statistics_that_split_conformal_names(n: int, level: float) -> None:
    scores = biased(n, 1.0, seed=n)
    errors = sorted(
        scaled_error(s.truth, s.predicted, s.low, s.high)
        for s in scores
        if s.low is not None and s.high is not None
    )
    rank, scaling = (n + 1) * (1 - level) / 2, scaling_of(scores, level=level)
    assert errors[max(0, math.floor(rank) - 1)] - 1e-9 <= scaling.low <= errors[math.ceil(rank) - 1] + 1e-9
    assert errors[n - math.ceil(rank)] - 1e-9 <= scaling.high <= errors[n - max(1, math.floor(rank))] + 1e-9


def test_an_interval_that_holds_is_hardly_moved() -> None:
    scaling = scaling_of(biased(400, 1.0), level=0.8)
    assert (scaling.low, scaling.middle, scaling.high) == pytest.approx((-1, 0, 1), abs=0.25)


def test_few_outcomes_hardly_move_a_probability_and_many_do() -> None:
    rng = np.random.default_rng(2)
    p = rng.uniform(0.1, 0.5, 2000)
    y = (rng.uniform(size=2000) < p / 2).tolist()
    few, many = chance_of(p[:20].tolist(), y[:20]), chance_of(p.tolist(), y)
    assert abs(many.applied(0.3) - 0.15) < 0.03
    assert abs(few.intercept) < abs(many.intercept) + 0.5
    assert abs(few.slope - 1) < 0.3


def test_no_event_at_all_gives_a_finite_shift() -> None:
    shift = chance_of([0.3] * 25, [False] * 25)
    assert -3 < shift.intercept < 0
    assert 0 < shift.applied(0.3) < 0.3


def test_a_probability_of_nothing_or_everything_stays_one() -> None:
    shift = ChanceShift(intercept=0.5, slope=1.2, pairs=20)
    assert 0 < shift.applied(0.0) < shift.applied(1.0) < 1


def test_each_quantity_needs_its_own_pairs() -> None:
    scores = [*biased(30, 1.3), *[chance_score(k, 0.2, k % 5 == 0) for k in range(12)]]
    fitted = recalibrate(scores, site="north")
    assert set(fitted.intervals) == {"followup_volume"}
    assert not fitted.chances
    assert fitted.pairs == 30
    with pytest.raises(InputRefused, match=r"20 pairs of a quantity are needed.*12 of followup_volume"):
        recalibrate(biased(12, 1.3))


def test_scores_of_two_models_are_refused() -> None:
    other = biased(1, 1.0)[0]
    mixed = [*biased(30, 1.0), other.__class__(**{**other.__dict__, "model": "cd"})]
    with pytest.raises(InputRefused, match="of 2 models"):
        recalibrate(mixed)


def test_what_was_fitted_comes_back_from_its_file(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    assert load_site_recalibration(folder) is None
    fitted = recalibrate([*biased(30, 1.3), *[chance_score(k, 0.2, k % 4 == 0) for k in range(30)]])
    (folder / SITE_FILE).write_text(plain_text(fitted))
    back = load_site_recalibration(folder)
    assert isinstance(back, SiteRecalibration)
    assert back.interval("followup_volume", 20, 15, 26) == pytest.approx(
        fitted.interval("followup_volume", 20, 15, 26), rel=1e-4
    )
    assert back.interval("ich_volume", 20, 15, 26) is None


def test_what_pairs_allow_is_said_with_their_number() -> None:
    assert "too few" in what_pairs_allow(19)
    assert "give or take 6 points" in what_pairs_allow(40)
    assert "refitted" in what_pairs_allow(150)
