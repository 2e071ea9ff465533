"""Agreement against published worked examples, other libraries and exact lines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from ichnos.errors import InputRefused
from ichnos.evidence.metrics.agreement import (
    VolumeCalibrator,
    bland_altman,
    concordance,
    fit_volume_calibrator,
    intraclass,
    passing_bablok,
    pearson,
    spearman,
    weighted_kappa,
)

# Bland & Altman 1986, Lancet 327:307, Table 1: peak flow by the large and the mini Wright meter, first
# measurement of each.
LARGE = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
# Shrout & Fleiss 1979, Psychol Bull 86:420, Table 2: six targets, four judges.
JUDGES = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def test_bland_and_altmans_own_example() -> None:
    found = bland_altman(LARGE, MINI)
    assert found.bias.value == pytest.approx(-2.1, abs=0.05)
    assert found.sd == pytest.approx(38.8, abs=0.05)
    assert (found.bias.low, found.bias.high) == pytest.approx((-22.0, 17.8), abs=0.1)
    assert (found.lower.value, found.upper.value) == pytest.approx(
        (-79.7, 75.5), abs=1.7
    )  # the paper uses 2 SD, we 1.96
    assert found.lower.value == pytest.approx(-2.1176 - 1.959964 * 38.7651, abs=0.01)
    half = found.upper.high - found.upper.value
    assert half == pytest.approx(
        2.12 * 16.3, rel=0.05
    )  # the paper's standard error of a limit is sqrt(3 s2 / n) = 16.3
    assert found.slope.value == pytest.approx(
        stats.linregress((np.array(LARGE) + MINI) / 2, np.array(LARGE) - MINI).slope
    )
    assert pearson(LARGE, MINI).value == pytest.approx(0.94, abs=0.005)  # as the paper says


def test_proportional_limits_find_an_error_that_grows() -> None:
    truth = np.linspace(1, 100, 60)
    found = bland_altman(truth * 1.1, truth, percent=True)
    assert found.bias.value == pytest.approx(100 * 0.1 / 1.05)
    assert found.sd == pytest.approx(0, abs=1e-9)
    assert bland_altman(truth * 1.1, truth).slope.value == pytest.approx(0.1 / 1.05)
    with pytest.raises(InputRefused, match="positive mean"):
        bland_altman([0, 1, 2], [0, 1, 2], percent=True)


def test_shrout_and_fleiss_own_example() -> None:
    found = intraclass(JUDGES)
    assert found.value == pytest.approx(0.29, abs=0.005)
    assert (found.low, found.high) == pytest.approx((0.019, 0.761), abs=0.002)


def test_intraclass_of_identical_and_constant_raters() -> None:
    assert intraclass([[1, 1], [2, 2], [3, 3], [5, 5]]).value == 1.0
    assert np.isnan(intraclass([[2, 2], [2, 2], [2, 2]]).value)
    with pytest.raises(InputRefused, match="shape"):
        intraclass([[1, 2], [3, float("nan")], [1, 1]])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(0.2, 3))
def test_concordance_is_its_definition(seed: int, shift: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=40)
    y = shift + scale * x + rng.normal(0, 0.5, 40)
    found = concordance(x, y)
    assert found.value == pytest.approx(
        1 - np.mean((x - y) ** 2) / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    )
    assert found.low <= found.value <= found.high
    assert abs(found.value) <= abs(pearson(x, y).value) + 1e-12


def test_concordance_falls_with_bias_where_correlation_does_not() -> None:
    x = np.linspace(0, 50, 100)
    y = 0.6 * x + 2
    assert pearson(x, y).value == pytest.approx(1.0)
    assert concordance(x, y).value < 0.85


def test_correlations_are_those_of_scipy() -> None:
    rng = np.random.default_rng(2)
    x = rng.gamma(2, 10, 60)
    y = x + rng.normal(0, 8, 60)
    theirs = stats.pearsonr(x, y)
    ours = pearson(x, y)
    assert ours.value == pytest.approx(theirs.statistic)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert spearman(x, y).value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert np.isnan(pearson([1, 1, 1, 1], [1, 2, 3, 4]).value)


def _slow_slope(x: list[float], y: list[float]) -> float:
    slopes = []
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            if x[i] == x[j] and y[i] == y[j]:
                continue
            slope = (y[j] - y[i]) / (x[j] - x[i]) if x[i] != x[j] else np.inf * np.sign(y[j] - y[i])
            if slope != -1:
                slopes.append(slope)
    slopes.sort()
    shift, n = sum(s < -1 for s in slopes), len(slopes)
    return (
        slopes[(n - 1) // 2 + shift] if n % 2 else (slopes[n // 2 - 1 + shift] + slopes[n // 2 + shift]) / 2
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(8, 25))
def test_passing_bablok_is_its_definition(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.round(rng.gamma(2, 5, n), 1)
    y = np.round(2 + 1.2 * x + rng.normal(0, 1.5, n), 1)
    line = passing_bablok(x, y)
    assert line.slope.value == pytest.approx(_slow_slope(x.tolist(), y.tolist()))
    assert line.intercept.value == pytest.approx(np.median(y - line.slope.value * x))
    assert line.slope.low <= line.slope.value <= line.slope.high


def test_passing_bablok_treats_both_methods_alike() -> None:
    rng = np.random.default_rng(5)
    truth = rng.gamma(2, 10, 80)
    x, y = truth + rng.normal(0, 1, 80), 3 + 0.8 * truth + rng.normal(0, 1, 80)
    there, back = passing_bablok(x, y), passing_bablok(y, x)
    assert there.slope.value == pytest.approx(1 / back.slope.value, rel=1e-6)
    assert there.slope.low < 0.8 < there.slope.high
    wild = y.copy()
    wild[:4] += 500
    assert passing_bablok(x, wild).slope.value == pytest.approx(there.slope.value, abs=0.05)


def test_weighted_kappa_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 4, 120)
    b = np.clip(a + rng.integers(-1, 2, 120), 0, 3)
    found = weighted_kappa(a, b, grades=4)
    assert found.value == pytest.approx(cohen_kappa_score(a, b, weights="quadratic"))
    assert found.low < found.value < found.high <= 1
    assert np.isnan(weighted_kappa([1, 1, 1], [1, 1, 1], grades=4).value)
    assert np.isnan(weighted_kappa([2, 2, 2], [1, 2, 3], grades=4).value)
    with pytest.raises(InputRefused, match="outside 0 to 3"):
        weighted_kappa([0, 5], [1, 1], grades=4)


def test_raters_who_always_agree_have_no_interval() -> None:
    found = weighted_kappa([0, 1], [0, 1], grades=3)
    assert found.value == 1
    assert np.isnan([found.low, found.high]).all()


def test_a_calibrator_is_frozen_and_mends_concordance_on_other_cases() -> None:
    rng = np.random.default_rng(8)
    truth = rng.gamma(2, 8, 200)
    predicted = 0.55 * truth + 1 + rng.normal(0, 1, 200)
    calibrator = fit_volume_calibrator(predicted[:100], truth[:100], fitted_on="validation")
    raw, mended = (
        concordance(predicted[100:], truth[100:]),
        concordance(calibrator(predicted[100:]), truth[100:]),
    )
    assert mended.low > raw.high
    assert (calibrator([0.0]) >= 0).all()
    assert VolumeCalibrator(**calibrator.as_dict()) == calibrator


def test_bad_columns_are_refused_by_name() -> None:
    with pytest.raises(InputRefused, match="1 NaN or infinite value"):
        concordance([1, 2, float("nan")], [1, 2, 3])
    with pytest.raises(InputRefused, match="pairs of the same cases"):
        bland_altman([1, 2, 3], [1, 2, 3, 4])
    with pytest.raises(InputRefused, match="at least 5"):
        passing_bablok([1, 2], [1, 2])
    with pytest.raises(InputRefused, match="same first measurement"):
        passing_bablok([2, 2, 2, 2, 2], [1, 2, 3, 4, 5])
