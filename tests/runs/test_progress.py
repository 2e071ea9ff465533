"""Progress off a terminal is a few lines; on request it is nothing."""

from __future__ import annotations

import pytest

from ichnos.runs.progress import progress_bar


def test_off_a_terminal_there_are_a_few_lines_and_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("read", 100, 40, show=True) as advance:
        for k in range(60):
            advance(int(k > 30))
    lines = capsys.readouterr().err.splitlines()
    assert 10 <= len(lines) <= 20
    assert lines[0].startswith("read: 45 of 100, about")
    assert lines[-1] == "read: 100 of 100, 1 failed, about 0 s left"


def test_asked_for_nothing_it_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("read", 3, 0, show=False) as advance:
        advance(0)
    assert capsys.readouterr() == ("", "")
