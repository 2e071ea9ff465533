"""The tutorial's code runs as printed, and says what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def python_blocks(page: Path) -> list[str]:
    """Return the Python code of a page, block by block."""
    return re.findall(
        r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


def test_the_tutorial_runs_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = REPOSITORY / "docs" / "tutorial.md"
    names: dict[str, Any] = {"cache": tmp_path / "cache", "out": tmp_path / "out"}
    for block in python_blocks(page):
        exec(compile(block, str(page), "exec"), names)
    printed = capsys.readouterr().out
    assert names["volume_ml"] == pytest.approx(20, rel=0.4)
    assert re.search(r"Dice 0\.\d\d", printed)
    assert (tmp_path / "out" / "report.html").is_file()


def test_blocks_are_found_in_order(tmp_path: Path) -> None:
    (tmp_path / "p.md").write_text("a\n```python\nx = 1\n```\n```\nno\n```\n```python\ny = 2\n```\n")
    assert python_blocks(tmp_path / "p.md") == ["x = 1\n", "y = 2\n"]
