"""Load of the node: reception beside dcmtk's storescp, claims from a long queue, last slice to worklist.

python benchmarks/node_load.py [reception] [queue] [latency] [--studies 11] [--every 90]

reception: ten storescu at once send CT images (512 × 512) to dcmtk's storescp and to the receiver as it is by
default (two processes), in turn; images per second and their ratio. The receiver syncs each image to the
disk, storescp does not.
queue: 100,000 waiting tasks on SQLite and PostgreSQL; milliseconds of one claim as a worker makes it, whose
commit does not wait for the disk.
latency: the whole node with the default model; one simulated study every 90 s; seconds from the end of its
last C-STORE to its result in the worklist (asked by REST five times a second), settle time included; the
first study, sent as soon as receiver and pages listen, apart; the greatest memory of all processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from run import table

if TYPE_CHECKING:
    from ichnos.service.client import NodeClient
    from ichnos.service.settings import NodeSettings

ASSOCIATIONS, IMAGES_EACH, ROUNDS = 10, 20, 3
TASKS, CLAIMS = 100_000, 300
PATIENCE_S = 900.0  # for one study, or for the node to start
_UID = "1.2.826.0.1.3680043.10.1561"
_NODE = "import sys; from ichnos.cli.main import run; sys.exit(run(sys.argv[1:]))"
Row = dict[str, object]


def reception(folder: Path) -> list[Row]:
    """Compare the receiver with storescp, in turn, on the same images."""
    from ichnos.service.settings import ReceiverSettings

    outboxes = [_images(folder / f"out{k}", k) for k in range(ASSOCIATIONS)]
    rates: list[tuple[float, float]] = []
    for turn in range(ROUNDS):
        rates.append((_rate_of_storescp(outboxes, folder / "scp"), _rate_of_node(outboxes, folder / "node")))
        print(
            f"round {turn + 1}: {rates[-1][0]:.0f}, {rates[-1][1]:.0f} images/s", file=sys.stderr, flush=True
        )
    theirs, ours = np.median(rates, axis=0)
    name = f"receiver of the node, {ReceiverSettings().processes} processes as by default, images/s"
    return [
        {"what": "storescp --fork, images/s", "median": float(theirs)},
        {"what": name, "median": float(ours), "ratio": float(np.median([b / a for a, b in rates]))},
    ]


def _rate_of_storescp(outboxes: list[Path], into: Path) -> float:
    from builders.fault_field import free_port

    port = free_port()
    into.mkdir()
    peer = subprocess.Popen(["storescp", "--fork", "-od", str(into), str(port)])
    _await_listeners(port, 1)
    rate = _rate(outboxes, port)
    peer.kill()
    peer.wait()
    shutil.rmtree(into)
    return rate


def _rate_of_node(outboxes: list[Path], home: Path) -> float:
    from builders.fault_field import free_port
    from ichnos.service.run import run_loop
    from ichnos.service.settings import NodeSettings, ReceiverSettings, StorageSettings

    receiver = ReceiverSettings(port=free_port())
    settings = NodeSettings(home=home, receiver=receiver, storage=StorageSettings(refuse_below_gib=0.0))
    context = multiprocessing.get_context("spawn")
    words = ("receiver", settings)
    children = [context.Process(target=run_loop, args=words) for _ in range(receiver.processes)]
    for child in children:
        child.start()
    _await_listeners(receiver.port, receiver.processes)
    rate = _rate(outboxes, receiver.port)
    for child in children:
        child.terminate()
        child.join()
    stored = len(list((home / "images").rglob("*.dcm")))
    assert stored == ASSOCIATIONS * IMAGES_EACH, f"{stored} images are stored"
    shutil.rmtree(home)
    return rate


def _await_listeners(port: int, count: int) -> None:
    """Wait until so many sockets listen: with one of two, a rate would be that of one process."""
    import psutil

    ends = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends:
        sockets = psutil.net_connections("tcp")
        if sum(one.status == psutil.CONN_LISTEN and one.laddr[1] == port for one in sockets) >= count:
            return
        time.sleep(0.2)
    raise RuntimeError(f"fewer than {count} sockets listen at port {port}")


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
    """Return images per second of all senders together."""
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
        with database.transaction(durable=False) as session:  # as the worker does
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
    from builders.fault_field import free_port
    from ichnos.service.client import NodeClient
    from ichnos.service.settings import NodeSettings, ReceiverSettings, WebSettings

    series = _simulated(folder)
    settings = NodeSettings(
        home=folder / "node",
        receiver=ReceiverSettings(port=free_port()),
        web=WebSettings(port=free_port()),
    )
    waits, most = [], 0.0
    with (
        _running_node(folder, settings) as node,
        NodeClient(f"http://127.0.0.1:{settings.web.port}", _token(settings)) as client,
    ):
        for number in range(studies):
            began = time.monotonic()
            _send(_renumbered(series, folder / "out", number), settings.receiver.port)
            wait_s, memory = _until_read(client, number, node)
            waits.append(wait_s)
            most = max(most, memory)
            print(f"study {number + 1}: {wait_s:.1f} s, {memory:.2f} GiB", file=sys.stderr, flush=True)
            if number + 1 < studies:
                time.sleep(max(0.0, every_s - (time.monotonic() - began)))
    rows = [
        _wait_row("of the first study after the start", waits[:1]),
        _wait_row(f"of {len(waits) - 1} more studies, one every {every_s:g} s", waits[1:]),
    ]
    return [row for row in rows if row] + [
        {"what": "memory of all processes, GiB (greatest, shared pages counted once)", "median": most}
    ]


def _wait_row(whose: str, waits: list[float]) -> Row:
    if not waits:
        return {}
    median, most = np.percentile(waits, [50, 95])
    return {
        "what": f"last slice to worklist {whose}, s",
        "median": float(median),
        "95th percentile": float(most),
    }


@contextmanager
def _running_node(folder: Path, settings: NodeSettings) -> Iterator[subprocess.Popen[bytes]]:
    """Run `ichnos serve` with all its processes; end them afterwards."""
    file, log = folder / "node.yaml", folder / "node.log"
    file.write_text(settings.model_dump_json())  # JSON is YAML
    with log.open("wb") as sink:
        words = [sys.executable, "-c", _NODE, "serve", "--config", str(file)]
        node = subprocess.Popen(words, stdout=sink, stderr=sink)
        try:
            _await_listeners(settings.receiver.port, settings.receiver.processes)
            _await_listeners(settings.web.port, 1)
            yield node
        except Exception:
            print(log.read_text(errors="replace")[-4000:], file=sys.stderr)
            raise
        finally:
            node.terminate()
            node.wait(120)


def _token(settings: NodeSettings) -> str:
    from ichnos.service.accounts import auth
    from ichnos.service.store.database import open_database
    from ichnos.service.store.tables import UserRow

    database = open_database(settings.database_url)
    with database.transaction() as session:
        user = UserRow(name="bench", password_hash="", role="reader")
        session.add(user)
        session.flush()
        token = auth.issue_token(session, user, label="bench", now=time.time(), days=1)
    database.close()
    return token


def _until_read(client: NodeClient, number: int, node: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Return seconds until a study is in the worklist with its result, and the greatest memory meanwhile."""
    import psutil

    sent, most, looked_at = time.monotonic(), 0.0, 0.0
    while time.monotonic() - sent < PATIENCE_S:
        if node.poll() is not None:
            raise RuntimeError(f"the node ended with code {node.returncode}")
        rows = client.studies()
        done = [row for row in rows if row["state"] in ("ready", "refused", "failed")]
        if len(done) > number:
            if bad := [row["finding"] for row in done if row["state"] != "ready"]:
                raise RuntimeError(f"a study was not read: {bad[0]}")
            return time.monotonic() - sent, most
        if time.monotonic() - looked_at > 1.0:
            most, looked_at = max(most, _memory_gib(psutil.Process(node.pid))), time.monotonic()
        time.sleep(0.2)
    raise RuntimeError(f"study {number + 1} was not read within {PATIENCE_S:g} s; the worklist: {rows}")


def _send(outbox: Path, port: int) -> None:
    subprocess.run(["storescu", "127.0.0.1", str(port), "+sd", str(outbox)], check=True, capture_output=True)


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
        dataset.StudyInstanceUID = f"{_UID}.{number + 1}"
        dataset.SeriesInstanceUID = f"{dataset.StudyInstanceUID}.1"
        dataset.SOPInstanceUID = f"{dataset.StudyInstanceUID}.1.{k + 1}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(folder / file.name, enforce_file_format=True)
    return folder


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
    parser.add_argument("--studies", type=int, default=11)
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
