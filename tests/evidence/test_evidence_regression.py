"""Adjusted effects against closed forms, lifelines, scikit-learn and published meta-analyses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from statsmodels.stats.meta_analysis import combine_effects

from ichnos.errors import InputRefused
from ichnos.evidence.metrics.imputation import impute
from ichnos.evidence.metrics.pooling import fit_imputed, random_effects, rubin
from ichnos.evidence.metrics.proportional_odds import proportional_odds_test
from ichnos.evidence.metrics.regression import fit
from ichnos.evidence.pack.plan import RegressionPlan
from ichnos.evidence.pack.sections.regressions import regression_section

# Colditz et al. 1994, JAMA 271:698: BCG against tuberculosis; (cases, others) vaccinated, then control.
BCG = np.array(
    [
        (4, 119, 11, 128), (6, 300, 29, 274), (3, 228, 11, 209), (62, 13536, 248, 12619),
        (33, 5036, 47, 5761), (180, 1361, 372, 1079), (8, 2537, 10, 619), (505, 87886, 499, 87892),
        (29, 7470, 45, 7232), (17, 1699, 65, 1600), (186, 50448, 141, 27197),
        (5, 2493, 3, 2338), (27, 16886, 29, 17825),
    ],
    float,
)  # fmt: skip


def _trial(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    injury, surgery, age = rng.integers(0, 2, n), rng.integers(0, 2, n), rng.normal(65, 10, n)
    line = -0.3 + 0.9 * injury - 0.2 * surgery - 0.8 * injury * surgery + 0.04 * (age - 65)
    time = rng.exponential(1 / (0.1 * np.exp(0.5 * line)))
    return pd.DataFrame(
        {
            "injury": injury.astype(float),
            "surgery": surgery.astype(float),
            "age_years": age,
            "poor": (rng.random(n) < 1 / (1 + np.exp(-line))).astype(float),
            "mrs": np.digitize(line + rng.logistic(size=n), [-1.5, 0, 1.5]).astype(float),
            "motor": 5 + 2 * line + rng.normal(0, 1, n),
            "death": (time < 12).astype(float),
            "months": np.minimum(time, 12.0),
        }
    )


def test_an_odds_ratio_is_that_of_the_two_by_two_table() -> None:
    a, b, c, d = 30, 20, 15, 45
    table = pd.DataFrame(
        {
            "x": np.repeat([1.0, 1.0, 0.0, 0.0], [a, b, c, d]),
            "y": np.repeat([1.0, 0.0, 1.0, 0.0], [a, b, c, d]),
        }
    )
    found = fit("logistic", "y ~ x", table).effect("x")
    woolf = np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
    assert found.estimate.value == pytest.approx(a * d / (b * c), rel=1e-5)
    assert found.se == pytest.approx(woolf, rel=1e-4)
    assert found.estimate.low == pytest.approx(a * d / (b * c) * np.exp(-1.959964 * woolf), rel=1e-4)


def test_a_logistic_model_with_interaction_is_that_of_scikit_learn() -> None:
    table = _trial(800)
    found = fit("logistic", "poor ~ injury * surgery + age_years", table)
    design = np.column_stack([table.injury, table.surgery, table.injury * table.surgery, table.age_years])
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(design, table.poor)
    names = ["injury", "surgery", "injury:surgery", "age_years"]
    assert [found.effect(n).coefficient for n in names] == pytest.approx(theirs.coef_[0], abs=2e-3)
    assert (
        found.effect("injury:surgery").estimate.low
        < np.exp(-0.8)
        < found.effect("injury:surgery").estimate.high
    )
    assert found.n == 800
    assert found.warnings == ()


def test_a_linear_model_is_that_of_scipy() -> None:
    table = _trial(100)
    found = fit("linear", "motor ~ age_years", table).effect("age_years")
    theirs = stats.linregress(table.age_years, table.motor)
    assert (found.coefficient, found.se, found.p) == pytest.approx(
        (theirs.slope, theirs.stderr, theirs.pvalue)
    )
    half = stats.t.ppf(0.975, 98) * theirs.stderr
    assert found.estimate.high == pytest.approx(theirs.slope + half)


def test_a_cox_model_is_that_of_lifelines() -> None:
    lifelines = pytest.importorskip("lifelines")
    table = _trial(300)
    found = fit("cox", "death ~ injury + surgery + age_years", table, time="months")
    theirs = lifelines.CoxPHFitter().fit(
        table[["injury", "surgery", "age_years", "death", "months"]], "months", "death"
    )
    for name in ("injury", "surgery", "age_years"):
        assert found.effect(name).coefficient == pytest.approx(theirs.params_[name], abs=1e-4)
        assert found.effect(name).se == pytest.approx(theirs.standard_errors_[name], rel=1e-3)
    assert found.effect_name == "hazard ratio"


def test_an_ordinal_model_on_two_grades_is_the_logistic_one_and_finds_the_common_odds_ratio() -> None:
    table = _trial(600)
    binary = fit("ordinal", "poor ~ injury + age_years", table).effect("injury")
    logistic = fit("logistic", "poor ~ injury + age_years", table).effect("injury")
    assert binary.coefficient == pytest.approx(logistic.coefficient, abs=1e-3)
    found = fit("ordinal", "mrs ~ injury * surgery + age_years", _trial(3000, seed=2))
    assert found.effect("injury").coefficient == pytest.approx(0.9, abs=0.25)
    assert found.effect("age_years").coefficient == pytest.approx(0.04, abs=0.01)


def test_brants_test_has_its_size_and_sees_unequal_odds() -> None:
    rng = np.random.default_rng(4)
    p = []
    for _ in range(250):
        x = rng.normal(size=250)
        grades = np.digitize(0.8 * x + rng.logistic(size=250), [-1, 0.3, 1.5])
        p.append(proportional_odds_test("g ~ x", pd.DataFrame({"g": grades.astype(float), "x": x})).p)
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.035)
    x = rng.normal(size=1500)
    low, high = (
        rng.random(1500) < 1 / (1 + np.exp(-(1 + 1.8 * x))),
        rng.random(1500) < 1 / (1 + np.exp(-(-1 + 0.1 * x))),
    )
    unequal = pd.DataFrame({"g": (low.astype(int) + (low & high)).astype(float), "x": x})
    found = proportional_odds_test("g ~ x", unequal)
    assert (found.p < 1e-4, found.freedom) == (True, 1)


def test_brants_test_is_refused_where_cuts_have_too_few_cases_for_their_effects() -> None:
    rng = np.random.default_rng(11)
    names = [f"x{k}" for k in range(10)]
    few = pd.DataFrame(rng.normal(size=(52, 10)), columns=names).assign(
        g=rng.integers(0, 7, 52).astype(float)
    )
    with pytest.raises(InputRefused, match="10 effects"):
        proportional_odds_test(f"g ~ {' + '.join(names)}", few)


def test_a_planned_regression_is_shown_and_says_why_brants_test_is_not() -> None:
    few = _trial(18).assign(grade=np.arange(18) % 7.0)
    plan = RegressionPlan(kind="ordinal", formula="grade ~ injury + age_years")
    evaluation = SimpleNamespace(plan=SimpleNamespace(regressions=(plan,)), table=few)
    section = regression_section(cast(Any, evaluation))
    assert section is not None
    assert not section.flags
    assert "proportional odds cannot be tested" in section.tables[0].note


def test_brants_test_is_refused_where_cuts_fitted_apart_contradict_each_other() -> None:
    rng = np.random.default_rng(45)
    n = int(rng.integers(14, 30))
    x = rng.normal(size=n) * rng.choice([1, 3])
    grades = np.digitize(rng.choice([0.3, 2]) * x + rng.logistic(size=n), [-1.2, 0, 1.2])
    with pytest.raises(InputRefused, match="vary too much"):
        proportional_odds_test("g ~ x", pd.DataFrame({"g": grades.astype(float), "x": x}))


def test_dersimonian_and_laird_on_the_bcg_trials() -> None:
    vaccinated, control = BCG[:, 0] / BCG[:, :2].sum(axis=1), BCG[:, 2] / BCG[:, 2:].sum(axis=1)
    log_ratio = np.log(vaccinated / control)
    variance = 1 / BCG[:, 0] - 1 / BCG[:, :2].sum(axis=1) + 1 / BCG[:, 2] - 1 / BCG[:, 2:].sum(axis=1)
    found = random_effects(log_ratio, np.sqrt(variance))
    # metafor 4, rma(method="DL"): -0.7141, tau2 0.3088, I2 92.12 %, Q 152.2330
    assert found.pooled.value == pytest.approx(-0.7141, abs=1e-4)
    assert found.tau2 == pytest.approx(0.3088, abs=1e-4)
    assert (found.i2, found.q) == pytest.approx((0.9212, 152.233), abs=1e-3)
    theirs = combine_effects(log_ratio, variance, method_re="dl", use_t=True)
    assert found.pooled.value == pytest.approx(theirs.mean_effect_re)
    assert found.pooled.high - found.pooled.low == pytest.approx(
        2 * stats.t.ppf(0.975, 12) * theirs.sd_eff_w_re_hksj, rel=1e-6
    )
    assert found.prediction_low < found.pooled.low < found.pooled.high < found.prediction_high


def test_random_effects_need_centres_with_spread() -> None:
    two = random_effects([0.1, 0.3], [0.1, 0.1])
    assert np.isnan([two.prediction_low, two.prediction_high]).all()
    with pytest.raises(InputRefused, match="standard error is zero"):
        random_effects([0.1, 0.3], [0.1, 0.0])


def test_rubins_rules_are_their_formula() -> None:
    found = rubin([1.0, 2.0, 3.0], [0.3, 0.4, 0.5])
    within, between = np.mean([0.09, 0.16, 0.25]), 1.0
    total = within + (1 + 1 / 3) * between
    assert (found.value, found.se) == pytest.approx((2.0, np.sqrt(total)))
    assert found.freedom == pytest.approx(2 * (1 + within / ((4 / 3) * between)) ** 2)
    assert rubin([1.0, 1.0], [0.2, 0.2]).freedom == float("inf")


def test_few_patients_leave_few_degrees_of_freedom_however_little_is_missing() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(12, 6)), columns=[*"abcde", "y"])
    tables = [table.assign(a=table["a"].where(table.index > 0, value)) for value in (0.0, 0.01, 0.02)]
    pooled = fit_imputed(lambda one: fit("linear", "y ~ a + b + c + d + e", one), tables).effect("b")
    half = (pooled.estimate.high - pooled.estimate.low) / 2
    freedom = 7 / 9 * 6  # of six that the complete table leaves (Barnard and Rubin 1999)
    assert half == pytest.approx(stats.t.ppf(0.975, freedom) * pooled.se, rel=0.02)


def test_imputation_recovers_what_dropping_rows_biases() -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=1500)
    y = 1.0 * x + rng.normal(size=1500)
    holes = rng.random(1500) < 1 / (1 + np.exp(-2 * y))  # x is missing where y is large
    table = pd.DataFrame(
        {"x": np.where(holes, np.nan, x), "y": y, "sex": rng.integers(0, 2, 1500).astype(float)}
    )
    table.loc[:20, "sex"] = np.nan
    complete = fit("linear", "y ~ x", table)
    pooled = fit_imputed(
        lambda t: fit("linear", "y ~ x", t), impute(table, ["x", "y", "sex"], imputations=8, rng=rng)
    )
    assert complete.dropped == holes.sum()
    assert complete.effect("x").coefficient < 0.85
    assert pooled.effect("x").coefficient == pytest.approx(1.0, abs=0.08)
    assert pooled.n == 1500
    filled = impute(table, ["sex", "y"], imputations=2, rng=rng)[0]["sex"]
    assert set(filled) <= {0.0, 1.0}


def test_models_that_cannot_be_fitted_say_why() -> None:
    table = _trial(60)
    with pytest.raises(InputRefused, match="names a column that the table does not have"):
        fit("logistic", "poor ~ volume_ml", table)
    with pytest.raises(InputRefused, match="same value in every row"):
        fit("logistic", "poor ~ one", table.assign(one=1.0))
    with pytest.raises(InputRefused, match="must be 0 or 1"):
        fit("logistic", "mrs ~ injury", table)
    with pytest.raises(InputRefused, match="depend on each other"):
        fit("linear", "motor ~ injury + double", table.assign(double=2 * table.injury))
    with pytest.raises(InputRefused, match="follow-up times"):
        fit("cox", "death ~ injury", table)
    with pytest.raises(InputRefused, match="only 0 of 60 rows"):
        fit("linear", "motor ~ empty", table.assign(empty=np.nan))
    with pytest.raises(InputRefused, match="no term 'age'"):
        fit("linear", "motor ~ injury", table).effect("age")
    separated = fit("logistic", "poor ~ mark", table.assign(mark=table.poor + 0.0))
    assert any("separated" in w for w in separated.warnings)
    assert any(
        "per term" in w
        for w in fit("logistic", "poor ~ injury * surgery + age_years", table.head(25)).warnings
    )


def test_a_model_that_the_rows_do_not_determine_is_refused() -> None:
    rng = np.random.default_rng(5)
    table = pd.DataFrame(
        {
            "mrs": rng.integers(0, 6, 10).astype(float),
            "grade": rng.choice(["a", "b", "c", "d"], 10),
            "surgery": rng.integers(0, 2, 10).astype(float),
            "age": rng.normal(60, 10, 10),
            "ml": rng.uniform(30, 90, 10),
        }
    )
    with pytest.raises(InputRefused, match="no single maximum in 10 rows"):
        fit("ordinal", "mrs ~ C(grade) + surgery + age + ml", table)
    with pytest.raises(InputRefused, match="6 rows are too few for the 6 terms"):
        fit("linear", "mrs ~ C(grade) + surgery + age + ml", table.groupby("grade").head(2).head(6))
