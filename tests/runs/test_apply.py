"""Many patients, one function: nothing lost, nothing doubled, nothing half-written, whoever is killed."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.run_tasks import Thing, things, work
from ichnos.errors import UsageError
from ichnos.runs import Ledger, Summary, apply, settings_hash
from ichnos.runs.ledger import plain
from ichnos.runs.staging import Staging, fresh_folder

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(items: list[Thing], out: Path, **options: Any) -> Summary:
    return apply(
        work, items, **{"out": out, "settings": {"a": 1}, "name": "work", "progress": False, **options}
    )


def check_whole(out: Path, ids: list[str]) -> None:
    """Every one of these is there, whole, once; nothing else is."""
    assert sorted(p.name for p in (out / "sub").iterdir()) == sorted(ids)
    for item_id in ids:
        assert (out / "sub" / item_id / "half.txt").read_text() == "first half, second half"
        assert (out / "derivatives" / item_id / "more.txt").read_text() == item_id
    finished = [r["id"] for r in Ledger(out, "work").records() if r["event"] == "finished"]
    assert sorted(finished) == sorted(ids)
    assert list((out / ".ichnos" / "work" / "work").iterdir()) == []
    assert list((out / ".ichnos" / "work" / "ready").iterdir()) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_everybody_is_done_once(out: Path, workers: int) -> None:
    summary = run(things(5), out, workers=workers)
    check_whole(out, [f"t{k:02d}" for k in range(5)])
    assert [row["id"] for row in summary.rows] == [f"t{k:02d}" for k in range(5)]
    assert summary.done_now == len(summary) == 5
    assert summary.failures == ()
    again = run(things(7), out, workers=workers)
    assert (len(again), again.done_now) == (7, 2)
    assert again.rows[:5] != ()
    check_whole(out, [f"t{k:02d}" for k in range(7)])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_never_stops_the_rest_and_is_told_by_name(out: Path, workers: int) -> None:
    summary = run(things(6, t01="refused", t03="broken"), out, workers=workers)
    assert {(f.id, f.kind) for f in summary.failures} == {
        ("t01", "InputRefused"),
        ("t03", "ZeroDivisionError"),
    }
    check_whole(out, ["t00", "t02", "t04", "t05"])
    failed = {r["id"]: r for r in Ledger(out, "work").records() if r["event"] == "failed"}
    assert failed["t01"]["why"] == "t01 is not a head CT"
    assert failed["t01"]["details"] == ""
    assert "Traceback" in failed["t03"]["details"]
    mended = run(things(6), out, workers=workers)
    assert (mended.done_now, mended.failures) == (2, ())
    check_whole(out, [f"t{k:02d}" for k in range(6)])


def test_a_worker_that_dies_is_replaced_and_its_patient_named(out: Path) -> None:
    summary = run(things(6, t01="killed", t02="killed once", t04="leaves"), out, workers=2)
    why = {f.id: f.why for f in summary.failures}
    assert set(why) == {"t01", "t04"}
    assert "SIGKILL" in why["t01"]
    assert "code 7" in why["t04"]
    check_whole(out, ["t00", "t02", "t03", "t05"])
    starts = [r["id"] for r in Ledger(out, "work").records() if r["event"] == "started"]
    assert (starts.count("t01"), starts.count("t02"), starts.count("t00")) == (2, 2, 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on_without_loss_or_doubling(out: Path, workers: int) -> None:
    ledger = Ledger(out, "work")
    for _ in range(3):  # each time killed a little later, wherever it happens to be
        program = subprocess.Popen(
            [sys.executable, str(TESTS / "builders" / "run_tasks.py"), str(out), "12", str(workers)]
        )
        before = len(ledger.finished())
        wait_until(
            lambda before=before, program=program: (
                len(ledger.finished()) >= before + 2 or program.poll() is not None
            )
        )
        helpers = psutil.Process(program.pid).children(recursive=True) if program.poll() is None else []
        program.send_signal(signal.SIGKILL)
        program.wait()
        assert psutil.wait_procs(helpers, timeout=20)[1] == [], "workers live on without their parent"
        for item_id in ledger.finished():
            assert (out / "sub" / item_id / "half.txt").read_text() == "first half, second half"
    left = 12 - len({*ledger.finished(), *(note["id"] for note in ready_notes(out))})
    summary = run(things(12), out)
    assert (len(summary), summary.done_now) == (12, left)
    check_whole(out, [f"t{k:02d}" for k in range(12)])


def wait_until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ready_notes(out: Path) -> list[dict[str, Any]]:
    """Return what was whole and on its way to its place when the run was killed."""
    return [json.loads(path.read_text()) for path in (out / ".ichnos" / "work" / "ready").glob("*/item.json")]


@pytest.mark.parametrize(
    "moment",
    ["before the move", "half moved", "moved, not yet in the ledger", "in the ledger, not yet settled"],
)
def test_a_kill_at_the_worst_moment_is_made_good(out: Path, moment: str) -> None:
    ledger = Ledger(out, "work")
    ledger.open({"a": 1})
    staging = Staging(ledger.home, out)
    staging.clear()
    folder = fresh_folder(staging.work)
    row = work(things(1)[0], folder / "out")
    note = json.dumps({"id": "t00", "row": plain(row)})
    (folder / "item.json").write_text(note)
    if moment != "before the move":
        folder = folder.rename(staging.ready / folder.name)
        (out / "sub").mkdir()
        os.replace(folder / "out" / "sub" / "t00", out / "sub" / "t00")
    if moment in ("moved, not yet in the ledger", "in the ledger, not yet settled"):
        (out / "derivatives").mkdir()
        os.replace(folder / "out" / "derivatives" / "t00", out / "derivatives" / "t00")
    if moment == "in the ledger, not yet settled":
        ledger.add("finished", "t00", row=row)
    ledger.close()
    summary = run(things(2), out)
    assert summary.done_now == (2 if moment == "before the move" else 1)
    check_whole(out, ["t00", "t01"])


def test_tables_that_a_killed_run_was_writing_are_cleared(out: Path) -> None:
    run(things(1), out)
    kept = {path for path in out.rglob("*") if path.is_file()}
    for folder in ("", ".ichnos/work", "derivatives/transfer"):
        (out / folder).mkdir(parents=True, exist_ok=True)
        (out / folder / ".tmp-5b475955-index.html").write_text("half")
    run(things(1), out)
    assert {path for path in out.rglob("*") if path.is_file()} == kept


def test_half_a_line_in_the_ledger_is_stepped_over(out: Path) -> None:
    run(things(2), out)
    path = Ledger(out, "work").path
    path.write_bytes(path.read_bytes() + b'{"event": "finished", "id": "t02", "ro')
    summary = run(things(3), out)
    assert summary.done_now == 1
    check_whole(out, ["t00", "t01", "t02"])


def test_other_settings_in_the_same_place_are_refused(out: Path) -> None:
    run(things(1), out)
    with pytest.raises(UsageError, match="a: then 1, now 2"):
        run(things(1), out, settings={"a": 2})
    with pytest.raises(UsageError, match="b: then not set, now 3"):
        run(things(1), out, settings={"a": 1, "b": 3})
    assert apply(work, things(1), out=out, settings={"a": 2}, name="another", progress=False).done_now == 1


def test_two_runs_at_once_are_refused(out: Path) -> None:
    ledger = Ledger(out, "work")
    ledger.open({"a": 1})
    try:
        with pytest.raises(UsageError, match="another run"):
            run(things(1), out)
    finally:
        ledger.close()
    assert run(things(1), out).done_now == 1


def test_wrong_calls_are_told_at_once(out: Path) -> None:
    with pytest.raises(UsageError, match="more than once: t00"):
        run([*things(2), *things(1)], out)
    with pytest.raises(UsageError, match="0 workers"):
        run(things(1), out, workers=0)
    with pytest.raises(UsageError, match="scheduler"):
        run(things(1), out, workers=2, scheduler="tcp://localhost:1")
    with pytest.raises(UsageError, match="cannot be sent"):
        apply(
            lambda item, folder: {}, things(2), out=out, settings={}, name="lambda", workers=2, progress=False
        )


def test_a_full_disk_is_a_failure_with_a_name(out: Path) -> None:
    def full(item: Thing, folder: Path) -> dict[str, Any]:
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    summary = apply(full, things(2), out=out, settings={}, name="full", progress=False)
    assert [f.why for f in summary.failures] == ["[Errno 28] No space left on device"] * 2
    assert not (out / "half").exists()
    assert list((out / ".ichnos" / "full" / "work").iterdir()) == []


def add(item: Thing, folder: Path, *, amount: int) -> dict[str, Any]:
    return {"sum": amount + len(item.id)}


def test_a_partial_function_reaches_the_workers(out: Path) -> None:
    summary = apply(
        partial(add, amount=10), things(3), out=out, settings={}, name="add", workers=3, progress=False
    )
    assert [row["sum"] for row in summary.rows] == [13, 13, 13]


def test_workers_share_the_cores(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run([Thing("a", "threads")], out, workers=2)
    assert (out / "threads.txt").read_text() == str(max(1, (os.cpu_count() or 1) // 2))


def test_a_table_has_the_same_bytes_however_often_the_run_was_cut(out: Path, tmp_path: Path) -> None:
    items = things(4)
    whole = apply(
        partial(add, amount=1), items, out=tmp_path / "whole", settings={}, name="add", progress=False
    )
    apply(partial(add, amount=1), items[:2], out=out, settings={}, name="add", progress=False)
    cut = apply(partial(add, amount=1), items, out=out, settings={}, name="add", progress=False)
    whole.save_table(tmp_path / "a.csv")
    cut.save_table(tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert list(csv.reader((tmp_path / "a.csv").read_text().splitlines()))[:2] == [
        ["id", "sum"],
        ["t00", "4"],
    ]


def test_progress_off_a_terminal_says_how_far_it_is(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(things(3, t01="refused"), out, progress=True)
    told = capsys.readouterr()
    assert told.out == ""
    assert "work: 3 of 3, 1 failed" in told.err


def test_a_script_without_a_guard_gets_a_sentence_and_no_hang(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(TESTS)!r})\nfrom builders.run_tasks import things, work\nfrom"
        f" ichnos.runs import apply\napply(work, things(2), out={str(tmp_path / 'out')!r}, settings={{}},"
        " name='work', workers=2, progress=False)\n"
    )
    told = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert told.returncode != 0
    assert '__name__ == "__main__"' in told.stderr


plain_data = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), plain_data, max_size=4))
@settings(max_examples=25, deadline=None)
def test_the_hash_of_settings_is_that_of_their_content(content: dict[str, Any]) -> None:
    assert settings_hash(content) == settings_hash(dict(reversed(list(content.items()))))
    assert settings_hash({**content, "one more": 1}) != settings_hash({**content, "one more": 2})


def test_what_is_not_plain_data_is_a_failure_of_that_patient(out: Path) -> None:
    summary = apply(
        lambda item, folder: {"thing": object()}, things(1), out=out, settings={}, name="odd", progress=False
    )
    assert "not plain data" in summary.failures[0].why
    with pytest.raises(TypeError, match="not plain data"):
        settings_hash({"thing": object()})
