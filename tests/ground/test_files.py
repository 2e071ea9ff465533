"""Files that are whole or not there, and folders that one process writes at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ichnos.errors import UsageError
from ichnos.files import atomic_file, remove_partials, sole_writer


def _fail_while_writing(path: Path) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("whole")
    with pytest.raises(RuntimeError):
        _fail_while_writing(path)
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]
    assert path.read_text() == "whole"


def test_half_written_files_and_folders_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    for name in (
        "cases/01.4ed836bd.partial/hu.npy",
        ".tmp-5b475955-log.jsonl",
        "cases/02/hu.npy",
        "model.pt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with sole_writer(tmp_path):
        left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"cases/02/hu.npy", "model.pt", "lock"}


def test_a_second_process_is_refused_and_the_folder_is_free_after_a_kill(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from ichnos.files import sole_writer\n"
        "with sole_writer(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"in\n"
        with pytest.raises(UsageError, match="another run is writing"), sole_writer(tmp_path):
            pass
        child.kill()
        child.wait()
    with sole_writer(tmp_path):
        pass


def test_what_is_gone_already_is_no_error(tmp_path: Path) -> None:
    left = tmp_path / "left.partial"
    left.write_text("half")
    remove_partials([tmp_path / "gone.partial", left])
    assert list(tmp_path.iterdir()) == []
