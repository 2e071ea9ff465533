"""Clinical rows carry the published effects."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from builders.small_patient import small_patient
from ichnos.clinical.injury import INJURY_GRADES
from ichnos.simulation.disease.clinical_row import (
    COLUMNS,
    ClinicalState,
    clinical_row,
    state_of,
    worse_injury,
)

STATE = ClinicalState(
    age_years=65,
    sex="m",
    anticoagulated=False,
    antiplatelet=False,
    earlier_bleed=False,
    onset_to_ct_h=3,
    ct_to_followup_h=20,
    ich_ml=25,
    ivh_ml=0,
    followup_ich_ml=26,
    followup_ivh_ml=0,
    leukoaraiosis_ml=4,
    infarct_ml=0,
    midline_shift_mm=2,
    injury="haematoma infiltration",
    site="putamen",
)


def rows(state: ClinicalState, count: int = 1200, *, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [dict(clinical_row(state, trial=True, rng=rng)) for _ in range(count)]


def mean(found: list[dict], name: str, arm: str | None = None) -> float:
    values = [row[name] for row in found if row[name] is not None and arm in (None, row["arm"])]
    return float(np.mean(values))


def test_motor_score_follows_the_injury_of_the_tract() -> None:
    by_grade = {grade: rows(replace(STATE, injury=grade), seed=i) for i, grade in enumerate(INJURY_GRADES)}
    worst = mean(by_grade["complete interruption"], "nihss_motor_180d", "medical")
    assert mean(by_grade["no risk"], "nihss_motor_180d", "medical") - worst == pytest.approx(-3.77, abs=0.5)
    assert mean(by_grade["PHE infiltration"], "nihss_motor_180d", "medical") - worst == pytest.approx(
        -2.3, abs=0.5
    )


def test_surgery_helps_where_the_haematoma_infiltrates_and_not_elsewhere() -> None:
    for grade, effect in (("haematoma infiltration", -2.07), ("no risk", 0.0)):
        found = rows(replace(STATE, injury=grade), 2500)
        gain = mean(found, "nihss_motor_180d", "surgery") - mean(found, "nihss_motor_180d", "medical")
        assert gain == pytest.approx(effect, abs=0.35)
        assert 0.45 < np.mean([row["arm"] == "surgery" for row in found]) < 0.55


def test_outcome_is_worse_with_age_volume_and_leukoaraiosis() -> None:
    base = mean(rows(STATE), "mrs_90d")
    for change in ({"age_years": 85}, {"followup_ich_ml": 60}, {"leukoaraiosis_ml": 40}):
        assert mean(rows(replace(STATE, **change)), "mrs_90d") > base + 0.3
    no_bleed = replace(STATE, site="", ich_ml=0, followup_ich_ml=0, midline_shift_mm=0, injury="no risk")
    assert (
        mean(rows(replace(no_bleed, leukoaraiosis_ml=40)), "mrs_90d") > mean(rows(no_bleed), "mrs_90d") + 0.2
    )


def test_risk_factors_go_with_leukoaraiosis_at_the_same_age() -> None:
    little, much = (mean(rows(replace(STATE, leukoaraiosis_ml=v)), "hypertension") for v in (1, 25))
    assert much > little + 0.1


def test_the_dead_stay_dead_and_have_no_motor_score() -> None:
    found = rows(replace(STATE, age_years=88, followup_ich_ml=90), 500)
    dead = [row for row in found if row["mrs_90d"] == 6]
    assert len(dead) > 50
    assert all(row["mrs_365d"] == 6 and row["nihss_motor_180d"] is None for row in dead)
    assert set(found[0]) == set(COLUMNS)


def test_scores_stay_in_their_ranges() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        state = replace(
            STATE,
            ich_ml=float(rng.uniform(1, 120)),
            ivh_ml=float(rng.uniform(0, 40)),
            infarct_ml=float(rng.uniform(0, 80)),
        )
        row = clinical_row(state, trial=False, rng=rng)
        assert 3 <= row["gcs"] <= 15
        assert 0 <= row["nihss_motor"] <= row["nihss"] <= 42
        assert math.isfinite(row["glucose_mmol_l"])


def test_injury_is_graded_from_the_maps() -> None:
    patient = small_patient()
    assert (
        worse_injury(patient) == "haematoma infiltration"
    )  # the bleed at (-28, 5) reaches the tract at (-24, -12)
    assert worse_injury(small_patient(bleeds=False)) == "no risk"
    everywhere = replace(patient, baseline=replace(patient.baseline, ich=(patient.tract[0] > 0).float()))
    assert worse_injury(everywhere) == "complete interruption"
    around = replace(
        patient,
        baseline=replace(patient.baseline, ich=patient.baseline.ich * 0, oedema=patient.tract[1]),
    )
    assert worse_injury(around) == "PHE infiltration"
    assert state_of(patient).ich_ml == patient.truth.ich_ml
