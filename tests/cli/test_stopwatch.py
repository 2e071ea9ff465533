"""Minutes of a work are those of all its calls, and a call that is killed counts up to its last minute."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ichnos.cli.terminal.stopwatch import Stopwatch

KILLED = """
import sys, time
from pathlib import Path
from ichnos.cli.terminal.stopwatch import Stopwatch
with Stopwatch(Path(sys.argv[1]), every_s=0.1):
    print("begun", flush=True)
    time.sleep(60)
"""


def test_a_call_goes_on_from_the_minutes_of_earlier_ones(tmp_path: Path) -> None:
    file = tmp_path / "study" / "minutes.json"
    with Stopwatch(file) as spent:
        assert spent() < 0.5
    file.write_text("12.5\n")
    with Stopwatch(file) as spent:
        assert 12.5 <= spent() < 13
    assert 12.5 <= json.loads(file.read_text()) < 13


def test_a_killed_call_has_counted_without_having_been_asked(tmp_path: Path) -> None:
    file = tmp_path / "minutes.json"
    command = [sys.executable, "-c", KILLED, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as call:
        assert call.stdout is not None
        assert call.stdout.readline() == "begun\n"
        time.sleep(1)
        call.kill()
    assert 0.5 / 60 < json.loads(file.read_text()) < 1


def test_nothing_is_written_after_the_end(tmp_path: Path) -> None:
    file = tmp_path / "minutes.json"
    with pytest.raises(KeyError), Stopwatch(file, every_s=0.01):
        raise KeyError
    file.unlink(missing_ok=True)
    time.sleep(0.1)
    assert not file.exists()
