"""Fits of plain numbers: intervals that cover, grades that rise, cards that say what was fitted on whom."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.made_cases import growth_cases
from ichnos.errors import InputRefused
from ichnos.learning.fit.cards import growth_card, outcome_card
from ichnos.learning.fit.fazekas import fit_ordinal
from ichnos.learning.fit.growth import fit_growth_model
from ichnos.learning.fit.volume import fit_volume_calibration
from ichnos.models.store import SHIPPED
from ichnos.prognosis.growth import GrowthModel
from ichnos.prognosis.outcome import OutcomeModel, load_outcome_model


def _pairs(
    *, count: int = 200, factor: float = 1.0, spread: float = 0.2, seed: int = 0
) -> list[tuple[float, float]]:
    """Return measured and true volumes whose errors are known."""
    rng = np.random.default_rng(seed)
    true = np.exp(rng.uniform(1, 4, count))
    measured = true * factor * np.exp(rng.normal(0, spread, count))
    return list(zip(measured.tolist(), true.tolist(), strict=True))


@given(st.floats(0.5, 0.95), st.integers(0, 50))
@settings(max_examples=20)
def test_intervals_cover_the_share_asked_for(level: float, seed: int) -> None:
    pairs = _pairs(count=800, seed=seed)
    model = fit_volume_calibration({"ICH": pairs[:400]}, cohort="made", level=level)
    intervals = [model.interval_ml("ICH", measured) for measured, _ in pairs[400:]]
    covered = [
        i is not None and i[0] <= true <= i[1] for i, (_, true) in zip(intervals, pairs[400:], strict=True)
    ]
    assert np.mean(covered) == pytest.approx(level, abs=0.1)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.4])
def test_an_interval_corrects_a_bias(factor: float) -> None:
    model = fit_volume_calibration({"ICH": _pairs(factor=factor)}, cohort="made")
    low, high = model.interval_ml("ICH", 20.0 * factor) or (0.0, 0.0)
    assert low < 20.0 < high


def test_a_higher_level_gives_a_wider_interval() -> None:
    widths = []
    for level in (0.5, 0.8, 0.95):
        model = fit_volume_calibration({"ICH": _pairs()}, cohort="made", level=level)
        low, high = model.interval_ml("ICH", 20.0) or (0.0, 0.0)
        widths.append(high - low)
    assert widths[0] < widths[1] < widths[2]


def test_the_order_of_patients_does_not_matter() -> None:
    first = fit_volume_calibration({"ICH": _pairs()}, cohort="made")
    again = fit_volume_calibration({"ICH": _pairs()[::-1]}, cohort="made")
    assert first == again


def test_patients_in_whom_nothing_was_measured_teach_nothing() -> None:
    nothing = [(0.0, 9.0)] * 50
    with_nothing = fit_volume_calibration({"ICH": [*_pairs(), *nothing]}, cohort="made")
    assert with_nothing == fit_volume_calibration({"ICH": _pairs()}, cohort="made")


def test_too_little_measured_is_refused_with_the_counts() -> None:
    with pytest.raises(InputRefused, match="ICH in 19, IVH in 0"):
        fit_volume_calibration({"ICH": _pairs(count=19), "IVH": [(0.0, 1.0)]}, cohort="made")


def test_a_target_with_too_few_patients_is_left_out() -> None:
    model = fit_volume_calibration({"ICH": _pairs(), "IVH": _pairs(count=5)}, cohort="made")
    assert set(model.targets) == {"ICH"}
    assert model.targets["ICH"].patients == 200


@given(st.integers(0, 30))
@settings(max_examples=8)
def test_more_disease_means_a_higher_grade(seed: int) -> None:
    rng = np.random.default_rng(seed)
    volumes = np.exp(rng.uniform(-1, 4, 60))
    grades = np.clip(np.round(np.log1p(volumes) + rng.normal(0, 0.5, 60)), 0, 3).astype(int)
    model = fit_ordinal(volumes.tolist(), grades.tolist())
    mean_grade = [float(np.dot(range(4), model.probabilities(ml))) for ml in (0.1, 1.0, 5.0, 20.0, 60.0)]
    assert mean_grade == sorted(mean_grade)
    assert sum(model.probabilities(5.0)) == pytest.approx(1.0)


@pytest.fixture(scope="module")
def growth() -> GrowthModel:
    """Return a growth model of made patients, without refits."""
    return fit_growth_model(
        growth_cases(80),
        cohort="eighty made patients",
        simulated=True,
        command="fit growth",
        refits=0,
        rng=np.random.default_rng(0),
    )


@pytest.fixture(scope="module")
def outcome() -> OutcomeModel:
    """Return the outcome model that ships."""
    return load_outcome_model(SHIPPED / "outcome")


def test_the_card_of_growth_says_who_was_fitted_on(growth: GrowthModel) -> None:
    card = growth_card(growth)
    assert f"eighty made patients; 80 patients, {growth.expanded} expanded" in card
    assert all(f"- `{variant.name}`: " in card for variant in growth.variants)
    assert "No validation was run." in card
    assert "`fit growth`" in card
    assert "Not a medical device." in card


def test_a_card_of_people_does_not_call_them_simulated(growth: GrowthModel) -> None:
    people = growth.model_copy(update={"simulated": False})
    assert "Fitted on simulated patients only." in growth_card(growth)
    assert "simulated" not in growth_card(people)


def test_what_was_validated_is_in_a_table_sorted_by_name(growth: GrowthModel) -> None:
    card = growth_card(growth.model_copy(update={"validation": {"brier": 0.123456, "auc": 0.75}}))
    assert card.index("| auc | 0.75 |") < card.index("| brier | 0.123 |")


def test_the_card_of_outcome_warns_where_treatment_was_not_randomised(outcome: OutcomeModel) -> None:
    assert outcome.randomised
    assert "Treatment was randomised." in outcome_card(outcome)
    other = outcome_card(outcome.model_copy(update={"randomised": False}))
    assert "do not read a difference between arms as an effect of surgery" in other


def test_the_card_of_outcome_counts_every_arm(outcome: OutcomeModel) -> None:
    card = outcome_card(outcome)
    for grade, (medical, surgery) in outcome.cells.items():
        assert f"| {grade} | {medical} | {surgery} |" in card
