"""Calibration, recalibration, decision curves and conformal sets against scikit-learn, simulation and hand
counts.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import _sigmoid_calibration, calibration_curve
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from ichnos.errors import InputRefused
from ichnos.evidence.metrics.calibration import calibration, decision_curve, logit
from ichnos.evidence.metrics.recalibration import conformal_rates, fit_conformal, fit_recalibrator, label_sets


def _cases(n: int, *, slope: float = 1.0, shift: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw outcomes with true log odds x, and a model that says shift + x / slope."""
    rng = np.random.default_rng(seed)
    x = rng.normal(-1, 1.2, n)
    events = rng.random(n) < 1 / (1 + np.exp(-x))
    return events, 1 / (1 + np.exp(-(shift + x / slope)))


def test_a_true_model_is_calibrated_and_a_loud_one_is_not() -> None:
    events, p = _cases(20_000)
    found = calibration(events, p)
    assert found.slope.value == pytest.approx(1.0, abs=0.05)
    assert found.intercept.value == pytest.approx(0.0, abs=0.05)
    assert found.observed_over_expected == pytest.approx(1.0, abs=0.03)
    assert found.ici < 0.012
    assert found.ece < 0.015
    loud = calibration(*_cases(20_000, slope=0.5))
    assert loud.slope.value == pytest.approx(0.5, abs=0.03)
    shifted = calibration(*_cases(20_000, shift=1.0))
    assert shifted.intercept.value == pytest.approx(-1.0, abs=0.06)
    assert shifted.observed_over_expected < 0.8
    assert shifted.ici > 0.1


def test_numbers_are_those_of_scikit_learn() -> None:
    events, p = _cases(600, slope=0.7)
    found = calibration(events, p)
    assert found.brier == pytest.approx(brier_score_loss(events, p))
    observed, predicted = calibration_curve(events, p, n_bins=10, strategy="quantile")
    assert [b.predicted for b in found.bins] == pytest.approx(predicted)
    assert [b.observed.value for b in found.bins] == pytest.approx(observed)
    line = LogisticRegression(C=np.inf).fit(logit(p)[:, None], events)
    assert found.slope.value == pytest.approx(float(line.coef_[0, 0]), rel=1e-3)


def test_edge_cases_are_defined() -> None:
    constant = calibration([0, 1, 0, 1, 1], [0.5] * 5)
    assert np.isnan(constant.slope.value)
    assert constant.intercept.value == pytest.approx(np.log(0.6 / 0.4))
    assert len(constant.bins) == 1
    separated = calibration([0] * 10 + [1] * 10, [0.1] * 5 + [0.2] * 5 + [0.8] * 5 + [0.9] * 5)
    assert np.isnan(separated.slope.value)
    with pytest.raises(InputRefused, match="fit Platt scaling first"):
        calibration([0, 1], [-1.0, 2.0])
    with pytest.raises(InputRefused, match="each class"):
        calibration([1, 1], [0.4, 0.6])


@pytest.mark.parametrize(("n", "defined"), [(2, [False, True]), (4, [True, True])])
def test_a_line_needs_more_patients_than_it_has_parameters(n: int, defined: list[bool]) -> None:
    events = np.array([True, False, True, False])[:n]
    found = calibration(events, np.array([0.6, 0.5, 0.55, 0.58])[:n])
    assert [np.isfinite(one.value) for one in (found.slope, found.intercept)] == defined


def test_platt_isotonic_and_temperature_are_those_of_their_authors() -> None:
    events, p = _cases(500, slope=0.5, seed=3)
    score = logit(p)
    platt = fit_recalibrator(events, score, method="platt", fitted_on="validation")
    a, b = _sigmoid_calibration(score, events)
    assert platt(score) == pytest.approx(1 / (1 + np.exp(a * score + b)), abs=2e-4)
    isotonic = fit_recalibrator(events, score, method="isotonic", fitted_on="validation")
    theirs = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(score, events)
    elsewhere = np.linspace(-9, 9, 101)
    assert isotonic(elsewhere) == pytest.approx(theirs.predict(elsewhere))
    temperature = fit_recalibrator(
        *_cases(20_000, slope=0.5, seed=4), method="temperature", fitted_on="validation"
    )
    assert temperature.knots[0] == pytest.approx(2.0, abs=0.1)  # a model twice too loud is cooled by two


def test_recalibration_mends_other_cases() -> None:
    tuning, evaluated = _cases(1500, slope=0.4, shift=0.8, seed=5), _cases(1500, slope=0.4, shift=0.8, seed=6)
    before = calibration(*evaluated)
    for method in ("platt", "isotonic"):
        fitted = fit_recalibrator(tuning[0], logit(tuning[1]), method=method, fitted_on="validation")
        after = calibration(evaluated[0], fitted(logit(evaluated[1])))
        assert after.brier < before.brier
        assert after.ici < 0.4 * before.ici
        assert fitted.fitted_on == "validation"
    with pytest.raises(InputRefused, match="same for every case"):
        fit_recalibrator([0, 1, 0], [0.3, 0.3, 0.3], method="platt", fitted_on="validation")


def test_platt_has_a_finite_fit_on_separated_cases() -> None:
    fitted = fit_recalibrator([0, 0, 0, 1, 1], [1, 2, 3, 4, 5], method="platt", fitted_on="validation")
    assert np.isfinite(fitted.knots).all()
    assert 0 < fitted([1.0])[0] < fitted([5.0])[0] < 1


def test_net_benefit_is_counted_by_hand() -> None:
    events, p = _cases(300, seed=7)
    found = decision_curve(events, p)
    for t, benefit, everyone in zip(found.threshold, found.model, found.treat_all, strict=True):
        positive = p >= t
        by_hand = (positive & events).mean() - (positive & ~events).mean() * t / (1 - t)
        assert benefit == pytest.approx(by_hand)
        assert everyone == pytest.approx(events.mean() - (~events).mean() * t / (1 - t))
    low = found.threshold < p.min()
    assert found.model[low] == pytest.approx(found.treat_all[low])
    with pytest.raises(InputRefused, match="between 0 and 1"):
        decision_curve(events, p, thresholds=[1.0])


def test_conformal_sets_keep_their_promise_in_each_class() -> None:
    covered, abstained = [], []
    for seed in range(150):
        # badly calibrated on purpose: the promise must hold all the same
        events, p = _cases(300, slope=0.4, seed=seed)
        others = _cases(400, slope=0.4, seed=10_000 + seed)
        found = conformal_rates(fit_conformal(events, p, coverage=0.9), *others)
        covered.append((found.coverage_events.value, found.coverage_others.value))
        abstained.append(found.abstained.value)
    assert np.mean(covered, axis=0) == pytest.approx([0.9, 0.9], abs=0.015)
    assert 0 < np.mean(abstained) < 1


def test_conformal_thresholds_are_the_corrected_quantiles() -> None:
    rng = np.random.default_rng(2)
    p, events = rng.random(60), np.arange(60) < 25
    found = fit_conformal(events, p, coverage=0.8)
    level = np.ceil((25 + 1) * 0.8) / 25
    assert found.least_probability_of_event == pytest.approx(
        1 - np.quantile(1 - p[events], level, method="inverted_cdf")
    )
    few = fit_conformal([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8], coverage=0.9)
    assert label_sets(
        few, [0.01, 0.99]
    ).abstain.all()  # four cases can promise nothing, so everything stays possible


@pytest.mark.parametrize("levels", [(0.1, 0.9), (0.2, 0.5)])
def test_a_model_that_knows_two_probabilities_is_calibrated_by_their_shares(
    levels: tuple[float, float],
) -> None:
    events = np.arange(200) % 4 == 0
    probability = np.where(np.arange(200) < 80, *levels)
    found = calibration(events, probability)
    assert found.curve_predicted.tolist() == list(levels)
    shares = [events[probability == level].mean() for level in levels]
    assert found.curve_observed == pytest.approx(shares)
    weights = np.array([80, 120]) / 200
    assert found.ici == pytest.approx(float(weights @ np.abs(np.array(shares) - levels)))
