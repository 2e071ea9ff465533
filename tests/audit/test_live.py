"""The evidence page says what holds, how surely, by group, who is missing, and what moved."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from builders.audited import chance_score, measure, volume_score
from ichnos.audit.monitoring.inputs import ReadInput, first_seen, input_of, input_streams
from ichnos.audit.monitoring.live import live_evidence, score_streams
from ichnos.audit.monitoring.page import live_html, live_plain
from ichnos.audit.monitoring.selection import (
    selection_of,
    weigh_selection,
    weighted_calibration,
    weighted_mean,
)
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.tables import Table
from ichnos.reading import Finding, Record
from ichnos.reading.record import QualityReason


def some_scores(n: int = 60, *, sd: float = 4.0, scanner: str = "A") -> list:
    rng = np.random.default_rng(1)
    scores = []
    for k in range(n):
        scores.append(
            volume_score(k, 20, 20 + float(rng.normal(0, sd)), scanner=scanner, month=f"2026-0{k % 3 + 1}")
        )
        p = float(rng.uniform(0.1, 0.6))
        scores.append(chance_score(k, p, bool(rng.uniform() < p), scanner=scanner))
    return scores


def table(evidence: object, name: str) -> Table:
    (found,) = [t for t in evidence.tables if t.name == name]  # type: ignore[attr-defined]
    return found


def test_each_quantity_has_pairs_loss_coverage_and_agreement() -> None:
    rows = {row[0]: row for row in table(live_evidence(some_scores()), "quantities").rows}
    assert rows["followup_volume"][1] == 60
    held = rows["followup_volume"][3]
    assert isinstance(held, Estimate)
    assert held.low < 0.79 < held.high  # 5 mL of a standard deviation of 4
    assert isinstance(rows["expansion_probability"][4], Estimate)


def test_a_kept_claim_is_not_disproved_and_a_broken_one_is_broken() -> None:
    kept = {row[0]: row[-1] for row in table(live_evidence(some_scores()), "claims").rows}
    assert set(kept.values()) == {"not disproved"}
    broken = {row[0]: row[-1] for row in table(live_evidence(some_scores(sd=12.0)), "claims").rows}
    assert broken["interval of followup_volume"] == "broken"
    assert broken["expansion_probability"] == "not disproved"


def test_groups_add_up_to_the_whole() -> None:
    evidence = live_evidence([*some_scores(30), volume_score(99, 20, 20, scanner="B")])
    rows = [row for row in table(evidence, "by_scanner").rows if row[0] == "followup_volume"]
    assert [(row[1], row[2]) for row in rows] == [("A", 30), ("B", 1)]
    months = [row[2] for row in table(evidence, "by_month").rows if row[0] == "followup_volume"]
    assert sum(months) == 31  # type: ignore[arg-type]


def test_few_pairs_give_words_instead_of_numbers() -> None:
    evidence = live_evidence([chance_score(1, 0.2, False)])
    row = table(evidence, "quantities").rows[0]
    assert "needs at least one case" in str(row[4])
    assert "undefined" not in live_html(evidence).lower() or evidence.pairs == 1


def test_a_new_scanner_that_is_noisier_raises_a_named_alarm() -> None:
    rng = np.random.default_rng(2)
    inputs = [ReadInput(False, {"noise_hu": float(rng.normal(4, 0.3))}, "A") for _ in range(120)]
    inputs += [ReadInput(False, {"noise_hu": float(rng.normal(6, 0.3))}, "B") for _ in range(40)]
    evidence = live_evidence([], inputs)
    assert [alarm.stream for alarm in evidence.alarms] == ["noise of the CTs"]
    assert evidence.alarms[0].at < 140
    assert "noise of the CTs has changed" in live_html(evidence)


def test_refusals_that_become_frequent_raise_an_alarm() -> None:
    inputs = [ReadInput(n % 20 == 0) for n in range(200)] + [ReadInput(n % 3 > 0) for n in range(100)]
    assert [alarm.stream for alarm in live_evidence([], inputs).alarms] == ["share refused"]


def test_the_page_and_the_api_say_the_same() -> None:
    evidence = live_evidence(some_scores())
    plain = json.loads(json.dumps(live_plain(evidence), allow_nan=False))
    assert plain["pairs"] == 60
    html = live_html(evidence)
    for t in evidence.tables:
        assert t.caption in html
        assert len(plain["tables"][t.name]) == len(t.rows)
    assert "What this cannot know" in html
    assert "http" not in html  # nothing is fetched


# ---- inputs


def test_what_a_record_says_of_its_ct() -> None:
    reasons = tuple(
        QualityReason(name=n, level="pass", text="", value=v) for n, v in (("noise_hu", 4.2), ("x", 1.0))
    )
    finding = Finding(
        target="haematoma", status="read", sentence="", measures=(measure("ich_volume", 1.0, 0.5, 2),)
    )
    record = Record(name="a", status="read", findings=(finding,), quality=reasons)
    assert input_of(record, scanner="S") == ReadInput(False, {"noise_hu": 4.2}, "S")
    assert input_of(record.model_copy(update={"status": "refused"})).refused


def test_streams_of_inputs_share_their_half_of_alpha() -> None:
    streams = input_streams([ReadInput(False, {"noise_hu": 4.0})])
    assert math.isclose(sum(stream.weight for stream in streams), 0.5)
    assert input_streams([]) == []
    assert first_seen(["", "", "b"]) == (False, False, True)


def test_what_comes_later_neither_reorders_a_stream_nor_changes_its_share_of_alpha() -> None:
    def seen(count: int) -> dict:
        read = [replace(volume_score(k, 20, 20 + k), judge="model") for k in range(20)]
        later = [chance_score(1, 0.2, False), replace(volume_score(3, 20, 90), judge="person")]
        return {stream.name: stream for stream in score_streams([*read, *later][:count])}

    before, after = seen(20), seen(22)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1
    scores = [replace(chance_score(1, 0.2, False), quantity=f"q{k}") for k in range(200)]
    assert sum(stream.weight for stream in score_streams(scores)) <= 0.5


# ---- selection


def chosen(n: int = 3000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    severity = rng.normal(size=n)
    came = rng.uniform(size=n) < 1 / (1 + np.exp(-(severity - 0.5)))
    held = rng.uniform(size=n) < 1 / (1 + np.exp(-(1.5 - severity)))  # worse where it is severe
    return severity, came, held


def test_weights_bring_back_the_mean_of_everybody() -> None:
    severity, came, held = chosen()
    selection = weigh_selection({"severity": severity}, came)
    everybody = held.mean()
    raw, (weighted, error) = held[came].mean(), weighted_mean(held[came].astype(float), selection.weights)
    assert abs(raw - everybody) > 0.05
    assert abs(weighted - everybody) < 3 * error
    before, after = selection.differences["severity"]
    assert abs(after) < 0.1 < abs(before)
    assert selection.effective < came.sum()


def test_unknown_values_count_as_a_column_of_their_own() -> None:
    severity, came, _ = chosen(400)
    severity[::5] = np.nan
    assert np.isfinite(weigh_selection({"severity": severity}, came).chance).all()


def test_too_few_to_say_who_is_chosen() -> None:
    with pytest.raises(InputRefused, match="at least 10 of each"):
        weigh_selection({"x": np.zeros(12)}, [True] * 3 + [False] * 9)
    with pytest.raises(InputRefused, match="nothing is known of who gets the exam"):
        weigh_selection({}, [True] * 20 + [False] * 20)


def test_scores_find_their_weight_by_patient() -> None:
    everyone = {f"p{k}": {"severity": float(k)} for k in range(60)}
    scores = [volume_score(k, 20, 20) for k in range(30, 60)]
    _, weights = selection_of(scores, everyone)
    assert set(weights) == {f"p{k}" for k in range(30, 60)}
    rows = table(live_evidence(scores, everyone=everyone), "selection").rows
    assert any("severity" in str(row[1]) for row in rows)


def test_weighted_calibration_is_the_plain_one_with_equal_weights_and_ignores_weight_zero() -> None:
    rng = np.random.default_rng(6)
    p = rng.uniform(0.05, 0.9, 500)
    y = (rng.uniform(size=500) < p).astype(float)
    plain = weighted_calibration(y, p, np.ones(500))
    doubled = weighted_calibration(
        np.append(y, 1 - y), np.append(p, p), np.append(np.ones(500), np.zeros(500))
    )
    assert np.allclose(plain, doubled)
    from ichnos.evidence.metrics.calibration import calibration

    assert plain[1] == pytest.approx(calibration(y, p).slope.value, abs=1e-4)
