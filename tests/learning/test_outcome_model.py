"""The outcome model: the effects it must find in a made trial, and the patients it must refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from builders.made_cases import EFFECT, outcome_cases
from ichnos.errors import InputRefused
from ichnos.learning.fit.cards import outcome_card
from ichnos.learning.fit.outcome import fit_outcome_model, outcome_validation
from ichnos.learning.fit.outcome_cases import Anatomy, simulated_trial
from ichnos.prognosis.outcome import OUTCOME_FILE, OutcomeInputs, OutcomeModel, load_outcome_model
from ichnos.reading.outcome import read_outcome
from ichnos.reading.record import Finding, Measure

USUAL = OutcomeInputs("haematoma infiltration", 30.0, 0.0, 5.0, 1.0, 65.0, 12.0)


@pytest.fixture(scope="module")
def model() -> OutcomeModel:
    return fit_outcome_model(outcome_cases(900), cohort="made", simulated=True, randomised=True)


def test_the_effects_of_injury_and_surgery_are_found(model: OutcomeModel) -> None:
    found = dict(zip(model.motor.terms, model.motor.values, strict=True))
    assert found["injury: no risk"] == pytest.approx(EFFECT["no risk"], abs=0.4)
    gain = model.motor_gain(USUAL)
    assert gain.low < 2.1 < gain.high
    assert gain.low > 1
    spared = model.motor_gain(replace(USUAL, injury="no risk"))
    assert spared.low < 0 < spared.high
    assert model.independence_gain(USUAL).low > 0


def test_other_patients_lie_in_the_band(model: OutcomeModel) -> None:
    found = outcome_validation(model, outcome_cases(600, seed=1))
    assert found["motor_band_80_coverage"] == pytest.approx(0.8, abs=0.07)
    assert found["motor_r"] > 0.7
    assert found["mrs_0_3_auc"] > 0.65
    assert found["mrs_0_3_observed_over_expected"] == pytest.approx(1, abs=0.15)


def test_what_the_cohort_never_saw_is_refused(model: OutcomeModel) -> None:
    assert model.refusal(USUAL, "motor") == ""
    assert "age in years is 97" in model.refusal(replace(USUAL, age_years=97.0), "motor")
    assert "Glasgow Coma Scale is not known" in model.refusal(replace(USUAL, gcs=None), "mrs")
    assert "is not graded" in model.refusal(replace(USUAL, injury=None), "mrs")
    lone = model.model_copy(update={"cells": {**model.cells, "haematoma infiltration": (50, 2)}})
    assert "too few patients" in lone.refusal(USUAL, "motor")


def test_cohorts_that_cannot_be_fitted_are_refused() -> None:
    cases = outcome_cases(200)
    with pytest.raises(InputRefused, match="12 patients have all"):
        fit_outcome_model(cases[:12], cohort="", simulated=True, randomised=True)
    with pytest.raises(InputRefused, match="cannot be told apart"):
        fit_outcome_model(
            [replace(c, arm="medical") for c in cases], cohort="", simulated=True, randomised=True
        )
    with pytest.raises(InputRefused, match="no patient has mRS 6"):
        fit_outcome_model(
            [replace(c, mrs_365d=min(c.mrs_365d, 5)) for c in cases],
            cohort="",
            simulated=True,
            randomised=True,
        )
    with pytest.raises(InputRefused, match="graded tract"):
        fit_outcome_model(
            [replace(c, inputs=replace(c.inputs, injury=None)) for c in cases],
            cohort="",
            simulated=True,
            randomised=True,
        )


def test_the_file_comes_back(model: OutcomeModel, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / OUTCOME_FILE).write_text(model.model_dump_json(), encoding="utf-8")
    assert load_outcome_model(tmp_path) == model
    (tmp_path / OUTCOME_FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(InputRefused, match="cannot be used"):
        load_outcome_model(tmp_path)
    assert "was randomised" in outcome_card(model)


def _findings(injury: str = "haematoma infiltration") -> list[Finding]:
    def ml(name: str, value: float) -> Measure:
        return Measure(name=name, label=name, value=value, unit="mL", reason="made")

    tract = [
        Measure(name=f"injury_{s}", label="", value=v, reason="made")
        for s, v in (("left", injury), ("right", "no risk"))
    ]
    loads = [ml("blood_load_left", 1.2), ml("blood_load_right", 0.0)]
    return [
        Finding(
            target="haematoma",
            status="read",
            sentence="",
            measures=(ml("ich_volume", 30.0), ml("ivh_volume", 0.0)),
        ),
        Finding(target="tract", status="read", sentence="", measures=(*tract, *loads)),
        Finding(
            target="leukoaraiosis", status="read", sentence="", measures=(ml("leukoaraiosis_volume", 4.0),)
        ),
    ]


def test_a_reading_says_who_would_gain_and_withholds_what_it_cannot_say(model: OutcomeModel) -> None:
    whole = read_outcome(model, _findings(), facts={"age_years": 65.0, "gcs": 12})
    assert whole.status == "read"
    assert "surgery is expected to improve" in whole.sentence
    assert "simulated patients" in whole.sentence
    gain = whole.measure("surgery_motor_gain")
    assert gain.low is not None
    assert gain.low > 0
    part = read_outcome(model, _findings(), facts={"age_years": 65.0})
    assert part.measure("mrs_0_3_365d_medical").value is None
    assert isinstance(part.measure("nihss_motor_180d_medical").value, float)
    for finding in (
        read_outcome(None, _findings(), facts={"age_years": 65.0, "gcs": 12}),
        read_outcome(model, _findings()[1:], facts={"age_years": 65.0, "gcs": 12}),
        read_outcome(model, _findings()[:1], facts={"age_years": 65.0, "gcs": 12}),
        read_outcome(model, _findings(), facts={}),
    ):
        assert finding.status == "withheld"
        assert all(m.value is None and m.reason for m in finding.measures)


def test_a_simulated_trial_carries_the_effects_that_its_law_was_given() -> None:
    grades = (
        ("no risk", 0.0),
        ("PHE infiltration", 0.0),
        ("haematoma infiltration", 0.8),
        ("complete interruption", 2.0),
    )
    sites = ("putamen", "thalamus", "lobar", "cerebellum", "pons", "caudate")
    rng = np.random.default_rng(0)
    anatomies = [
        Anatomy(site, float(rng.uniform(3, 70)), grade, load * float(rng.uniform(0.5, 1.5)), 2.0)  # type: ignore[arg-type]
        for site in sites
        for grade, load in grades
        for _ in range(
            8
        )  # of all volumes, so that a patient finds anatomies of every grade among the nearest
    ]
    cases = simulated_trial(1500, anatomies, seed=1)
    assert {c.arm for c in cases} == {"medical", "surgery"}
    model = fit_outcome_model(cases, cohort="", simulated=True, randomised=True)
    found = dict(zip(model.motor.terms, model.motor.values, strict=True))
    assert found["injury: no risk"] < -2
    gain = model.motor_gain(USUAL)
    assert gain.low < 2.1 < gain.high + 0.4  # the scale's floor takes a little of the latent effect
