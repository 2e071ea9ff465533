"""Both studies of targets on CT run from nothing to their page: every stage at its smallest, on a few
virtual patients.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ichnos.cli.main import run


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "ways"), [("ryu2025", 3), ("murray2024", 4)])
def test_smoke(name: str, ways: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", name, "--smoke", "-o", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    main = told["tables"][0]
    assert main["name"] == name
    assert len(main["rows"][0]) == ways + 3, "measure, paper, each way, limit"
    assert isinstance(main["rows"][0]["limit"], (dict, str))
    values = [value for way in list(main["rows"][0])[2:-1] for value in [main["rows"][0][way]]]
    assert all(isinstance(value, dict) and 0 <= value["value"] <= 1 for value in values), (
        "a Dice of every way was measured"
    )
    assert told["provenance"]["smoke"] == 1
    html = (tmp_path / "study.html").read_text(encoding="utf-8")
    assert "Smoke run." in html
    assert (tmp_path / "models").is_dir()
    assert run(["study", name, "--smoke", "-o", str(tmp_path), "--json"]) == 0, (
        "run again, it takes up what is there"
    )
    assert json.loads(capsys.readouterr().out)["tables"] == told["tables"]
