"""One distribution of the follow-up volume: its quantiles, probabilities and definitions cannot disagree."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ichnos.clinical.expansion import DEFINITIONS
from ichnos.models.store import SHIPPED
from ichnos.prognosis.growth import GrowthForecast, GrowthInputs, load_growth_model

FORECASTS = st.builds(
    GrowthForecast,
    ich_ml=st.floats(0.5, 120),
    growing=st.floats(0.01, 0.99),
    gain_mean=st.floats(-2, 1),
    gain_sd=st.floats(0.1, 1),
    stable_mean=st.floats(-0.2, 0.2),
    stable_sd=st.floats(0.01, 0.3),
    stable_sd_ml=st.floats(0, 1),
    ventricles_alone=st.floats(0, 0.5),
)


@settings(max_examples=60)
@given(forecast=FORECASTS, q=st.floats(0.05, 0.95))
def test_a_quantile_is_where_the_distribution_says(forecast: GrowthForecast, q: float) -> None:
    ml = forecast.quantile_ml(q)
    if ml > 0:
        assert forecast.below(ml) == pytest.approx(q, abs=1e-9)
    else:
        assert forecast.below(0.0) >= q


@given(forecast=FORECASTS)
def test_quantiles_rise(forecast: GrowthForecast) -> None:
    found = [forecast.quantile_ml(q) for q in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert all(a <= b for a, b in itertools.pairwise(found))


@given(forecast=FORECASTS)
def test_a_stricter_definition_is_less_probable(forecast: GrowthForecast) -> None:
    loose, middle, strict = (forecast.probability(DEFINITIONS[name]) for name in ("3ml", "6ml", "12.5ml"))
    assert 0 <= strict <= middle <= loose <= 1
    assert forecast.probability(DEFINITIONS["revised"]) >= forecast.probability(DEFINITIONS["33%-or-6ml"])


def _inputs(**changed: float | None) -> GrowthInputs:
    base = dict(
        ich_ml=20.0,
        ivh_ml=0.0,
        sphericity=0.7,
        roundness=0.8,
        mean_hu=58.0,
        spread_hu=12.0,
        depth_hu=14.0,
        gap_hu=9.0,
        dark_share=0.1,
        black_hole=0.0,
        blend=0.0,
        islands=0.0,
    )
    return GrowthInputs(**{**base, **changed})  # type: ignore[arg-type]


def test_the_shipped_model_uses_clinical_facts_where_they_are_known() -> None:
    model = load_growth_model(SHIPPED / "expansion")
    blind, known = _inputs(), _inputs(onset_to_ct_h=1.0, anticoagulated=1.0)
    assert len(model.variant_for(known).features) > len(model.variant_for(blind).features)
    early, late = (
        model.forecast(_inputs(onset_to_ct_h=hours, anticoagulated=0.0)).growing for hours in (1.0, 12.0)
    )
    assert early > late, "haematomas grow early"


def test_an_interval_of_the_probability_holds_the_probability() -> None:
    model = load_growth_model(SHIPPED / "expansion")
    definition = DEFINITIONS["33%-or-6ml"]
    interval = model.probability_interval(_inputs(), definition)
    assert interval is not None
    assert interval[0] <= model.forecast(_inputs()).probability(definition) <= interval[1]


def test_a_haematoma_beyond_the_fitting_cohort_is_named_in_words() -> None:
    model = load_growth_model(SHIPPED / "expansion")
    assert model.outside(_inputs()) == ""
    assert "volume in mL is 400" in model.outside(_inputs(ich_ml=400.0))


def test_unknown_facts_are_completed_by_their_extremes() -> None:
    model = load_growth_model(SHIPPED / "expansion")
    assert set(model.unknown_facts(_inputs())) == {"ln_onset", "anticoagulated"}
    possible = model.possible(_inputs())
    assert len(possible) == 4
    assert {completed.anticoagulated for completed in possible} == {0.0, 1.0}
    assert model.possible(_inputs(onset_to_ct_h=2.0, anticoagulated=0.0)) == (
        _inputs(onset_to_ct_h=2.0, anticoagulated=0.0),
    )


@pytest.mark.parametrize("hours", [1.0, 3.0, 12.0])
@pytest.mark.parametrize("anticoagulated", [0.0, 1.0])
def test_whatever_the_facts_turn_out_to_be_the_extremes_hold_it(hours: float, anticoagulated: float) -> None:
    model = load_growth_model(SHIPPED / "expansion")
    definition = DEFINITIONS["33%-or-6ml"]
    range_of = [model.forecast(completed).probability(definition) for completed in model.possible(_inputs())]
    true = model.forecast(_inputs(onset_to_ct_h=hours, anticoagulated=anticoagulated)).probability(definition)
    assert min(range_of) <= true <= max(range_of)
