"""Where the model reads the follow-ups itself, people's outlines of a lot bring the evidence back."""

from __future__ import annotations

import numpy as np
import pytest

from ichnos.audit.lot import LOT_SHARE, in_lot
from ichnos.audit.monitoring.judges import BY_MODEL, BY_PEOPLE
from ichnos.audit.monitoring.live import live_evidence
from ichnos.errors import InputRefused
from ichnos.studies.hospital.model import factory_model
from ichnos.studies.hospital.outlines import OutlinedAgreement, outlined_agreements, taught_each_way
from ichnos.studies.hospital.year import HospitalPlan, HospitalYear, simulate_year

COVERAGE, SLOPE = "interval held of followup_volume", "calibration slope of expansion_probability"


@pytest.fixture(scope="module")
def years() -> list[HospitalYear]:
    model, plan = factory_model(), HospitalPlan(outlined=LOT_SHARE)
    return [simulate_year(plan, model, 900 + seed) for seed in range(12)]


@pytest.fixture(scope="module")
def agreements(years: list[HospitalYear]) -> list[dict[str, OutlinedAgreement]]:
    return [outlined_agreements(year) for year in years]


def test_the_model_judges_everybody_and_people_the_lot(years: list[HospitalYear]) -> None:
    year = years[0]
    pairs = {
        judge: {score.pair for score in year.scores if score.judge == judge} for judge in ("model", "person")
    }
    assert len(pairs["model"]) == year.followed.sum()
    assert pairs["person"] == {pair for pair in pairs["model"] if in_lot(pair)}


def test_people_s_outlines_are_the_same_whoever_judges_beside_them(years: list[HospitalYear]) -> None:
    """Hospitals of several plans are compared on the same patients, exams and outlines."""
    everything = simulate_year(HospitalPlan(), factory_model(), 900)
    lot = {score.key: score.truth for score in years[0].scores if score.judge == "person"}
    assert lot == {score.key: score.truth for score in everything.scores if score.key in lot}


def test_corrected_evidence_agrees_with_the_hidden_truth(
    agreements: list[dict[str, OutlinedAgreement]],
) -> None:
    for name, limit in ((COVERAGE, 0.03), (SLOPE, 0.2)):  # twelve hospitals; the study has a hundred
        assert abs(np.mean([one[name].corrected - one[name].hidden for one in agreements])) < limit
        assert np.mean([one[name].held for one in agreements]) > 0.7


def test_the_model_alone_flatters_itself(agreements: list[dict[str, OutlinedAgreement]]) -> None:
    assert np.mean([one[COVERAGE].model - one[COVERAGE].hidden for one in agreements]) > 0.04
    assert np.mean([one[SLOPE].model - one[SLOPE].hidden for one in agreements]) < -0.2


def test_the_model_s_own_judgement_teaches_wrong_and_people_s_outlines_do_no_harm(
    years: list[HospitalYear],
) -> None:
    every = [taught_each_way(year) for year in years]
    coverage, excess = (
        {who: np.mean([getattr(one[who], part) for one in every]) for who in every[0]}
        for part in ("coverage", "excess")
    )
    assert coverage[BY_MODEL] < 0.77 < coverage[BY_PEOPLE] < 0.84
    assert excess[BY_MODEL] > 0.05
    assert abs(excess[BY_PEOPLE]) < 0.03


def test_the_evidence_page_shows_what_the_study_measures(
    years: list[HospitalYear], agreements: list[dict[str, OutlinedAgreement]]
) -> None:
    year = years[0]
    tables = {table.name: table for table in live_evidence(year.scores, everyone=year.everyone()).tables}
    shown = {row[:3]: row[3] for row in tables["followups"].rows}
    value = shown["followup_volume", "interval held", "the model, corrected by people"]
    assert value.value == agreements[0][COVERAGE].corrected  # type: ignore[union-attr]


def test_a_hospital_with_too_few_outlines_is_refused() -> None:
    small = simulate_year(HospitalPlan(patients=100, outlined=LOT_SHARE), factory_model(), 1)
    with pytest.raises(InputRefused, match="too small to be corrected"):
        outlined_agreements(small)
