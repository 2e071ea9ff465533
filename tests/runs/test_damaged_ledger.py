"""What a power cut, a foreign hand or an odd file name leaves behind never stops a run from resuming."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builders.run_tasks import things, work
from ichnos.errors import InputRefused
from ichnos.runs import Ledger, Summary, apply


def run(out: Path, ids: int = 3) -> Summary:
    return apply(work, things(ids), out=out, settings={"a": 1}, name="work", progress=False)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\udce4"])
def test_no_character_of_a_name_breaks_a_line(separator: str, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "work")
    ledger.open({})
    ledger.add("finished", f"a{separator}b", row={"input": f"x{separator}y"})
    ledger.close()
    assert ledger.finished()[f"a{separator}b"]["row"] == {"input": f"x{separator}y"}


@pytest.mark.parametrize(
    "line", ["", "null", "[]", "7", '{"event": "finished"}', '{"event": "finished", "id": "t00"}', "[" * 5000]
)
def test_foreign_lines_are_no_records(line: str, tmp_path: Path) -> None:
    run(tmp_path)
    path = Ledger(tmp_path, "work").path
    path.write_text(line + "\n" + path.read_text())
    again = run(tmp_path)
    assert (len(again), again.done_now) == (3, 0)


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", "{", "\xff"])
def test_damaged_settings_are_refused_by_name_and_not_by_a_traceback(content: str, tmp_path: Path) -> None:
    run(tmp_path)
    file = tmp_path / ".ichnos" / "work" / "settings.json"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputRefused, match=r"settings\.json is damaged.*remove"):
        run(tmp_path)


def test_an_empty_settings_file_of_a_run_that_never_began_is_written_anew(tmp_path: Path) -> None:
    home = tmp_path / ".ichnos" / "work"
    home.mkdir(parents=True)
    (home / "settings.json").touch()
    assert len(run(tmp_path)) == 3
    assert json.loads((home / "settings.json").read_text())["settings"] == {"a": 1}


@pytest.mark.parametrize("note", ["", "null", '{"id": 3}', '{"id": "t00", "row": []}'])
def test_a_move_whose_note_is_damaged_is_done_again(note: str, tmp_path: Path) -> None:
    run(tmp_path, 1)
    ready = tmp_path / ".ichnos" / "work" / "ready" / "0123"
    (ready / "out").mkdir(parents=True)
    (ready / "out" / "half.txt").write_text("half")
    (ready / "item.json").write_text(note)
    (ready.parent / "stray file").touch()
    again = run(tmp_path)
    assert (len(again), again.done_now) == (3, 2)
    assert not (tmp_path / "half.txt").exists()
    assert not list(ready.parent.iterdir())
