"""The growth law: what it must find in made patients, what it must refuse, and that all it says comes from
one distribution.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from builders.made_cases import growth_cases
from ichnos.clinical.expansion import DEFINITIONS
from ichnos.errors import InputRefused
from ichnos.learning.fit.cards import growth_card
from ichnos.learning.fit.growth import fit_growth_model
from ichnos.learning.fit.growth_cases import GrowthCase, case_of, case_row
from ichnos.learning.fit.growth_checks import cross_validation, growth_validation
from ichnos.prognosis.growth import (
    GROWTH_FILE,
    GrowthForecast,
    GrowthModel,
    growth_text,
    load_growth_model,
)
from ichnos.reading.measures.growth import growth_inputs
from ichnos.volume import Volume, sphere


@pytest.fixture(scope="module")
def law() -> GrowthModel:
    return fit_growth_model(
        growth_cases(400), cohort="made", simulated=True, refits=4, rng=np.random.default_rng(0)
    )


def test_the_fit_finds_what_decides_growth(law: GrowthModel) -> None:
    image = law.variants[0]
    slopes = dict(zip(image.features, image.parameters.growing[1:], strict=True))
    assert slopes["spread_hu"] == pytest.approx(1.4, abs=0.5)
    assert max(abs(v) for name, v in slopes.items() if name != "spread_hu") < 0.6
    assert image.parameters.gain[0] == pytest.approx(-0.4, abs=0.2)
    assert [v.name for v in law.variants] == ["image", "image+clinical"]  # no network's forecast was given


def test_other_patients_are_told_apart_and_the_probabilities_mean_what_they_say(law: GrowthModel) -> None:
    new = growth_cases(600, seed=1)
    found = growth_validation([law] * len(new), new)
    assert found["auc"] > found["auc_oracle"] - 0.04
    assert found["auc"] > found["auc_volume_alone"] + 0.1
    assert found["calibration_slope"] == pytest.approx(1, abs=0.3)
    assert found["observed_over_expected"] == pytest.approx(1, abs=0.25)
    assert found["band_80_coverage"] == pytest.approx(0.8, abs=0.06)


def test_probability_median_and_definitions_agree(law: GrowthModel) -> None:
    for case in growth_cases(30, seed=2):
        f = law.forecast(case.inputs)
        assert f.quantile_ml(0.1) < f.quantile_ml(0.5) < f.quantile_ml(0.9)
        p = {name: f.probability(d) for name, d in DEFINITIONS.items()}
        assert p["3ml"] >= p["6ml"] >= p["12.5ml"]
        assert p["33%-or-6ml"] >= p["6ml"] - 1e-9
        assert p["revised"] >= p["33%-or-6ml"]
        median_is_growth = f.quantile_ml(0.5) - f.ich_ml > 6
        assert (p["6ml"] > 0.5) == median_is_growth


def test_the_probability_is_the_share_of_drawn_volumes() -> None:
    f = GrowthForecast(25.0, 0.3, -0.5, 0.6, 0.02, 0.05, stable_sd_ml=0.5)
    rng = np.random.default_rng(0)
    n = 200_000
    share = np.where(
        rng.random(n) < 0.3,
        np.exp(-0.5 + 0.6 * rng.normal(size=n)),
        0.02 + np.hypot(0.05, 0.5 / 25) * rng.normal(size=n),
    )
    drawn = 25 * (1 + share)
    assert f.probability(DEFINITIONS["33%-or-6ml"]) == pytest.approx(np.mean(drawn - 25 > 6), abs=0.005)
    assert f.quantile_ml(0.9) == pytest.approx(np.quantile(drawn, 0.9), rel=0.01)


def test_a_haematoma_outside_the_cohort_is_named(law: GrowthModel) -> None:
    usual = growth_cases(1, seed=5)[0].inputs
    assert law.outside(usual) == ""
    assert "150; the model was fitted on" in law.outside(replace(usual, ich_ml=150.0))
    assert "density" in law.outside(replace(usual, mean_hu=20.0))


def test_unknown_clinical_facts_fall_back_to_the_image(law: GrowthModel) -> None:
    inputs = growth_cases(1, seed=6)[0].inputs
    assert law.variant_for(inputs).name == "image+clinical"
    assert law.variant_for(replace(inputs, onset_to_ct_h=None)).name == "image"
    low, high = law.probability_interval(inputs, DEFINITIONS["6ml"]) or (1.0, 0.0)
    assert 0 <= low < high <= 1


def test_the_network_channel_becomes_a_variant_of_its_own() -> None:
    rng = np.random.default_rng(3)
    cases = [
        replace(
            c,
            inputs=replace(
                c.inputs, forecast_ml=float((c.followup_ml + c.inputs.ivh_ml) * np.exp(0.1 * rng.normal()))
            ),
        )
        for c in growth_cases(200, seed=3)
    ]
    law = fit_growth_model(cases, cohort="made", simulated=True, refits=0, rng=rng)
    assert "image+network" in [v.name for v in law.variants]
    assert (
        growth_validation([law] * len(cases), cases)["auc"] > 0.95
    )  # the forecast all but gives the follow-up away
    assert law.probability_interval(cases[0].inputs, DEFINITIONS["6ml"]) is None


def test_cross_validation_tells_what_other_patients_would_see() -> None:
    found = cross_validation(growth_cases(240, seed=8), folds=3, rng=np.random.default_rng(0))
    assert found["patients"] == 240
    assert 0.7 < found["auc"] < found["auc_oracle"] + 0.02


def test_too_few_expansions_are_refused() -> None:
    none = [GrowthCase(c.id, c.inputs, c.inputs.ich_ml, c.inputs.ivh_ml) for c in growth_cases(60)]
    with pytest.raises(InputRefused, match="60 patients with 0 expansions"):
        fit_growth_model(none, cohort="made", simulated=True, rng=np.random.default_rng(0))


def test_the_file_gives_the_same_forecast_and_a_damaged_one_is_named(law: GrowthModel, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / GROWTH_FILE).write_text(growth_text(law), encoding="utf-8")
    again = load_growth_model(tmp_path)
    inputs = growth_cases(1, seed=7)[0].inputs
    assert again.forecast(inputs).quantile_ml(0.5) == pytest.approx(
        law.forecast(inputs).quantile_ml(0.5), rel=1e-3
    )
    assert "simulated patients only" in growth_card(again)
    (tmp_path / GROWTH_FILE).write_text('{"format": "ichnos-growth-1"}', encoding="utf-8")
    with pytest.raises(InputRefused, match="cannot be used"):
        load_growth_model(tmp_path)
    with pytest.raises(InputRefused, match="there is no growth model"):
        load_growth_model(tmp_path / "nowhere")


def test_rows_bring_cases_back() -> None:
    case = growth_cases(1)[0]
    assert case_of({"id": case.id, **case_row(case)}) == case


def test_measures_see_a_dark_part_and_a_rough_outline() -> None:
    ball = sphere(radius_mm=15, spacing_mm=1.0)
    rng = np.random.default_rng(0)
    even = ball.with_array(np.where(ball.array, 60, 30) + rng.normal(0, 3, ball.shape))
    x = np.indices(ball.shape)[0]
    blend = even.with_array(even.array - 20 * (x > ball.shape[0] / 2 + 3))
    none = ball.map_array(np.zeros_like)
    plain, uneven = growth_inputs(ball, none, even), growth_inputs(ball, none, blend)
    assert uneven.spread_hu > plain.spread_hu + 10
    assert uneven.gap_hu > plain.gap_hu + 10
    assert (plain.blend, uneven.blend) == (0.0, 1.0)
    flat = Volume(ball.array & (np.indices(ball.shape)[1] % 8 < 5), ball.affine)
    assert growth_inputs(flat, none, even).roundness < plain.roundness - 0.3
