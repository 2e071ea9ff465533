"""The same on a real dask scheduler with two worker processes, one of which is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.run_tasks import Thing, things, work
from ichnos.errors import InputRefused
from ichnos.runs import Ledger, apply

pytest.importorskip("distributed")
TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


class Cluster:
    """A scheduler and its workers, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        self.folder = folder
        self.environment = {**os.environ, "PYTHONPATH": str(TESTS), "DASK_LOGGING__DISTRIBUTED": "error"}
        self.scheduler = self._start("dask_scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1")
        deadline = time.monotonic() + 90
        while not (self.file.exists() and self.file.read_text().endswith("}")):
            assert time.monotonic() < deadline
            assert self.scheduler.poll() is None
            time.sleep(0.1)
        self.address = json.loads(self.file.read_text())["address"]
        self.workers = [self.add_worker(), self.add_worker()]

    def add_worker(self) -> subprocess.Popen[bytes]:
        return self._start(
            "dask_worker",
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--host",
            "127.0.0.1",
            "--death-timeout",
            "30",
        )

    def _start(self, program: str, *options: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            f"distributed.cli.{program}",
            "--scheduler-file",
            str(self.file),
            *options,
        ]
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(command, env=self.environment, cwd=self.folder, stdout=log, stderr=log)

    def stop(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    yield started
    started.stop()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
@pytest.mark.timeout(240)
def test_patients_are_shared_and_a_lost_worker_costs_nobody(cluster: Cluster, out: Path) -> None:
    moods = {f"t{k:02d}": "slow" for k in range(12)}
    items = things(12, **{**moods, "t03": "refused", "t05": "killed once"})
    summary = apply(work, items, out=out, settings={}, name="work", scheduler=cluster.address, progress=False)
    assert [(f.id, f.why) for f in summary.failures] == [("t03", "t03 is not a head CT")]
    assert [row["id"] for row in summary.rows] == [f"t{k:02d}" for k in range(12) if k != 3]
    assert sum(process.poll() is not None for process in cluster.workers) == 1, (
        "one worker should have been killed"
    )
    finished = [r["id"] for r in Ledger(out, "work").records() if r["event"] == "finished"]
    assert len(finished) == len(set(finished)) == 11
    for row in summary.rows:
        assert (out / "sub" / row["id"] / "half.txt").read_text() == "first half, second half"
    assert len({row["process"] for row in summary.rows}) == 2
    assert os.getpid() not in {row["process"] for row in summary.rows}


@pytest.mark.timeout(120)
def test_a_scheduler_that_is_not_there_is_named(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ichnos.runs.workers.NO_SCHEDULER_PATIENCE_S", 1.0)
    with pytest.raises(InputRefused, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:9"):
        apply(
            work,
            [Thing("a")],
            out=out,
            settings={},
            name="work",
            scheduler="tcp://127.0.0.1:9",
            progress=False,
        )


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
@pytest.mark.timeout(240)
def test_a_scheduler_without_workers_is_not_waited_for_for_ever(
    cluster: Cluster, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ichnos.runs.workers

    monkeypatch.setattr(ichnos.runs.workers, "NO_WORKER_PATIENCE_S", 2.0)
    for process in cluster.workers:
        process.kill()
        process.wait()
    with pytest.raises(InputRefused, match="has no workers"):
        apply(
            work, [Thing("a")], out=out, settings={}, name="work", scheduler=cluster.address, progress=False
        )
