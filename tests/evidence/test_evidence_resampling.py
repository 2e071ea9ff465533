"""Intervals by resampling patients: what they equal, what they ignore, and how often they hold the truth."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ichnos.errors import InputRefused
from ichnos.evidence.metrics.agreement import concordance, intraclass, pearson, spearman
from ichnos.evidence.metrics.intervals import Estimate, bootstrap, mean_interval
from ichnos.evidence.metrics.resampling import (
    PairMoments,
    bca_mean,
    concordance_of,
    icc_of,
    pair_moments,
    pearson_of,
    percentile_bootstrap,
    resampled_concordance,
    resampled_icc,
    resampled_moments,
    resampled_pearson,
    resampled_spearman,
    spearman_of,
)

ALL = {
    "ccc": (resampled_concordance, concordance),
    "icc": (resampled_icc, lambda x, y: intraclass(np.column_stack([x, y]))),
    "pearson": (resampled_pearson, pearson),
    "spearman": (resampled_spearman, spearman),
}
SIGMA, NOISE = 0.76, 0.25  # a median of 20 mL with an IQR of 22 mL, as published cohorts of haematomas have


def volumes(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw true volumes and predictions with an error of a quarter."""
    truth = np.exp(rng.normal(3, SIGMA, n))
    return truth, truth * np.exp(rng.normal(0, NOISE, n))


def lognormal_truth() -> dict[str, float]:
    """Return the population's values, by the moments of the log-normal distribution."""
    s2, t2 = SIGMA**2, SIGMA**2 + NOISE**2
    mean_x, mean_y = np.exp(3 + s2 / 2), np.exp(3 + t2 / 2)
    var_x, var_y = (np.exp(6 + v) * (np.exp(v) - 1) for v in (s2, t2))
    covariance = np.exp(6 + (4 * s2 + NOISE**2) / 2) - mean_x * mean_y
    ccc = 2 * covariance / (var_x + var_y + (mean_x - mean_y) ** 2)
    rho = SIGMA / np.sqrt(t2)
    return {
        "ccc": ccc,
        "icc": ccc,  # for two measurements the two agree but for terms of order 1/n
        "pearson": covariance / np.sqrt(var_x * var_y),
        "spearman": 6 / np.pi * np.arcsin(rho / 2),
    }


def written_concordance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return concordance_of(pair_moments(x, y))


@pytest.mark.parametrize("name", list(ALL))
def test_perfect_agreement_of_a_few_bounds_nothing(name: str) -> None:
    found = ALL[name][0](np.arange(5.0), np.arange(5.0))
    assert found.value == pytest.approx(1)
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("resampled", [resampled_concordance, resampled_icc])
def test_resamples_of_one_patient_alone_are_left_out(resampled: Callable[..., Estimate]) -> None:
    found = resampled([1.0, 2, 3, 4, 5], [1.0, 2.2, 3, 4.5, 5])
    assert 0.1 < found.low < found.value, "no resample of one value stands for no agreement"


def test_one_case_has_no_interval() -> None:
    found = bootstrap(lambda at: float(at.mean()), [0], rng=np.random.default_rng(0))
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("name", list(ALL))
def test_the_value_is_that_of_the_closed_form(name: str) -> None:
    x, y = volumes(np.random.default_rng(0), 40)
    resampled, closed = ALL[name]
    assert resampled(x, y).value == pytest.approx(closed(x, y).value, rel=1e-9)


@pytest.mark.parametrize("statistic", [concordance_of, icc_of, pearson_of])
def test_counted_resamples_have_the_value_of_those_written_out(
    statistic: Callable[[PairMoments], np.ndarray],
) -> None:
    rng = np.random.default_rng(1)
    x = 1000 + rng.gamma(2, 10, 20)
    y = x + rng.normal(3, 5, 20)
    at = rng.integers(0, 20, (12, 20))
    counted, written = statistic(resampled_moments(x, y, at)), statistic(pair_moments(x[at], y[at]))
    assert counted.shape == (12,)
    assert counted == pytest.approx(written, rel=1e-7)
    assert counted[3] == pytest.approx(float(statistic(pair_moments(x[at[3]], y[at[3]]))), rel=1e-7)


def test_ranks_of_a_stack_are_those_of_each_row() -> None:
    x, y = np.random.default_rng(1).gamma(2, 10, (2, 3, 4, 20))
    together = spearman_of(x, y)
    assert together.shape == (3, 4)
    assert together[1, 2] == pytest.approx(float(spearman_of(x[1, 2], y[1, 2])))


def test_a_resample_of_one_patient_has_no_correlation() -> None:
    x, y = volumes(np.random.default_rng(9), 8)
    once = resampled_moments(x, y, np.full((1, 8), 3))
    assert once.var_x.item() == once.var_y.item() == 0
    with np.errstate(invalid="ignore", divide="ignore"):
        assert not np.isfinite(pearson_of(once)).any()


@pytest.mark.parametrize("name", list(ALL))
def test_the_same_data_give_the_same_interval(name: str) -> None:
    x, y = volumes(np.random.default_rng(2), 30)
    assert ALL[name][0](x, y) == ALL[name][0](x, y)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.1, 50), st.integers(0, 1000))
def test_a_change_of_unit_changes_nothing(scale: float, seed: int) -> None:
    x, y = volumes(np.random.default_rng(seed), 25)
    first, second = resampled_concordance(x, y), resampled_concordance(scale * x, scale * y)
    assert (first.low, first.high) == pytest.approx((second.low, second.high), rel=1e-6)


def test_ranks_do_not_see_a_logarithm() -> None:
    x, y = volumes(np.random.default_rng(3), 30)
    first, second = resampled_spearman(x, y), resampled_spearman(np.log1p(x), np.log1p(y))
    assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high))


def test_calibration_never_narrows_the_interval() -> None:
    for seed in range(5):
        x, y = volumes(np.random.default_rng(seed), 30)
        plain = percentile_bootstrap(written_concordance, x, y)
        calibrated = resampled_concordance(x, y)
        assert calibrated.low <= plain.low + 0.02
        assert calibrated.high >= plain.high - 0.02
        assert calibrated.high - calibrated.low >= 0.95 * (plain.high - plain.low)


def test_a_constant_column_is_undefined_and_four_pairs_are_refused() -> None:
    assert str(resampled_pearson([1, 1, 1, 1, 1], [1, 2, 3, 4, 5])) == "undefined"
    assert str(resampled_spearman([1, 1, 1, 1, 1], [1, 2, 3, 4, 5])) == "undefined"
    with pytest.raises(InputRefused, match="at least 5 are needed"):
        resampled_concordance([1, 2, 3, 4], [1, 2, 3, 4])
    with pytest.raises(InputRefused, match="NaN or infinite"):
        resampled_icc([1, 2, 3, 4, float("nan")], [1, 2, 3, 4, 5])


def test_the_mean_of_symmetric_data_has_nearly_students_interval() -> None:
    values = np.random.default_rng(4).normal(0.8, 0.05, 80)
    student, bca = mean_interval(values), bca_mean(values)
    assert bca.value == student.value
    assert (bca.low, bca.high) == pytest.approx((student.low, student.high), abs=0.004)


def test_a_long_tail_draws_the_interval_to_its_side() -> None:
    values = np.random.default_rng(5).beta(6, 0.8, 40)
    bca = bca_mean(values)
    assert bca.value - bca.low > bca.high - bca.value
    assert bca.high < 1


def test_undefined_cases_are_left_out_of_the_mean() -> None:
    values = [0.7, float("nan"), 0.8, 0.9, 0.85, 0.6, 0.75]
    assert bca_mean(values).n == 6
    assert bca_mean([0.7, 0.7, 0.7, 0.7, 0.7, 0.7]).low == pytest.approx(0.7)
    assert bca_mean([0.7, 0.8]) == mean_interval([0.7, 0.8])
    assert str(bca_mean([])) == "undefined"


def coverage(interval: Callable[[np.random.Generator], Estimate], truth: float, repeats: int) -> float:
    rng = np.random.default_rng(11)
    return float(np.mean([(e := interval(rng)).low <= truth <= e.high for _ in range(repeats)]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("n", [40, 100, 390])
@pytest.mark.parametrize("name", list(ALL))
def test_intervals_of_volumes_hold_the_truth(name: str, n: int, capsys: pytest.CaptureFixture[str]) -> None:
    repeats = {40: 1000, 100: 600, 390: 250}[n]
    covered = coverage(lambda rng: ALL[name][0](*volumes(rng, n)), lognormal_truth()[name], repeats)
    with capsys.disabled():
        sys.stdout.write(f" {name} n = {n}: {covered:.3f} of {repeats}\n")
    # 93 % is asked; a count of so few studies has a standard error of 0.8 to 1.6 %
    assert covered >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / repeats)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("n", "a", "b"), [(12, 6, 0.8), (30, 6, 0.8), (40, 4, 0.5), (60, 8, 2)])
def test_intervals_of_skewed_dice_hold_the_truth(
    n: int, a: float, b: float, capsys: pytest.CaptureFixture[str]
) -> None:
    covered = coverage(lambda rng: bca_mean(rng.beta(a, b, n), rng=rng), a / (a + b), 3000)
    with capsys.disabled():
        sys.stdout.write(f" n = {n}, beta({a:g}, {b:g}): {covered:.3f}\n")
    assert covered >= 0.935  # 94 % less a standard error of 0.4 %


def test_normal_theory_fails_on_volumes_and_resampling_does_not() -> None:
    truth = lognormal_truth()["ccc"]
    normal = coverage(lambda rng: concordance(*volumes(rng, 100)), truth, 200)
    resampled = coverage(
        lambda rng: percentile_bootstrap(written_concordance, *volumes(rng, 100), repeats=300), truth, 200
    )
    assert normal < 0.85 < resampled


def test_the_statistics_agree_with_scipy() -> None:
    x, y = volumes(np.random.default_rng(6), 33)
    assert float(pearson_of(pair_moments(x, y))) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert float(spearman_of(x, y)) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert float(concordance_of(pair_moments(x, x))) == pytest.approx(1)
