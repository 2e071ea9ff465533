"""Imputation of missing facts: kinds of columns, unbiased effects, and refusals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ichnos.errors import InputRefused
from ichnos.evidence.metrics.imputation import _matched, column_kind, impute


def patients(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Draw patients whose hypertension and grade hang on age, and whose outcome hangs on all three."""
    age = rng.normal(65, 10, n)
    hypertension = (rng.random(n) < 1 / (1 + np.exp(-(age - 65) / 10 - 1.0))).astype(float)
    grade = np.clip(np.round((age - 45) / 12 + rng.normal(0, 0.8, n)), 0, 3)
    outcome = 0.05 * age + 1.0 * hypertension + 0.5 * grade + rng.normal(0, 1, n)
    return pd.DataFrame({"age": age, "hypertension": hypertension, "grade": grade, "outcome": outcome})


def with_gaps(table: pd.DataFrame, column: str, rng: np.random.Generator) -> pd.DataFrame:
    """Take values away, more often from the old: missing at random."""
    lost = rng.random(len(table)) < 1 / (1 + np.exp(-(table["age"] - 70) / 8))
    return table.assign(**{column: table[column].where(~lost)})


def effect(table: pd.DataFrame, column: str) -> float:
    names = ["age", "hypertension", "grade"]
    x = np.column_stack([np.ones(len(table)), table[names].to_numpy(float)])
    return float(np.linalg.lstsq(x, table["outcome"].to_numpy(float), rcond=None)[0][1 + names.index(column)])


@pytest.mark.parametrize(("column", "truth"), [("hypertension", 1.0), ("grade", 0.5)])
def test_effects_of_imputed_columns_are_unbiased(column: str, truth: float) -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(40):
        gaps = with_gaps(patients(rng, 1200), column, rng)
        tables = impute(gaps, list(gaps.columns), imputations=2, rng=rng)
        found.append(np.mean([effect(t, column) for t in tables]))
    assert np.mean(found) == pytest.approx(truth, rel=0.03)


@pytest.mark.parametrize("column", ["hypertension", "grade"])
def test_shares_of_imputed_values_are_those_of_the_lost_ones(column: str) -> None:
    rng = np.random.default_rng(2)
    whole = patients(rng, 6000)
    gaps = with_gaps(whole, column, rng)
    lost = gaps[column].isna()
    filled = impute(gaps, list(gaps.columns), imputations=2, rng=rng)[0]
    assert filled.loc[lost, column].mean() == pytest.approx(whole.loc[lost, column].mean(), rel=0.03)
    assert set(filled[column]) == set(whole[column])
    assert (filled.loc[~lost, column] == whole.loc[~lost, column]).all()


def test_continuous_values_vary_between_imputations() -> None:
    rng = np.random.default_rng(3)
    gaps = with_gaps(patients(rng, 400), "outcome", rng)
    first, second = impute(gaps, list(gaps.columns), imputations=2, rng=rng)
    lost = gaps["outcome"].isna()
    assert not np.allclose(first.loc[lost, "outcome"], second.loc[lost, "outcome"])
    assert first["outcome"].notna().all()


def test_several_columns_with_gaps_are_filled_in_turn() -> None:
    rng = np.random.default_rng(4)
    gaps = with_gaps(with_gaps(patients(rng, 500), "grade", rng), "hypertension", rng)
    for filled in impute(gaps, ["age", "hypertension", "grade", "outcome"], imputations=2, rng=rng):
        assert filled.notna().all().all()


def test_a_separated_yes_no_column_stays_finite() -> None:
    rng = np.random.default_rng(5)
    x = np.linspace(-1, 1, 60)
    table = pd.DataFrame({"x": x, "sign": (x > 0).astype(float)})
    table.loc[::7, "sign"] = np.nan
    filled = impute(table, ["x", "sign"], imputations=2, rng=rng)[0]
    assert set(filled["sign"]) == {0.0, 1.0}
    assert (filled["sign"] == (x > 0)).mean() > 0.9


def test_a_constant_column_does_not_stop_the_others() -> None:
    rng = np.random.default_rng(6)
    table = patients(rng, 80).assign(arm=1.0)
    gaps = with_gaps(table, "grade", rng)
    assert impute(gaps, list(gaps.columns), imputations=2, rng=rng)[0]["grade"].notna().all()


@pytest.mark.parametrize(("wanted", "least"), [(-1.0, 0), (0.2, 0), (9.6, 8), (25.0, 15)])
def test_each_of_the_five_nearest_is_a_donor_as_often(wanted: float, least: int) -> None:
    known = np.arange(20.0)
    drawn = _matched(known, known, np.full(5000, wanted), np.random.default_rng(0))
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [least + k for k in range(5)]
    assert np.abs(counts / 5000 - 0.2).max() < 0.03


def test_the_same_seed_fills_alike() -> None:
    gaps = with_gaps(patients(np.random.default_rng(7), 100), "grade", np.random.default_rng(8))
    one, two = (
        impute(gaps, list(gaps.columns), imputations=2, rng=np.random.default_rng(9))[0] for _ in range(2)
    )
    pd.testing.assert_frame_equal(one, two)


def test_what_cannot_be_imputed_is_refused() -> None:
    rng = np.random.default_rng(0)
    table = patients(rng, 20)
    with pytest.raises(InputRefused, match="ask for at least 2"):
        impute(table, ["age"], imputations=1, rng=rng)
    with pytest.raises(InputRefused, match="no column weight"):
        impute(table, ["weight"], imputations=2, rng=rng)
    with pytest.raises(InputRefused, match="nothing to impute it from"):
        impute(table.assign(empty=np.nan), ["age", "empty"], imputations=2, rng=rng)


def test_kinds_of_columns() -> None:
    assert column_kind(np.array([1.0, 2.0, np.nan, 1.0])) == "binary"
    assert column_kind(np.array([0.0, 1.0, 2.0])) == "whole"
    assert column_kind(np.array([0.0, 1.5, 2.0])) == "continuous"
