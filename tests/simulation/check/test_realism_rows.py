"""The realism table: the population lies in its bands, and a table can say that it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ichnos.simulation.check.population import growth_odds_ratios, population_rows
from ichnos.simulation.check.realism import around, median_row, share_row
from ichnos.simulation.check.shapes import Shape
from ichnos.simulation.check.voxels import PATIENTS, shape_rows, simulated_rows, voxel_rows
from ichnos.simulation.disease import law
from ichnos.simulation.heads.from_mni import mni_head

# docs/simulation.md says so: casts of the ventricles are too compact, and there are few to measure
STATED_MISSES = {
    "ventricular blood of 5 to 15 mL, elongation",
    "ventricular blood of 5 to 15 mL, fill",
}


@pytest.fixture(scope="module")
def draws() -> law.Draws:
    return law.draw(20_000, torch.Generator().manual_seed(0))


def test_the_population_lies_in_every_band(draws: law.Draws) -> None:
    rows = population_rows(draws)
    assert {row.quantity for row in rows if not row.met} == set()
    assert all(row.source and row.band[0] < row.band[1] and row.n > 100 for row in rows)
    assert all(row.interval[0] <= row.value <= row.interval[1] for row in rows)


def test_a_population_that_is_off_is_told_from_one_that_is_not(draws: law.Draws) -> None:
    larger = replace(draws, ich_ml=2 * draws.ich_ml, followup_ich_ml=2 * draws.followup_ich_ml)
    missed = {row.quantity for row in population_rows(larger) if not row.met}
    assert "haematoma at baseline, median mL" in missed
    assert "haematoma at follow-up, median mL" in missed


def test_odds_ratios_are_those_that_growth_was_made_with() -> None:
    generator = torch.Generator().manual_seed(3)
    draws = law.draw(20_000, generator)
    logit = -2.5 + 1.0 * draws.anticoagulated + 0.8 * torch.log(draws.ich_ml / 20)
    grew = torch.rand(len(draws), generator=generator) < torch.sigmoid(logit)
    ratios = growth_odds_ratios(replace(draws, followup_ich_ml=draws.ich_ml + 7.0 * grew))
    first, third = np.quantile(np.log(draws.ich_ml.numpy()), [0.25, 0.75])
    true = {
        "anticoagulation": np.exp(1.0),
        "antiplatelets": 1.0,
        "volume, third against first quartile": np.exp(0.8 * (third - first)),
    }
    for name, (value, (low, high)) in ratios.items():
        assert value == pytest.approx(true[name], rel=0.15)
        assert low < true[name] < high
        assert high / low < 1.6


def test_too_few_masks_give_no_figure_and_enough_their_median() -> None:
    shape = Shape(10.0, 1, 1.47, 1.40, 0.86, 0.73)
    few, many = (shape_rows({"haematoma": [shape] * n})[0] for n in (4, 5))
    assert few.met is None
    assert np.isnan(few.value)
    assert many.met
    assert many.value == 1.47
    assert all(row.n == 0 for row in shape_rows({})[3:])


def test_one_disagreement_in_a_hundred_is_too_many() -> None:
    agreed = np.ones(100, bool)
    agreed[0] = False
    rows = voxel_rows(np.full(100, 4.0), np.full(100, 40.0), np.zeros(100), agreed)
    assert [row.met for row in rows] == [True, True, False]


def test_a_miss_that_few_patients_explain_is_told_from_one_that_they_do_not() -> None:
    few, many = (share_row("", np.arange(n) % 10 < 3, "", (0.36, 0.45), "") for n in (30, 3000))
    assert (few.met, few.missed, few.verdict) == (False, False, "within error")
    assert (many.met, many.missed, many.verdict) == (False, True, "NO")
    nothing = share_row("", [], "", (0.36, 0.45), "")
    assert (nothing.met, nothing.missed, nothing.verdict) == (None, False, "too few")
    assert nothing.as_row()["value"] is None


def test_the_interval_of_a_median_holds_it_in_nineteen_of_twenty_studies() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(2000):
        row = median_row("", np.exp(rng.normal(3, 0.8, 41)), "", around(20.0, 0.1), "")
        held.append(row.interval[0] <= np.exp(3) <= row.interval[1])
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)
    assert row.quartiles is not None
    assert row.quartiles[0] < row.value < row.quartiles[1]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_shapes_shift_and_grades_of_voxels_lie_in_their_bands() -> None:
    """120 patients at 2.25 mm, on slices of 4.5 mm: some three minutes of one core."""
    head = mni_head(Path(__file__).resolve().parents[3] / "build" / "heads")
    rows = simulated_rows(head, range(1000, 1000 + PATIENTS))
    assert {row.quantity for row in rows if row.missed} <= STATED_MISSES, [row.shown for row in rows]
    assert all(row.met is not None for row in rows)
