"""The simulated hospital: a known truth, partner exams that show it, and changes that are noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ichnos.audit.lot import LOT_SHARE
from ichnos.audit.monitoring.live import live_evidence
from ichnos.evidence.metrics.discrimination import auc
from ichnos.studies.hospital import scenarios
from ichnos.studies.hospital.measures import (
    NEVER,
    agreements,
    alarm_times,
    alarms_of,
    harmful,
    recalibrated_coverage,
)
from ichnos.studies.hospital.model import FactoryModel, factory_model
from ichnos.studies.hospital.people import draw_people, followup_chance
from ichnos.studies.hospital.scanners import NEW, OLD, with_protocol
from ichnos.studies.hospital.scenarios import hospitals_of
from ichnos.studies.hospital.study import HospitalBudget, hospital_study
from ichnos.studies.hospital.year import HospitalPlan, HospitalYear, simulate_year

PLAN = HospitalPlan(patients=1000)


@pytest.fixture(scope="module")
def model() -> FactoryModel:
    return factory_model()


@pytest.fixture(scope="module")
def quiet(model: FactoryModel) -> HospitalYear:
    return simulate_year(PLAN, model, 11)


def test_the_same_seed_gives_the_same_hospital(model: FactoryModel, quiet: HospitalYear) -> None:
    assert simulate_year(PLAN, model, 11).scores == quiet.scores
    assert simulate_year(PLAN, model, 12).scores != quiet.scores


def test_the_model_keeps_its_promises_on_everybody(quiet: HospitalYear) -> None:
    for quantity in ("followup_volume", "leukoaraiosis_volume"):
        held = [bool(s.held) for s in quiet.hidden if s.quantity == quantity]
        assert abs(np.mean(held) - 0.8) < 0.05
    risk = [s for s in quiet.hidden if s.quantity == "expansion_probability"]
    area = auc([s.truth for s in risk], [s.predicted for s in risk]).value
    assert 0.68 < area < 0.84  # the shipped growth model has 0.77


def test_partner_exams_come_by_indication(model: FactoryModel, quiet: HospitalYear) -> None:
    people, read = quiet.people, quiet.readings
    assert quiet.followed.mean() == pytest.approx(0.55, abs=0.05)
    assert np.log(read.ich_ml[quiet.followed]).mean() > np.log(read.ich_ml[~quiet.followed]).mean()
    unseen = followup_chance(people, read.ich_ml, read.probability, unseen=2.0)
    assert np.corrcoef(unseen, people.grown_ml)[0, 1] > 0.4
    assert len(quiet.scores) == 2 * quiet.followed.sum() + quiet.imaged.sum()


def test_weighted_scores_agree_with_the_hidden_truth(quiet: HospitalYear) -> None:
    for quantity, one in agreements(quiet).items():
        limit = 0.35 if quantity.endswith("expansion_probability") else 0.06  # of one hospital of 1,000
        assert abs(one.weighted - one.hidden) < limit, quantity


def test_a_follow_up_read_by_the_same_model_hides_its_errors(model: FactoryModel) -> None:
    biased = replace(PLAN, outlined=0.0, replaced_in=1, new=replace(NEW, bias=0.5))
    found = agreements(simulate_year(biased, model, 3))["coverage of followup_volume"]
    assert found.weighted > found.hidden + 0.1


def test_a_quiet_hospital_raises_no_alarm(quiet: HospitalYear) -> None:
    assert alarms_of(quiet, 0) == []


def test_a_new_scanner_is_named_within_fifty_pairs(model: FactoryModel) -> None:
    new = harmful(model, "bias", 5.0)
    times = alarm_times(simulate_year(replace(PLAN, replaced_in=4, new=new), model, 21), 4, 0)
    assert 0 <= times.any <= 50
    assert times.before == 0
    assert "CTs" in times.named
    assert times.promise == NEVER or times.promise > times.any


def test_harm_costs_what_it_should(model: FactoryModel) -> None:
    grave = harmful(model, "spread", 15.0)
    assert 1 < grave.spread < 3
    years = [simulate_year(replace(PLAN, replaced_in=1, new=new), model, 31) for new in (NEW, grave)]
    held = [np.mean([bool(s.held) for s in y.hidden if s.quantity == "followup_volume"]) for y in years]
    assert held[0] - held[1] == pytest.approx(0.15, abs=0.04)


def test_recalibration_from_forty_pairs_restores_the_promise(model: FactoryModel) -> None:
    new = harmful(model, "bias", 15.0)
    after = []
    for seed in range(4):
        year = simulate_year(replace(PLAN, replaced_in=3, new=new), model, 40 + seed)
        found = recalibrated_coverage(year, 3, 40)
        assert found["followup_volume"].before < 0.72
        after.append(found["followup_volume"].after)
        # an exam that errs makes the model seem worse, and the interval too wide
        assert all(one.after <= one.plain for one in found.values())
    assert np.mean(after) == pytest.approx(0.8, abs=0.08)  # four hospitals


def test_thinner_slices_are_noisier_and_named(model: FactoryModel) -> None:
    assert with_protocol(OLD, 2.5).noise_hu > OLD.noise_hu
    named = {alarm.stream for alarm in alarms_of(simulate_year(replace(PLAN, protocol_in=5), model, 51), 0)}
    assert {"noise of the CTs", "slice distance of the CTs"} <= named
    assert not any("error" in stream for stream in named)  # it costs nothing


def test_the_evidence_page_takes_a_hospital(quiet: HospitalYear) -> None:
    evidence = live_evidence(quiet.scores, quiet.inputs, everyone=quiet.everyone())
    assert {table.name for table in evidence.tables} >= {"quantities", "claims", "by_scanner", "selection"}


def test_people_arrive_in_order() -> None:
    month = draw_people(100, 8, 1).month
    assert (np.diff(month) >= 0).all()


def test_every_hospital_is_measured_once_and_the_page_says_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenarios, "_harmful", lambda kind, points: replace(NEW, bias=0.3))
    budget = HospitalBudget(count=1, patients=500)
    page = hospital_study(budget, tmp_path)
    assert [table.name for table in page.tables] == [
        "agreement", "outlined", "quiet", "alarms", "bound", "recalibration", "taught", "protocol", "sites",
    ]  # fmt: skip
    monkeypatch.setattr(scenarios, "simulate_year", None)  # nothing is run again
    again = hospital_study(budget, tmp_path)
    assert [t.markdown() for t in again.tables] == [t.markdown() for t in page.tables]


def test_hospitals_have_names_and_plans_of_their_own() -> None:
    every = hospitals_of(3, 100)
    assert len({hospital.id for hospital in every}) == len(every) == 3 * (7 + 4) + 15 + 3 + 5
    plans = {one.scenario: one.plan() for one in every if one.scenario not in scenarios.CHANGED}
    assert plans["follow-up read by the model"].outlined == 0
    assert plans["follow-up read by the model, a lot outlined"].outlined == LOT_SHARE
    assert plans["thinner slices"].scanner(6).step_mm < plans["thinner slices"].scanner(5).step_mm
