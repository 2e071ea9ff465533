"""One outcome: what counts as the event, what the operating point decides, what the rivals are, and what is
said where nothing can be said.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ichnos.clinical.scores import Comparator
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.intervals import proportion
from ichnos.evidence.metrics.thresholds import OperatingPoint, rates
from ichnos.evidence.pack.outcomes.adjusted import LEAST_TO_ADJUST, adjusted_effects
from ichnos.evidence.pack.outcomes.data import LEAST_TO_CALIBRATE, OutcomeData, outcome_truth
from ichnos.evidence.pack.outcomes.discrimination import centres_table, rates_table, rivals_table
from ichnos.evidence.pack.plan import EvidencePlan, OutcomePlan

EXPANSION = OutcomePlan(name="expansion", probability="expansion_probability")
RANKIN = OutcomePlan(name="mRS 0 to 3", probability="p", truth="mrs", at_most=3, adjust_for=("age_years",))


def _data(n: int = 120, *, plan: OutcomePlan = EXPANSION, seed: int = 0, tuning: int = 0) -> OutcomeData:
    """Return an outcome that the score half knows, in three centres."""
    rng = np.random.default_rng(seed)
    events = rng.random(n) < 0.35
    score = np.clip(0.35 + 0.25 * (events - 0.35) + 0.2 * rng.normal(size=n), 0.01, 0.99)
    rows = pd.DataFrame({"centre": np.array(["A", "B", "C"])[np.arange(n) % 3]})
    rows["age_years"] = rng.normal(65, 12, n)
    later = np.arange(tuning) % 2 == 0
    return OutcomeData(plan, "stem", events, score, rows, 0, later, np.linspace(0.1, 0.9, tuning))


def test_an_ordinal_outcome_is_cut_where_the_plan_says_and_stays_unknown_where_it_is() -> None:
    table = pd.DataFrame({"mrs": [0, 3, 4, None, "n/a"]})
    assert outcome_truth(EvidencePlan(), RANKIN, table)[:3].tolist() == [1.0, 1.0, 0.0]
    assert np.isnan(outcome_truth(EvidencePlan(), RANKIN, table)[3:]).all()


def test_expansion_needs_a_bleed_at_baseline() -> None:
    table = pd.DataFrame({"ich_ml": [20, 20, 0, None], "ich_followup_ml": [30, 21, 10, 30]})
    truth = outcome_truth(EvidencePlan(), EXPANSION, table)
    assert truth[:2].tolist() == [1.0, 0.0]
    assert np.isnan(truth[2:]).all()


@pytest.mark.parametrize(
    ("plan", "outcome", "why"),
    [
        (EvidencePlan(), RANKIN, "mRS 0 to 3 needs the column 'mrs', which the cohort does not have"),
        (EvidencePlan(), EXPANSION, r"needs the column\(s\) ich_followup_ml, which"),
        (EvidencePlan(expansion="revised"), EXPANSION, "ich_followup_ml, ivh_ml, ivh_followup_ml"),
    ],
)
def test_columns_that_decide_an_outcome_and_are_missing_are_named(
    plan: EvidencePlan, outcome: OutcomePlan, why: str
) -> None:
    with pytest.raises(InputRefused, match=why):
        outcome_truth(plan, outcome, pd.DataFrame({"ich_ml": [1.0]}))


def test_a_validation_split_can_tune_from_so_many_cases_of_each_outcome_on() -> None:
    assert not _data(tuning=2 * LEAST_TO_CALIBRATE - 2).can_tune
    assert _data(tuning=2 * LEAST_TO_CALIBRATE).can_tune


def test_a_score_beyond_nought_and_one_is_no_probability() -> None:
    data = _data()
    assert data.is_probability
    assert not OutcomeData(
        EXPANSION, "s", data.events, 3 * data.score, None, 0, *(np.zeros(0),) * 2
    ).is_probability


def test_counts_of_the_operating_point_add_up_to_all_cases() -> None:
    data = _data()
    decided = rates(data.events, data.score, OperatingPoint(0.4, "given", "beforehand"))
    table = rates_table(data, decided, proportion(int(data.events.sum()), data.events.size))
    cases = {str(row[0]): str(row[2]) for row in table.rows}
    hits, events = map(int, cases["Sensitivity"].split(" / "))
    passed, others = map(int, cases["Specificity"].split(" / "))
    assert events + others == data.events.size == int(cases["Accuracy"].split(" / ")[1])
    assert hits + passed == int(cases["Accuracy"].split(" / ")[0])
    assert cases["PPV"].split(" / ")[0] == str(hits)
    assert cases["NPV"].split(" / ")[0] == str(passed)
    assert cases["Prevalence"] == f"{events} / {data.events.size}"
    assert table.note == "Threshold 0.400, given, chosen beforehand."


def test_rivals_without_facts_are_named_and_the_others_compared_on_shared_cases() -> None:
    data = _data()
    volume = np.where(np.arange(120) < 20, np.nan, data.events + np.random.default_rng(1).normal(size=120))
    rivals = (
        Comparator("volume", volume, ""),
        Comparator("bat", np.zeros(0), "no column blend_sign"),
        Comparator("hep", np.where(np.arange(120) < 3, 1.0, np.nan), ""),
    )
    table, curves, notes = rivals_table(data, rivals)
    assert [row[:2] for row in table.rows] == [("Model", 120), ("Baseline volume", 100)]
    assert list(curves) == ["volume"]
    assert notes == (
        "BAT was not compared: no column blend_sign.",
        "HEP was not compared: too few cases have every fact it needs.",
    )


def test_one_rival_needs_no_correction_and_two_are_never_less_certain_without() -> None:
    data, rng = _data(), np.random.default_rng(2)
    both = [Comparator(name, rng.normal(size=120), "") for name in ("volume", "bat")]
    alone, _, _ = rivals_table(data, both[:1])
    assert alone.rows[1][5] == alone.rows[1][6]
    together, _, _ = rivals_table(data, both)
    plain, adjusted = ([float(str(row[k]).lstrip("< ")) for row in together.rows[1:]] for k in (5, 6))
    assert all(a >= p for a, p in zip(adjusted, plain, strict=True))


def test_centres_with_one_outcome_are_left_out_by_name() -> None:
    data = _data()
    data.events[data.rows["centre"] == "B"] = False
    (table,), figures = centres_table(data)
    assert [row[0] for row in table.rows] == ["A", "C"]
    assert "left out: B" in table.note
    assert figures == []  # two centres say nothing about a third


def test_three_centres_are_pooled_and_one_centre_has_no_table() -> None:
    (table,), figures = centres_table(_data())
    assert [row[0] for row in table.rows][:4] == ["A", "B", "C", "Mean of centres (random effects)"]
    assert len(figures) == 1
    one = _data()
    one.rows["centre"] = "A"
    assert centres_table(one) == ([], [])


def test_the_score_is_adjusted_for_facts_that_vary() -> None:
    data = _data(plan=RANKIN)
    data.rows["constant"] = 1.0
    table, figure = adjusted_effects(data) or (None, None)
    assert table is not None
    assert [row[0] for row in table.rows] == ["model_score", "age_years"]
    assert figure is not None
    with_constant = OutcomePlan(**{**dict(RANKIN), "adjust_for": ("age_years", "constant")})
    again, _ = adjusted_effects(_replaced(data, with_constant)) or (None, None)
    assert again is not None
    assert [row[0] for row in again.rows] == ["model_score", "age_years"]


def test_no_adjustment_without_facts_with_few_events_or_with_a_constant_score() -> None:
    without_facts = OutcomePlan(name="expansion", probability="p", adjust_for=())
    assert adjusted_effects(_data(plan=without_facts)) is None
    few = _data(plan=RANKIN)
    few.events[np.flatnonzero(few.events)[LEAST_TO_ADJUST - 1 :]] = False
    assert adjusted_effects(few) is None
    constant = _data(plan=RANKIN)
    constant.score[:] = 0.5
    assert adjusted_effects(constant) is None


def _replaced(data: OutcomeData, plan: OutcomePlan) -> OutcomeData:
    return OutcomeData(
        plan, data.stem, data.events, data.score, data.rows, 0, data.tuning_events, data.tuning_score
    )
