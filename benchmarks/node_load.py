"""Load of the node: reception beside dcmtk's storescp, claims from a long queue, last slice to worklist.

python benchmarks/node_load.py [reception] [queue] [latency] [--studies 5] [--every 90]

reception: ten storescu at once send CT images (512 × 512) to dcmtk's storescp and to the receiver, in turn;
images per second and their ratio. The receiver syncs each image to the disk, storescp does not.
queue: 100,000 waiting tasks on SQLite and PostgreSQL; milliseconds of one claim with its commit.
latency: the whole node with the default model; one simulated study every 90 s; seconds from the end of its
last C-STORE to its line in the worklist, settle time included, and the greatest memory of all processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from run import table

ASSOCIATIONS, IMAGES_EACH, ROUNDS = 10, 20, 3
TASKS, CLAIMS = 100_000, 300
Row = dict[str, object]


def reception(folder: Path) -> list[Row]:
    """Compare the receiver with storescp, in turn, on the same images."""
    from builders.fault_field import free_port
    from ichnos.service.run import run_loop
    from ichnos.service.settings import NodeSettings, ReceiverSettings, StorageSettings

    outboxes = [_images(folder / f"out{k}", k) for k in range(ASSOCIATIONS)]
    rates: dict[str, list[float]] = {"storescp": [], "ichnos": []}
    for turn in range(ROUNDS):
        port, into = free_port(), folder / f"scp{turn}"
        into.mkdir()
        peer = subprocess.Popen(["storescp", "--fork", "-od", str(into), str(port)])
        rates["storescp"].append(_rate(outboxes, port))
        peer.kill()
        peer.wait()
        settings = NodeSettings(
            home=folder / f"node{turn}",
            receiver=ReceiverSettings(port=free_port()),
            storage=StorageSettings(refuse_below_gib=0.0),
        )
        context = multiprocessing.get_context("spawn")
        count = settings.receiver.processes
        children = [context.Process(target=run_loop, args=("receiver", settings)) for _ in range(count)]
        for child in children:
            child.start()
        rates["ichnos"].append(_rate(outboxes, settings.receiver.port))
        for child in children:
            child.terminate()
            child.join()
        stored = len(list((settings.home / "images").rglob("*.dcm")))
        assert stored == ASSOCIATIONS * IMAGES_EACH, f"{stored} images are stored"
        shutil.rmtree(into)
        shutil.rmtree(settings.home)
    medians = {name: float(np.median(values)) for name, values in rates.items()}
    return [
        {"what": f"{name}, images/s", "median": value, "ratio to storescp": value / medians["storescp"]}
        for name, value in medians.items()
    ]


def _images(folder: Path, number: int) -> Path:
    from service.test_receiver import one_slice

    folder.mkdir()
    rng = np.random.default_rng(number)
    for k in range(IMAGES_EACH):
        dataset = one_slice(f"1.2.840.{100 + number}", k)
        dataset.Rows = dataset.Columns = 512
        dataset.PixelData = rng.integers(-1000, 1000, (512, 512), np.int16).tobytes()
        dataset.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return folder


def _rate(outboxes: list[Path], port: int) -> float:
    """Return images per second of all senders together, once the port answers."""
    ends = time.monotonic() + 120
    while subprocess.run(["echoscu", "127.0.0.1", str(port)], capture_output=True, check=False).returncode:
        if time.monotonic() > ends:
            raise RuntimeError("nothing listens")
        time.sleep(0.2)
    started = time.perf_counter()
    senders = [subprocess.Popen(["storescu", "127.0.0.1", str(port), "+sd", str(box)]) for box in outboxes]
    assert not any([sender.wait() for sender in senders])
    return ASSOCIATIONS * IMAGES_EACH / (time.perf_counter() - started)


def queue(folder: Path) -> list[Row]:
    """Time claims from a queue of 100,000 tasks on both databases."""
    from node_faults import postgresql

    rows = [_claims("SQLite", f"sqlite:///{folder / 'node.db'}")]
    with ExitStack() as stack:
        (folder / "pg").mkdir()
        folder.chmod(0o777)
        url, _ = stack.enter_context(postgresql(folder / "pg"))
        rows.append(_claims("PostgreSQL", url))
    return rows


def _claims(name: str, url: str) -> Row:
    from sqlalchemy import insert

    from ichnos.service.store import queue as tasks
    from ichnos.service.store.database import open_database
    from ichnos.service.store.tables import TaskRow

    database = open_database(url)
    with database.transaction() as session:
        row = {"kind": "read", "payload": {}, "state": "waiting", "attempts_allowed": 3}
        for begin in range(0, TASKS, 10_000):
            many = [{**row, "priority": (begin + k) % 5} for k in range(10_000)]
            session.execute(insert(TaskRow), many)
    times = []
    for _ in range(CLAIMS):
        started = time.perf_counter()
        with database.transaction() as session:
            assert tasks.claim_task(session, "read", worker="w", now=time.time(), lease_s=60) is not None
        times.append(1000 * (time.perf_counter() - started))
    database.close()
    return {
        "what": f"claim among {TASKS:,} on {name}, ms",
        "median": float(np.median(times)),
        "95th percentile": float(np.percentile(times, 95)),
    }


def latency(folder: Path, studies: int, every_s: float) -> list[Row]:
    """Send simulated studies to the whole node and watch its worklist."""
    import psutil
    import yaml

    from builders.fault_field import free_port

    dicom, web = free_port(), free_port()
    settings = {"home": str(folder / "node"), "receiver": {"port": dicom}, "web": {"port": web}}
    (folder / "node.yaml").write_text(yaml.safe_dump(settings))
    program = [
        sys.executable,
        "-c",
        "import sys; from ichnos.cli.main import run; sys.exit(run(sys.argv[1:]))",
    ]
    node = subprocess.Popen(
        [*program, "serve", "--config", str(folder / "node.yaml")], stdout=subprocess.DEVNULL
    )
    series = _simulated(folder)
    waits, most = [], 0.0
    try:
        for number in range(studies):
            began = time.monotonic()
            outbox = _renumbered(series, folder / "out", number)
            _rate_one(outbox, dicom)
            sent = time.time()
            while (read_at := _read_at(folder / "node", number)) is None:
                most = max(most, _memory_gib(psutil.Process(node.pid)))
                time.sleep(0.2)
            waits.append(read_at - sent)
            time.sleep(max(0.0, every_s - (time.monotonic() - began)))
    finally:
        node.send_signal(signal.SIGTERM)
        node.wait(60)
    return [
        {
            "what": f"last slice to worklist, s ({studies} studies, one every {every_s:g} s)",
            "median": float(np.median(waits)),
            "95th percentile": float(np.percentile(waits, 95)),
        },
        {"what": "memory of all processes, GiB (greatest, shared pages counted once)", "median": most},
    ]


def _simulated(folder: Path) -> Path:
    from demo import simulated

    from ichnos.simulation.exams.dicom_export import export_ct

    patient, exam = simulated()
    return export_ct(exam, folder / "sim", patient_id="demo", exam="ct", latent=patient.latent)[0].parent


def _renumbered(series: Path, folder: Path, number: int) -> Path:
    from pydicom import dcmread

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for k, file in enumerate(sorted(series.glob("*.dcm"))):
        dataset = dcmread(file)
        dataset.StudyInstanceUID = f"1.2.826.0.1.3680043.10.1561.{number + 1}"
        dataset.SeriesInstanceUID = f"{dataset.StudyInstanceUID}.1"
        dataset.SOPInstanceUID = f"{dataset.StudyInstanceUID}.1.{k + 1}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(folder / file.name, enforce_file_format=True)
    return folder


def _rate_one(outbox: Path, port: int) -> None:
    while subprocess.run(["echoscu", "127.0.0.1", str(port)], capture_output=True, check=False).returncode:
        time.sleep(0.5)
    subprocess.run(["storescu", "127.0.0.1", str(port), "+sd", str(outbox)], check=True, capture_output=True)


def _read_at(home: Path, number: int) -> float | None:
    """Return when a study appeared in the worklist with its result."""
    from sqlalchemy import select

    from ichnos.service.store.database import open_database
    from ichnos.service.store.tables import StudyRow

    database = open_database(f"sqlite:///{home / 'node.db'}")
    with database.snapshot() as session:
        uid = f"1.2.826.0.1.3680043.10.1561.{number + 1}"
        row = session.execute(
            select(StudyRow).where(StudyRow.uid == uid, StudyRow.read_at.is_not(None))
        ).scalar()
    database.close()
    return None if row is None else row.read_at


def _memory_gib(parent: Any) -> float:
    total = 0
    for process in (parent, *parent.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except Exception:
            continue  # it has ended meanwhile
    return total / 2**30


def main(words: list[str] | None = None) -> list[Row]:
    """Return the rows of the parts that were asked for; without the long latency part unless it is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], "reception", "queue", "latency"])
    parser.add_argument("--studies", type=int, default=5)
    parser.add_argument("--every", type=float, default=90.0)
    given = parser.parse_args(words or [])
    parts: dict[str, Callable[[Path], list[Row]]] = {
        "reception": reception,
        "queue": queue,
        "latency": lambda folder: latency(folder, given.studies, given.every),
    }
    rows: list[Row] = []
    for name in given.parts or ("reception", "queue"):
        folder = Path(tempfile.mkdtemp(prefix="ichnos-l"))
        try:
            rows += parts[name](folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return rows


if __name__ == "__main__":
    print(table(main(sys.argv[1:])))
