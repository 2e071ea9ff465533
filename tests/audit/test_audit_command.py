"""`ichnos audit` from the command line: table, page, statistics, and two models beside each other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from builders.audited import MODEL, volume_score
from ichnos.audit import run as audit_run
from ichnos.audit.lot import WantedOutline
from ichnos.audit.run import AuditSummary
from ichnos.audit.score import Score, scores_text
from ichnos.audit.statistics import read_statistics
from ichnos.cli.main import run
from ichnos.evidence.leakage import TrainingImage, write_training


def given(monkeypatch: pytest.MonkeyPatch, out: Path, scores: list[Score], **more: object) -> None:
    """Let the audit find these scores."""
    out.mkdir()
    table = out / "scores.csv"
    table.write_text(scores_text(scores))
    summary = AuditSummary(tuple(scores), (), (("A1-flair", "another head"),), 2, len(scores), table)
    changed = replace(summary, **more)  # type: ignore[arg-type]
    monkeypatch.setattr(audit_run, "audit_cohort", lambda *a, **k: changed)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "cohort").mkdir()
    (tmp_path / "readings").mkdir()
    return tmp_path


def call(place: Path, *more: str) -> list[str]:
    return [
        "audit",
        str(place / "cohort"),
        "--readings",
        str(place / "readings"),
        "-o",
        str(place / "out"),
        *more,
    ]


def some(n: int = 15, model: str = MODEL) -> list[Score]:
    return [Score(**{**volume_score(k, 20, 20 + k % 7).__dict__, "model": model}) for k in range(n)]


def test_table_page_and_statistics_are_written(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(monkeypatch, place / "out", some())
    assert run(call(place, "--json", "--site", "north")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["scores"], told["unread"], told["to_outline"]) == (15, 2, 0)
    assert told["refused"] == [{"id": "A1-flair", "why": "another head"}]
    assert Path(told["page"]).is_file()
    assert {one.site for one in read_statistics(place / "out")} == {"north"}


def test_people_read_a_line_per_quantity_and_who_was_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = (WantedOutline("A1", ("ct",), "2026-03"),)
    judged = [*some(), replace(some(1)[0], judge="person")]  # one pair twice, which counts once
    given(monkeypatch, place / "out", judged, to_outline=waiting)
    assert run(call(place)) == 0
    said = capsys.readouterr()
    assert "a person's outline: 1 (" in said.out
    assert "15" in next(line for line in said.out.splitlines() if "followup_volume" in line)
    assert "followup_volume" in said.out
    assert "2 patients had no reading" in said.out
    assert "another head" in said.err


def test_two_models_are_compared_and_those_who_taught_left_out(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, place / "out", [*some(), *some(model="new")])
    taught = place / "training.csv"
    write_training([TrainingImage("sub-p1", "p1"), TrainingImage("sub-p2", "p2")], taught)
    assert run(call(place, "--training", str(taught), "--json")) == 0
    evidence = json.loads((place / "out" / "evidence.json").read_text())
    assert evidence["models"] == ["new"]
    assert evidence["pairs"] == 13
    (row,) = evidence["tables"]["duel"]
    assert row["pairs of both"] == 13
    assert row["so far"] == "not decided"


def test_no_score_gives_a_page_that_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, place / "out", [])
    assert run(call(place, "--json")) == 0
    evidence = json.loads((place / "out" / "evidence.json").read_text())
    assert (evidence["pairs"], evidence["tables"]) == (0, {})
