"""The outcome model: rows of its design, refusals, intervals, and what surgery changes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ichnos.clinical.injury import INJURY_GRADES
from ichnos.models.store import SHIPPED
from ichnos.prognosis.outcome import (
    MOTOR_TERMS,
    MRS_TERMS,
    OutcomeInputs,
    OutcomeModel,
    design_row,
    injury_of,
    load_outcome_model,
)

PATIENT = OutcomeInputs("haematoma infiltration", 25.0, 0.0, 4.0, 0.4, 66.0, 13.0)


@pytest.fixture(scope="module")
def model() -> OutcomeModel:
    return load_outcome_model(SHIPPED / "outcome")


def test_only_the_terms_of_surgery_differ_between_arms() -> None:
    for terms in (MOTOR_TERMS, MRS_TERMS):
        difference = design_row(PATIENT, "surgery", terms) - design_row(PATIENT, "medical", terms)
        changed = {term for term, d in zip(terms, difference, strict=True) if d}
        assert changed == {"surgery", "surgery, haematoma infiltration"}


def test_an_unknown_input_makes_its_term_undefined() -> None:
    row = design_row(replace(PATIENT, age_years=None), "medical", MRS_TERMS)
    assert math.isnan(row[MRS_TERMS.index("age")])
    assert np.isfinite(np.delete(row, MRS_TERMS.index("age"))).all()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"injury": None}, "not graded"),
        ({"age_years": None}, "the age in years is not known"),
        ({"ich_ml": 900.0}, "the haematoma's volume in mL is 900"),
    ],
)
def test_what_cannot_be_forecast_is_refused_by_name(
    model: OutcomeModel, changed: dict[str, object], told: str
) -> None:
    assert model.refusal(PATIENT, "mrs") == ""
    assert told in model.refusal(replace(PATIENT, **changed), "mrs")  # type: ignore[arg-type]


def test_intervals_hold_their_value_and_stay_on_the_scale(model: OutcomeModel) -> None:
    for grade in INJURY_GRADES:
        patient = replace(PATIENT, injury=grade)
        motor = model.motor_forecast(patient, "medical")
        assert 0 <= motor.low <= motor.value <= motor.high <= 16
        share = model.independent(patient, "medical")
        assert 0 <= share.low <= share.value <= share.high <= 1


def test_the_gain_is_the_difference_of_the_arms(model: OutcomeModel) -> None:
    gain = model.independence_gain(PATIENT)
    arms = [model.independent(PATIENT, arm).value for arm in ("surgery", "medical")]
    assert gain.value == pytest.approx(arms[0] - arms[1])


def test_worse_injury_means_worse_outcome(model: OutcomeModel) -> None:
    shares = [model.independent(replace(PATIENT, injury=grade), "medical").value for grade in INJURY_GRADES]
    assert shares[0] > shares[-1]


def test_the_worse_side_decides_and_an_ungraded_side_leaves_it_open() -> None:
    assert injury_of({"left": "no risk", "right": "complete interruption"}, {"left": 0.0, "right": 2.0}) == (
        "complete interruption",
        2.0,
    )
    assert injury_of({"left": "no risk", "right": "None"}, {"left": 0.0, "right": 0.0}) == (None, None)
