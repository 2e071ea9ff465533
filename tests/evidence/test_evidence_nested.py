"""What a predictor adds: known gains are found, noise adds nothing, and interactions are tested."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from ichnos.errors import InputRefused
from ichnos.evidence.metrics.nested import compare_nested


def patients(seed: int, n: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age, load, noise = rng.normal(65, 10, n), rng.gamma(2, 1, n), rng.normal(size=n)
    surgery = rng.integers(0, 2, n).astype(float)
    points = 0.05 * age + 1.5 * load - 1.0 * surgery * (load > 2) + rng.normal(0, 2, n)
    dead = (rng.random(n) < 1 / (1 + np.exp(-(0.9 * load - 2.5)))).astype(float)
    return pd.DataFrame(
        {"age": age, "load": load, "noise": noise, "surgery": surgery, "points": points, "dead": dead}
    )


def test_explained_variance_is_that_of_least_squares() -> None:
    table = patients(0)
    found = compare_nested("linear", "points ~ age", "+ load", table)
    small, large = (smf.ols(f, table).fit() for f in ("points ~ age", "points ~ age + load"))
    assert found.r2 == pytest.approx(small.rsquared)
    assert found.r2 + found.r2_added == pytest.approx(large.rsquared)
    assert found.chi2 == pytest.approx(2 * (large.llf - small.llf))
    assert found.p < 1e-6
    assert found.auc_gain is None


def test_a_predictor_of_death_raises_the_area_and_noise_does_not() -> None:
    table = patients(1)
    signal = compare_nested("logistic", "dead ~ age", "+ load", table)
    noise = compare_nested("logistic", "dead ~ load", "+ noise", table)
    assert signal.auc_gain is not None
    assert signal.auc_gain.low > 0.05
    assert noise.auc_gain is not None
    assert noise.p > 0.01
    assert abs(noise.auc_gain.value) < 0.02


def test_an_interaction_is_tested_as_added_terms() -> None:
    table = patients(2, 1500).assign(hit=lambda t: (t["load"] > 2).astype(float))
    found = compare_nested("linear", "points ~ age + load + hit + surgery", "+ hit:surgery", table)
    assert found.freedom == 1
    assert found.p < 0.01
    none = compare_nested("linear", "points ~ age + load + hit + surgery", "+ noise:surgery", table)
    assert none.p > 0.01


def test_both_models_see_the_same_patients() -> None:
    table = patients(3)
    table.loc[:99, "load"] = np.nan
    assert compare_nested("linear", "points ~ age", "+ load", table).n == 300


def test_a_term_that_is_there_already_is_refused() -> None:
    with pytest.raises(InputRefused, match="adds no term"):
        compare_nested("linear", "points ~ age + load", "+ load", patients(4))
