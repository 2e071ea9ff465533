"""The lot picks for ever and without looking; only what it picked, or nearly everything, corrects."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from builders.audited import chance_score, volume_score
from ichnos.audit.lot import (
    LOT_SHARE,
    WantedOutline,
    in_lot,
    independent_scores,
    outline_count,
    outlines_text,
    pairs_to_outline,
    watched_scores,
)
from ichnos.audit.monitoring.duel import duel
from ichnos.audit.monitoring.judges import BY_MODEL, BY_PEOPLE, CORRECTED, SLOPE, followup_numbers, judged_by
from ichnos.audit.monitoring.live import live_evidence, score_streams
from ichnos.audit.monitoring.page import live_html
from ichnos.audit.pairing import split_of
from ichnos.audit.recalibration import recalibrate, what_is_left_out
from ichnos.audit.score import Judge, Score, first_judged, standing
from ichnos.audit.statistics import BY_ITSELF, site_statistics
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.intervals import Estimate, proportion

NAMES = [f"p{n}-followup" for n in range(5000)]


def test_the_lot_is_the_same_for_ever_and_about_its_share() -> None:
    assert [in_lot(name) for name in NAMES] == [in_lot(name) for name in NAMES]
    assert np.mean([in_lot(name) for name in NAMES]) == pytest.approx(LOT_SHARE, abs=0.02)
    assert [n for n in range(30) if in_lot(f"p{n}-followup")] == [0, 4, 5, 6, 9, 15, 18, 27]  # never others


def test_a_greater_share_keeps_whom_a_smaller_one_has() -> None:
    shares = [{name for name in NAMES if in_lot(name, share=s)} for s in (0.1, 0.2, 0.5, 1.0)]
    assert all(small <= large for small, large in pairwise(shares))
    assert len(shares[-1]) == len(NAMES)


def test_the_lot_is_none_of_the_splits() -> None:
    test = [name for name in NAMES if split_of(name) == "test"]
    assert np.mean([in_lot(name) for name in test]) == pytest.approx(LOT_SHARE, abs=0.04)


# ---- whose judgement counts


def both(n: int = 300, *, outlined: int = 300, others: int = 0) -> list[Score]:
    """Return pairs whose model flatters itself, and people's outlines of some of the lot and of others."""
    rng = np.random.default_rng(0)
    scores: list[Score] = []
    lot = [k for k in range(n) if in_lot(f"p{k}-followup")][:outlined]
    beside = [k for k in range(n) if not in_lot(f"p{k}-followup")][:others]
    for k in range(n):
        p, error = float(rng.uniform(0.05, 0.7)), float(rng.normal(0, 6))
        event = rng.uniform() < p
        flat = event if rng.uniform() < 0.7 else not event
        by: list[tuple[Judge, float, bool]] = [("model", 20 + error / 3, flat)]
        by += [("person", 20 + error, event)] if k in {*lot, *beside} else []
        for judge, truth, label in by:
            scores += [volume_score(k, 20, truth, judge=judge), chance_score(k, p, bool(label), judge=judge)]
    return scores


def judges(scores: list[Score]) -> dict[str, int]:
    return {judge: sum(score.judge == judge for score in scores) for judge in ("exam", "model", "person")}


def test_a_pair_counts_once_and_people_come_first() -> None:
    scores = both(100)
    wanted = sum(in_lot(f"p{k}-followup") for k in range(100))
    assert judges(standing(scores)) == {"exam": 0, "model": 2 * (100 - wanted), "person": 2 * wanted}
    assert judges(first_judged(scores)) == {"exam": 0, "model": 200, "person": 0}
    assert [len(stream.values) for stream in score_streams(scores)] == [100, 100, 100]


def test_outlines_that_somebody_picked_correct_nothing() -> None:
    scores = both(100, others=30)
    wanted = {score.pair for score in independent_scores(scores)}
    assert wanted
    assert all(in_lot(pair) for pair in wanted)
    assert outline_count(scores).others == 30


def test_where_nearly_everything_is_outlined_all_of_it_counts() -> None:
    everything = [replace(score, judge="person") for score in both(100) if score.judge == "model"]
    scores = [*everything, *[volume_score(k, 20, 20, judge="model") for k in range(100, 105)]]
    assert len({score.pair for score in independent_scores(scores)}) == 100
    assert judges(watched_scores([*both(100), *everything])) == {"exam": 0, "model": 0, "person": 200}


def test_other_exams_count_all() -> None:
    scores = [replace(volume_score(k, 20, 21), partner="flair") for k in range(5)]
    assert independent_scores(scores) == scores


def test_what_waits_for_a_person() -> None:
    scores = both(100, outlined=5)
    count = outline_count(scores)
    waiting = pairs_to_outline(scores)
    assert (count.by_model, count.outlined) == (100, 5)
    assert len(waiting) == count.wanted - 5 == len({score.pair for score in waiting})
    text = outlines_text([WantedOutline("A,1", ("followup",), "2026-03")])
    assert list(csv.reader(text.splitlines()))[1] == ["A,1", "followup", "2026-03"]


# ---- what the evidence shows


def test_the_evidence_names_the_model_s_own_judgement_and_corrects_it() -> None:
    scores = both(600)
    by_means = {one.means: one for one in followup_numbers(scores, {}) if one.number == SLOPE}
    alone, corrected = by_means[BY_MODEL].value, by_means[CORRECTED].value
    assert isinstance(alone, Estimate)
    assert isinstance(corrected, Estimate)
    assert alone.high < 0.7  # the truth is 1
    assert corrected.low < 1 < corrected.high
    assert by_means[CORRECTED].outlined == by_means[BY_PEOPLE].pairs == outline_count(scores).wanted
    tables = {table.name: table for table in live_evidence(scores).tables}
    slope = next(row for row in tables["quantities"].rows if row[0] == "expansion_probability")
    assert "no judge of it" in str(slope[5])
    assert "the model itself (" in str(slope[6])
    assert tables["outlines"].rows[0][0] == 600
    assert "Outlines by people" in live_html(live_evidence(scores))


def test_few_outlines_give_the_number_that_is_wanted_instead() -> None:
    scores = both(300, outlined=7)
    said = [one.value for one in followup_numbers(scores, {}) if one.means != BY_MODEL]
    assert {str(value) for value in said} == {"7 outlined pairs of the lot; 20 are needed"}


def test_a_promise_is_held_against_people_alone() -> None:
    claims = {row[0]: row for t in live_evidence(both(600)).tables if t.name == "claims" for row in t.rows}
    assert claims["interval of followup_volume"][-1] == "broken"  # the model alone would keep it
    alone = [score for score in both(600) if score.judge == "model"]
    claims = {row[0]: row for t in live_evidence(alone).tables if t.name == "claims" for row in t.rows}
    assert claims["followup_volume"][-1] == "outlines are wanted"


def test_without_follow_ups_that_the_model_judged_nothing_is_added() -> None:
    evidence = live_evidence([volume_score(k, 20, 21) for k in range(30)])
    assert not {"outlines", "followups"} & {table.name for table in evidence.tables}
    assert judged_by([volume_score(1, 20, 21)]) == "the exam"


def test_sites_exchange_what_the_model_judged_under_a_name_of_its_own() -> None:
    found = {(one.quantity, one.number): one for one in site_statistics(both(600), site="north")}
    slopes = [
        found["expansion_probability", "calibration slope" + ending].value for ending in ("", BY_ITSELF)
    ]
    assert slopes[1] < 0.7 < slopes[0]
    alone = [score for score in both(600) if score.judge == "model"]
    assert all(one.number.endswith(BY_ITSELF) for one in site_statistics(alone, site="north"))


def test_models_that_judge_themselves_are_not_compared() -> None:
    first = both(300)
    scores = [*first, *[replace(score, model="new", predicted=score.predicted * 0.9) for score in first]]
    compared = {one.quantity: one.pairs for one in duel(scores, first[0].model, "new")}
    assert compared["followup_volume"] == outline_count(first).wanted
    alone = [score for score in scores if score.judge == "model"]
    assert duel(alone, first[0].model, "new") == []


# ---- what teaches


def test_the_model_s_own_judgement_teaches_nothing() -> None:
    alone = [score for score in both(300) if score.judge == "model"]
    with pytest.raises(InputRefused, match=r"there are none. Left out: followup_volume, expansion_prob"):
        recalibrate(alone)
    fitted = recalibrate(both(300))
    wanted = outline_count(both(300)).wanted
    assert fitted.pairs == fitted.intervals["followup_volume"].pairs == wanted
    assert fitted.intervals["followup_volume"].high > 1.2  # the model alone would make it narrower
    assert what_is_left_out(both(300)) == ""


def test_other_exams_teach_while_follow_ups_are_left_out() -> None:
    flair = [
        replace(
            volume_score(k, 20, 22 + k % 4), partner="flair", quantity="leukoaraiosis_volume", pair=f"f{k}"
        )
        for k in range(30)
    ]
    scores = [*flair, *both(200, outlined=3)]
    assert set(recalibrate(scores).intervals) == {"leukoaraiosis_volume"}
    assert "followup_volume, expansion_probability" in what_is_left_out(scores)


def test_where_every_outlined_interval_held_the_share_is_not_known_exactly() -> None:
    lot = [k for k in range(200) if in_lot(f"p{k}-followup")][:20]
    scores = [volume_score(k, 20, 20.0, judge="model") for k in range(200)]
    scores += [volume_score(k, 20, 20.0, judge="person") for k in lot]
    found = {one.means: one.value for one in followup_numbers(scores, {})}
    for means in (CORRECTED, BY_PEOPLE):
        assert (found[means].value, found[means].low) == (1.0, proportion(20, 20).low)  # not 1 (1 to 1)
        assert found[means].high == 1.0
    assert found[BY_MODEL].low == proportion(200, 200).low
