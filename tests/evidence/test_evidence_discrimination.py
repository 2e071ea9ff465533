"""Areas, tests and rates against published numbers, scikit-learn, statsmodels and the pairwise twin."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from ichnos.errors import InputRefused
from ichnos.evidence.metrics import discrimination
from ichnos.evidence.metrics.discrimination import (
    auc,
    compare_paired,
    holm,
    precision_recall_auc,
    roc_curve,
)
from ichnos.evidence.metrics.intervals import bootstrap, mean_interval, proportion
from ichnos.evidence.metrics.thresholds import (
    OperatingPoint,
    at_prevalence,
    predictive_values,
    rates,
    sensitivity_point,
    youden_point,
)

# Hanley & McNeil 1982, Radiology 143:29, Table 1: CT ratings 1 to 5 of 58 normal and 51 abnormal patients.
NORMAL, ABNORMAL = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
OUTCOME = np.repeat([0, 1], [58, 51])
RATING = np.concatenate([np.repeat([1, 2, 3, 4, 5], NORMAL), np.repeat([1, 2, 3, 4, 5], ABNORMAL)])


def test_hanley_and_mcneils_example_with_delongs_error() -> None:
    found = auc(OUTCOME, RATING)
    assert found.value == pytest.approx(0.8932, abs=5e-5)
    assert found.se == pytest.approx(0.0307, abs=5e-5)  # as Stata's roctab prints it for the same table
    wald = found.value - 1.959964 * found.se, found.value + 1.959964 * found.se
    assert wald == pytest.approx((0.83295, 0.95339), abs=1e-5)
    assert found.low < found.value < found.high < 1


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 60), st.booleans())
def test_the_fast_area_is_its_twin_and_that_of_scikit_learn(seed: int, n: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    events = rng.random(n) < 0.4
    events[:4] = [True, True, False, False]
    score = np.round(rng.normal(size=n) + events, 0 if ties else 6)
    found = auc(events, score)
    assert (found.value, found.se) == pytest.approx(discrimination._slow_auc(events, score), abs=1e-12)
    assert found.value == pytest.approx(metrics.roc_auc_score(events, score))
    assert auc(~events, -score).value == pytest.approx(found.value)
    assert auc(events, np.exp(score)).se == pytest.approx(found.se)


def test_paired_test_uses_the_covariance() -> None:
    rng = np.random.default_rng(1)
    events = rng.random(300) < 0.3
    first = rng.normal(size=300) + events
    second = first + rng.normal(0, 0.3, 300)
    found = compare_paired(events, first, second)
    a, b = auc(events, first), auc(events, second)
    assert found.value == pytest.approx(a.value - b.value)
    paired_se = (found.high - found.low) / (2 * 1.959964)
    assert paired_se < 0.5 * np.hypot(a.se, b.se)
    jackknife = _jackknife_se(events, first, second)
    assert paired_se == pytest.approx(jackknife, rel=0.05)
    same = compare_paired(events, first, first)
    assert (same.z, same.p) == (0.0, 1.0)


def _jackknife_se(events: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Leave each case out in turn: an independent estimate of the error of a paired difference."""
    left = []
    for i in range(events.size):
        keep = np.arange(events.size) != i
        left.append(
            metrics.roc_auc_score(events[keep], first[keep])
            - metrics.roc_auc_score(events[keep], second[keep])
        )
    return float(np.sqrt((events.size - 1) / events.size * np.sum((left - np.mean(left)) ** 2)))


@pytest.mark.parametrize(
    ("outcome", "first", "second"),
    [([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], [0.5] * 4), ([0, 0, 1], [0.1, 0.3, 0.2], [0.3, 0.1, 0.2])],
)
def test_a_difference_without_a_spread_has_no_interval(
    outcome: list[int], first: list[float], second: list[float]
) -> None:
    found = compare_paired(outcome, first, second)
    assert np.isnan([found.low, found.high, found.z, found.p]).all()
    same = compare_paired([0, 0, 1, 1], first[:1] * 2 + [0.7, 0.9], first[:1] * 2 + [0.7, 0.9])
    assert (same.value, same.p) == (0, 1), "a score is no better than itself"


def test_the_null_is_rejected_as_often_as_promised() -> None:
    rng = np.random.default_rng(3)
    p = []
    for _ in range(1000):
        events = rng.random(120) < 0.35
        common = rng.normal(size=120) + 0.8 * events
        p.append(compare_paired(events, common + rng.normal(0, 0.7, 120), common + rng.normal(0, 0.7, 120)).p)
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.02)


def test_average_precision_and_curve_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    events = rng.random(200) < 0.25
    score = np.round(rng.normal(size=200) + events, 1)
    found = precision_recall_auc(events, score, rng=rng, repeats=200)
    assert found.value == pytest.approx(metrics.average_precision_score(events, score))
    assert found.low < found.value < found.high
    curve = roc_curve(events, score)
    false, true, threshold = metrics.roc_curve(events, score, drop_intermediate=False)
    assert curve.false_positive_rate == pytest.approx(false)
    assert curve.true_positive_rate == pytest.approx(true)
    assert curve.threshold[1:] == pytest.approx(threshold[1:])


def test_bootstrap_and_delong_agree_and_the_generator_decides() -> None:
    rng = np.random.default_rng(5)
    events = rng.random(250) < 0.3
    score = rng.normal(size=250) + 1.2 * events

    def area(at: np.ndarray) -> float:
        return auc(events[at], score[at]).value

    found = bootstrap(area, events, rng=np.random.default_rng(9), repeats=800)
    exact = auc(events, score)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.02)
    assert found == bootstrap(area, events, rng=np.random.default_rng(9), repeats=800)


def test_resamples_keep_each_group_as_large_as_it_is() -> None:
    groups = np.array([0] * 5 + [1] * 20)
    seen = []

    def share(at: np.ndarray) -> float:
        seen.append(int((groups[at] == 0).sum()))
        return 0.0

    bootstrap(share, groups, rng=np.random.default_rng(0), repeats=50)
    assert set(seen) == {5}


def test_wilson_and_t_intervals_are_those_of_statsmodels_and_scipy() -> None:
    for k, n in ((0, 10), (3, 10), (10, 10), (57, 93)):
        found = proportion(k, n)
        low, high = proportion_confint(k, n, method="wilson")
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert np.isnan(proportion(0, 0).value)
    from scipy import stats

    x = np.random.default_rng(0).normal(size=12)
    expected = stats.t.interval(0.95, 11, x.mean(), stats.sem(x))
    found = mean_interval([*x, float("nan")])
    assert (found.low, found.high, found.n) == (pytest.approx(expected[0]), pytest.approx(expected[1]), 12)


def test_holm_is_that_of_statsmodels() -> None:
    p = [0.001, 0.2, 0.03, 0.04, 0.9]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert np.isnan(holm([0.01, float("nan"), 0.04])[1])
    assert holm([0.01, float("nan"), 0.04])[0] == pytest.approx(0.02)


def test_rates_at_a_point_chosen_elsewhere() -> None:
    events = np.array([0, 0, 0, 0, 1, 1, 1, 0, 1, 1])
    score = np.array([0.1, 0.2, 0.3, 0.6, 0.4, 0.7, 0.8, 0.5, 0.9, 0.2])
    found = rates(events, score, OperatingPoint(0.4, "given", "beforehand"))
    tn, fp, fn, tp = metrics.confusion_matrix(events, score >= 0.4).ravel()
    assert (found.true_negative, found.false_positive, found.false_negative, found.true_positive) == (
        tn,
        fp,
        fn,
        tp,
    )
    assert found.sensitivity.value == pytest.approx(metrics.recall_score(events, score >= 0.4))
    assert found.ppv.value == pytest.approx(metrics.precision_score(events, score >= 0.4))
    assert youden_point(events, score, chosen_on="validation").threshold in score
    full = sensitivity_point(events, score, sensitivity=1.0, chosen_on="validation")
    assert rates(events, score, full).sensitivity.value == 1.0


def test_published_predictive_values_follow_from_the_rates() -> None:
    # Yu 2025, 1:2: external 1 has sensitivity .661, specificity .771, prevalence .218, and prints PPV .446,
    # NPV .890
    ppv, npv = predictive_values(sensitivity=0.661, specificity=0.771, prevalence=0.218)
    assert (ppv, npv) == pytest.approx((0.446, 0.890), abs=0.002)


def test_prevalence_shift_undoes_balancing() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=200_000)
    events = rng.random(x.size) < 1 / (1 + np.exp(-(x - 2)))
    truth = events.mean()
    balanced = 1 / (1 + np.exp(-(x - 2 - np.log(truth / (1 - truth)))))  # what a model trained at 1:1 says
    mended = at_prevalence(balanced, trained_at=0.5, true_prevalence=truth)
    assert balanced.mean() > truth + 0.1
    assert mended.mean() == pytest.approx(truth, abs=0.003)
    assert auc(events, mended).value == pytest.approx(auc(events, balanced).value)
    with pytest.raises(InputRefused, match="0 to 1"):
        at_prevalence([1.2], trained_at=0.5, true_prevalence=0.2)


def test_bad_scores_are_named_and_edge_cases_defined() -> None:
    with pytest.raises(InputRefused, match="at least one case of each class"):
        auc([1, 1, 1], [0.1, 0.2, 0.3])
    with pytest.raises(InputRefused, match="1 NaN or infinite value"):
        auc([0, 1, 1], [0.1, float("nan"), 0.3])
    with pytest.raises(InputRefused, match="other than 0 and 1"):
        auc([0, 1, 2], [0.1, 0.2, 0.3])
    constant = auc([0, 1, 0, 1], [0.5] * 4)
    assert (constant.value, constant.se) == (0.5, 0.0)
    perfect = auc([0, 0, 1, 1], [1, 2, 3, 4])
    assert perfect.value == 1.0
    assert np.isnan([perfect.low, perfect.high]).all()


def test_a_hundred_thousand_cases_take_less_than_a_second() -> None:
    rng = np.random.default_rng(0)
    events = rng.random(100_000) < 0.2
    score = rng.normal(size=events.size) + events
    began = time.perf_counter()
    found = auc(events, score)
    assert time.perf_counter() - began < 1.0
    assert found.value == pytest.approx(0.76, abs=0.01)
