"""Do the 95 % intervals hold the truth in 95 % of studies? Counted over many made studies; the standard
error of 2,000 is 0.5 %.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from ichnos.evidence.metrics.agreement import (
    bland_altman,
    concordance,
    intraclass,
    passing_bablok,
    pearson,
    spearman,
)
from ichnos.evidence.metrics.calibration import calibration
from ichnos.evidence.metrics.discrimination import auc, compare_paired, precision_recall_auc
from ichnos.evidence.metrics.intervals import mean_interval, proportion
from ichnos.evidence.metrics.pooling import random_effects

Draw = Callable[[np.random.Generator], tuple[float, float]]


def _coverage(draw: Draw, truth: float, repeats: int, seed: int = 0) -> float:
    rng = np.random.default_rng(seed)
    held = [low <= truth <= high for low, high in (draw(rng) for _ in range(repeats))]
    return float(np.mean(held))


def _auc(rng: np.random.Generator, n: int = 120, apart: float = 1.2) -> tuple[float, float]:
    events = np.arange(n) < n // 4
    found = auc(events, rng.normal(size=n) + apart * events)
    return found.low, found.high


def _ccc(rng: np.random.Generator, n: int = 60) -> tuple[float, float]:
    x = rng.normal(20, 8, n)
    found = concordance(x, 2 + 0.9 * x + rng.normal(0, 3, n))
    return found.low, found.high


def _dice(rng: np.random.Generator, n: int = 60) -> tuple[float, float]:
    found = mean_interval(rng.beta(8, 2, n))
    return found.low, found.high


CCC_TRUTH = 2 * 0.9 * 64 / (64 + 0.81 * 64 + 9 + (20 - 20) ** 2)
AUC_TRUTH = float(stats.norm.cdf(1.2 / np.sqrt(2)))


@pytest.mark.parametrize(
    ("draw", "truth"),
    [(_auc, AUC_TRUTH), (_ccc, CCC_TRUTH), (_dice, 0.8)],
    ids=["auc", "concordance", "mean_dice"],
)
def test_the_main_intervals_hold_the_truth(draw: Draw, truth: float) -> None:
    assert _coverage(draw, truth, 4000) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("apart", [0.3, 2.2])
def test_the_area_of_weak_and_strong_models_too(apart: float) -> None:
    truth = float(stats.norm.cdf(apart / np.sqrt(2)))
    assert _coverage(lambda rng: _auc(rng, 200, apart), truth, 2000) == pytest.approx(0.95, abs=0.015)


def test_skewed_dice_with_few_cases_is_where_the_interval_begins_to_fail() -> None:
    covered = _coverage(
        lambda rng: (lambda e: (e.low, e.high))(mean_interval(rng.beta(6, 0.8, 12))), 6 / 6.8, 4000
    )
    assert 0.87 < covered < 0.95  # stated in docs/evidence.md: below some 30 cases the interval is too short


def _pair_draws() -> dict[str, tuple[Draw, float]]:
    def paired(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        x = rng.normal(20, 8, 60)
        return x, x + 1.5 + rng.normal(0, 4, 60)

    rho = 8 / np.sqrt(64 + 16)
    rank = 6 / np.pi * np.arcsin(rho / 2)

    def bounds(found: object) -> tuple[float, float]:
        return found.low, found.high  # type: ignore[attr-defined]

    def judges(rng: np.random.Generator) -> np.ndarray:
        return rng.normal(0, 2, (40, 1)) + rng.normal(0, 1, (1, 6)) + rng.normal(0, 1.5, (40, 6))

    def measured(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        truth = rng.gamma(2, 10, 50)
        return truth + rng.normal(0, 2, 50), 1 + 0.9 * truth + rng.normal(0, 1.8, 50)

    return {
        "bias": (lambda rng: bounds(bland_altman(*paired(rng)).bias), -1.5),
        "limit": (lambda rng: bounds(bland_altman(*paired(rng)).upper), -1.5 + 1.959964 * 4),
        "pearson": (lambda rng: bounds(pearson(*paired(rng))), rho),
        "spearman": (lambda rng: bounds(spearman(*paired(rng))), rank),
        "icc": (lambda rng: bounds(intraclass(judges(rng))), 4 / (4 + 1 + 2.25)),
        "passing_bablok": (lambda rng: bounds(passing_bablok(*measured(rng)).slope), 0.9),
    }


@pytest.mark.parametrize("name", list(_pair_draws()))
def test_intervals_of_agreement_hold_the_truth(name: str) -> None:
    draw, truth = _pair_draws()[name]
    assert _coverage(draw, truth, 2000) == pytest.approx(0.95, abs=0.015)


def test_wilson_holds_the_truth_on_average_over_shares() -> None:
    rng = np.random.default_rng(0)
    shares = rng.uniform(0.02, 0.98, 4000)
    held = [(lambda e, s=s: e.low <= s <= e.high)(proportion(int(rng.binomial(40, s)), 40)) for s in shares]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_paired_differences_of_areas_hold_the_truth() -> None:
    def draw(rng: np.random.Generator) -> tuple[float, float]:
        events = np.arange(160) < 50
        common = rng.normal(size=160) + events
        found = compare_paired(events, common + rng.normal(0, 0.5, 160), common + rng.normal(0, 1.5, 160))
        return found.low, found.high

    truth = stats.norm.cdf(1 / np.sqrt(2 * 1.25)) - stats.norm.cdf(1 / np.sqrt(2 * 3.25))
    assert _coverage(draw, float(truth), 2000) == pytest.approx(0.95, abs=0.015)


def test_pooled_centres_hold_the_mean_and_the_next_centre() -> None:
    rng = np.random.default_rng(1)
    mean, following = [], []
    for _ in range(2000):
        se = rng.uniform(0.1, 0.4, 8)
        found = random_effects(0.5 + rng.normal(0, 0.3, 8) + rng.normal(0, se), se)
        mean.append(found.pooled.low <= 0.5 <= found.pooled.high)
        following.append(found.prediction_low <= 0.5 + rng.normal(0, 0.3) <= found.prediction_high)
    assert np.mean(mean) == pytest.approx(0.95, abs=0.02)
    assert (
        0.87 < np.mean(following) < 0.95
    )  # eight centres know their own spread badly; docs/evidence.md says so


def _slope(rng: np.random.Generator) -> tuple[float, float]:
    x = rng.normal(-0.5, 1.2, 400)
    found = calibration(rng.random(400) < expit(0.7 * x), expit(x)).slope
    return found.low, found.high


def test_the_calibration_slope_holds_the_truth_in_a_short_count() -> None:
    assert _coverage(_slope, 0.7, 150) == pytest.approx(0.95, abs=0.055)


@pytest.mark.slow
def test_the_calibration_slope_holds_the_truth() -> None:
    assert _coverage(_slope, 0.7, 2000) == pytest.approx(0.95, abs=0.015)


def _average_precision(rng: np.random.Generator) -> tuple[float, float]:
    events = np.arange(300) < 100
    found = precision_recall_auc(events, rng.normal(size=300) + 1.2 * events, rng=rng, repeats=300)
    return found.low, found.high


@pytest.mark.slow
def test_the_bootstrap_of_average_precision_is_near_its_promise() -> None:
    rng = np.random.default_rng(0)
    from sklearn.metrics import average_precision_score

    events = np.arange(300_000) < 100_000
    truth = float(average_precision_score(events, rng.normal(size=300_000) + 1.2 * events))
    assert _coverage(_average_precision, truth, 2000) == pytest.approx(0.95, abs=0.025)
