"""`ichnos simulate --check`: the realism table in a terminal and as JSON."""

from __future__ import annotations

import json

import pytest

from ichnos.cli.main import run
from ichnos.simulation.check import voxels
from ichnos.simulation.check.realism import RealismRow


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Three rows instead of patients in voxels; returns the seeds that were asked for."""
    asked: list[int] = []

    def rows(head: object, seeds: range, *, each: object) -> list[RealismRow]:
        asked.extend(seeds)
        nan = float("nan")
        return [
            RealismRow(
                "haematoma, elongation", 1.5, (1.4, 1.6), "1.47", (1.32, 1.62), "masks", 40, (1.3, 1.7)
            ),
            RealismRow("midline shift", 2.0, (1.5, 2.4), "3 to 6", (3.0, 6.0), "our aim", 30),
            RealismRow("pieces", nan, (nan, nan), "4", (2.0, 4.0), "masks", 2),
        ]

    monkeypatch.setattr(voxels, "simulated_rows", rows)
    monkeypatch.setattr("ichnos.simulation.heads.from_mni.mni_head", lambda cache: None)
    return asked


def test_the_table_has_every_quantity_with_band_source_and_verdict(
    few: list[int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["simulate", "--check", "--patients", "3", "--seed", "7"]) == 0
    assert few == [7000, 7001, 7002]
    out = capsys.readouterr().out
    line = {words: next(line for line in out.splitlines() if words in line) for words in ("shift", "pieces")}
    assert "NO" in line["shift"]
    assert "2 (1.5 to 2.4)" in line["shift"]
    assert "too few" in line["pieces"]
    assert "odds ratio of anticoagulation" in out
    assert "Yu 2025, npj Digit Med" in out
    assert "s of processor time" in out


def test_json_holds_the_same_rows_and_null_for_what_is_not_known(
    few: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["simulate", "--check", "--json"]) == 0
    assert len(few) == voxels.PATIENTS
    result = json.loads(capsys.readouterr().out)
    rows = {row["quantity"]: row for row in result["realism"]}
    assert rows["haematoma, elongation"]["quartiles"] == [1.3, 1.7]
    assert rows["pieces"]["value"] is None
    assert rows["pieces"]["verdict"] == "too few"
    assert result["sheet"] is None
    assert result["cpu_seconds"] < 60


def test_a_cohort_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--patients", "2"]) == 3
    assert "give the folder of the cohort, or --check" in capsys.readouterr().err
