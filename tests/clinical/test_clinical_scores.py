"""Scores of expansion: ranges, monotony, missing columns."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ichnos.clinical.scores import HepPoints, ScoreColumns, bat, brain, comparators, hep, volume_only
from ichnos.errors import InputRefused


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    n = 200
    yes = {name: rng.integers(0, 2, n) for name in ("blend_sign", "hypodensity", "ivh", "recurrent_ich")}
    more = {name: rng.integers(0, 2, n) for name in ("anticoagulation", "dementia", "current_smoking")}
    last = {name: rng.integers(0, 2, n) for name in ("antiplatelet", "subarachnoid")}
    numbers = {
        "ich_ml": rng.uniform(1, 80, n),
        "onset_to_ct_h": rng.uniform(0.5, 12, n),
        "gcs": rng.integers(3, 16, n),
    }
    return pd.DataFrame({**yes, **more, **last, **numbers})


def test_scores_stay_in_their_published_ranges(table: pd.DataFrame) -> None:
    assert set(bat(table)) <= set(range(6))
    assert brain(table).min() >= 0
    assert brain(table).max() <= 24


def test_each_risk_adds_its_points(table: pd.DataFrame) -> None:
    without, with_ = (table.assign(anticoagulation=value) for value in (0, 1))
    assert (brain(with_) - brain(without) == 6).all()
    without, with_ = (table.assign(hypodensity=value) for value in ("no", "yes"))
    assert (bat(with_) - bat(without) == 2).all()


def test_the_volume_alone_is_a_score(table: pd.DataFrame) -> None:
    assert (volume_only(table) == table["ich_ml"]).all()
    renamed = table.rename(columns={"ich_ml": "blood"})
    assert (volume_only(renamed, ScoreColumns(baseline_ml="blood")) == table["ich_ml"]).all()


def test_a_missing_fact_is_undefined_and_a_missing_column_is_named(table: pd.DataFrame) -> None:
    assert np.isnan(brain(table.assign(ivh="n/a"))).all()
    by_name = {score.name: score for score in comparators(table.drop(columns="blend_sign"))}
    assert "'blend_sign'" in by_name["bat"].missing
    assert not by_name["brain"].missing
    assert "points" in by_name["hep"].missing


def test_hep_counts_the_points_it_is_given(table: pd.DataFrame) -> None:
    with pytest.raises(InputRefused, match="hep_points"):
        hep(table)
    points = HepPoints(time={3.0: 2.0}, gcs={8.0: 3.0}, dementia=1.0)
    early = table.assign(onset_to_ct_h=1.0, gcs=15, dementia=0)
    assert (hep(early, points=points) == 2.0).all()
    assert (hep(early.assign(dementia=1, gcs=5), points=points) == 6.0).all()
