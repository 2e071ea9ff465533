"""A node in trouble: real senders and a real archive (dcmtk), while processes are killed, connections cut,
the disk filled and the database restarted. Says what became of every study.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from pydicom import dcmread
from sqlalchemy import func, select

from builders.head import head_hu
from builders.series import Quirks, build_series
from builders.tiny_model import tiny_model
from ichnos.service.node import Node, open_node
from ichnos.service.run import Loop, run_loop
from ichnos.service.settings import (
    AssemblySettings,
    Destination,
    NodeSettings,
    ReadingSettings,
    ReceiverSettings,
    SendingSettings,
    StorageSettings,
    WebSettings,
)
from ichnos.service.store import events
from ichnos.service.store.tables import DeliveryRow, EventRow, InstanceRow, StudyRow, TaskRow

PARTS: tuple[Loop, ...] = ("receiver", "assembler", "worker", "sender")
_MARK = "199999999"  # stands in the template's UIDs for the number of a study
_ROOT = "1.2.826.0.1.3680043.10.1561"
_PRELOAD = [
    "ichnos.service.run", "ichnos.service.receiver", "ichnos.service.assembler", "ichnos.service.worker",
    "ichnos.service.sender", "ichnos.inference", "ichnos.report.page", "highdicom",
]  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """How many studies, and how much trouble."""

    studies: int
    readable: int  # of them; the others have too few slices and are refused
    events_between: int = 12  # events of the node between two disturbances, on average
    senders: int = 2
    seed: int = 1
    patience_s: float = 3600.0
    disk_full: bool = False  # the home is a small disk of its own
    restart_database: Callable[[], None] | None = None  # None: SQLite is locked for a while instead


@dataclass
class Verdict:
    """What became of the studies."""

    studies: int = 0
    read: int = 0
    refused: int = 0
    failed: int = 0  # given up by name after all attempts
    lost: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    revisions: int = 0  # made by images that came late
    sent_again: int = 0  # instances that the archive got more than once under the same UID
    chain_whole: bool = False
    disturbances: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Studies:
    """Writes made studies: byte templates whose UIDs are replaced, so that thousands cost little."""

    def __init__(self, folder: Path) -> None:
        shape = {"shape": (32, 32), "pixel_mm": 6.5}
        self.readable = _template(folder / "readable", Quirks(steps_mm=(10.0,) * 14, **shape))  # type: ignore[arg-type]
        self.few = _template(folder / "few", Quirks(steps_mm=(10.0,) * 2, **shape))  # type: ignore[arg-type]

    def write(self, number: int, folder: Path, *, readable: bool) -> None:
        """Write one study into an empty folder."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for k, content in enumerate(self.readable if readable else self.few):
            own = content.replace(_MARK.encode(), f"1{number:08d}".encode())
            (folder / f"{k}.dcm").write_bytes(own)


def _template(folder: Path, quirks: Quirks) -> list[bytes]:
    contents = []
    for k, file in enumerate(build_series(head_hu(bleed_mm=14), folder, quirks)):
        dataset = dcmread(file)
        dataset.StudyInstanceUID = study_uid(int(_MARK[1:]))
        dataset.SeriesInstanceUID = f"{dataset.StudyInstanceUID}.1"
        dataset.SOPInstanceUID = f"{dataset.StudyInstanceUID}.1.{k + 10}"
        dataset.FrameOfReferenceUID = f"{dataset.StudyInstanceUID}.2"
        dataset.PatientID = f"P{_MARK}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(file, enforce_file_format=True)
        contents.append(file.read_bytes())
    return contents


def study_uid(number: int) -> str:
    """Return the UID of a made study."""
    return f"{_ROOT}.1{number:08d}"


class Field:
    """The node's processes, the archive, the senders and the trouble between them."""

    def __init__(self, folder: Path, plan: Plan, database: str = "") -> None:
        self.plan, self.folder, self.rng = plan, folder, random.Random(plan.seed)
        folder.mkdir(parents=True, exist_ok=True)
        self.home, self.archive_folder = folder / "home", folder / "archive"
        self.archive_port, self.cut_port = free_port(), free_port()
        tiny_model(folder / "model")
        self.settings = self._settings(database)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(_PRELOAD)  # a successor costs a fork, not seconds of imports
        self.children: dict[Loop, BaseProcess] = {}
        self.archive: subprocess.Popen[bytes] | None = None
        self.over = threading.Event()
        self.verdict = Verdict(studies=plan.studies)

    def _settings(self, database: str) -> NodeSettings:
        there = Destination(name="archive", ae_title="ARCHIVE", host="127.0.0.1", port=self.archive_port)
        return NodeSettings(
            home=self.home,
            database=database,
            receiver=ReceiverSettings(port=free_port()),
            assembly=AssemblySettings(quiet_s=3.0),
            reading=ReadingSettings(model=str(self.folder / "model"), threads=1, lease_s=20.0, attempts=40),
            sending=SendingSettings(destinations=(there,), attempts=80, first_wait_s=0.2),
            storage=StorageSettings(refuse_below_gib=0.0),
            web=WebSettings(port=free_port()),
        )

    def run(self) -> Verdict:
        """Send all studies through trouble, let the node come to rest, and judge."""
        started, ends = time.monotonic(), time.monotonic() + self.plan.patience_s
        self.home.mkdir(exist_ok=True)
        with self._disk():
            node = open_node(self.settings)
            self._start_archive()
            threads = [threading.Thread(target=self._send_share, args=(k,)) for k in range(self.plan.senders)]
            threads.append(threading.Thread(target=self._cutting_proxy, daemon=True))
            try:
                for thread in threads:
                    thread.start()
                self._trouble(node, threads[:-1], ends)
                for thread in threads[:-1]:
                    thread.join()
                self._judge(node)
            finally:
                self._close(node)
        self.verdict.seconds = time.monotonic() - started
        return self.verdict

    # --- the parties

    def _supervise(self) -> None:
        for part in PARTS:
            child = self.children.get(part)
            if child is None or not child.is_alive():
                self.children[part] = self.context.Process(target=_quiet_loop, args=(part, self.settings))
                self.children[part].start()
        if self.archive is None or self.archive.poll() is not None:
            self._start_archive()

    def _start_archive(self) -> None:
        self.archive_folder.mkdir(exist_ok=True)
        words = ["storescp", "+uf", "-od", str(self.archive_folder), str(self.archive_port)]
        self.archive = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _send_share(self, share: int) -> None:
        made, rng = Studies(self.folder / f"templates{share}"), random.Random(self.plan.seed + share)
        every = max(1, self.plan.studies // max(1, self.plan.readable))
        for number in range(share, self.plan.studies, self.plan.senders):
            folder = self.folder / f"outbox{share}"
            made.write(number, folder, readable=number % every == 0)
            while not self.over.is_set() and not self._send(folder, cut=rng.random() < 0.1):
                time.sleep(0.3)

    def _send(self, folder: Path, *, cut: bool) -> bool:
        port = self.cut_port if cut else self.settings.receiver.port
        words = ["storescu", "-to", "5", "-ta", "15", "-td", "15", "127.0.0.1", str(port), "+sd", str(folder)]
        with contextlib.suppress(subprocess.TimeoutExpired):
            ended = subprocess.run(words, capture_output=True, timeout=60, check=False)
            return ended.returncode == 0
        return False

    def _cutting_proxy(self) -> None:
        """Forward connections to the receiver, and cut each after a random number of bytes."""
        server = socket.create_server(("127.0.0.1", self.cut_port))
        server.settimeout(0.5)
        with server:
            while not self.over.is_set():
                with contextlib.suppress(OSError):
                    client, _ = server.accept()
                    left = self.rng.randint(200, 40_000)
                    threading.Thread(target=self._forward, args=(client, left), daemon=True).start()

    def _forward(self, client: socket.socket, left: int) -> None:
        with client, contextlib.suppress(OSError):
            node = socket.create_connection(("127.0.0.1", self.settings.receiver.port), timeout=10)
            threading.Thread(target=_pump, args=(node, client), daemon=True).start()
            with node:
                while left > 0 and (data := client.recv(min(left, 4096))):
                    node.sendall(data)
                    left -= len(data)
                self.verdict.disturbances["connection cut"] += 1

    # --- the trouble

    def _trouble(self, node: Node, senders: list[threading.Thread], ends: float) -> None:
        """Disturb by progress, not by the clock: a slow machine gets no more trouble than a quick one."""
        next_at = self.plan.events_between
        while time.monotonic() < ends:
            self._supervise()
            time.sleep(0.1)
            with contextlib.suppress(Exception):  # the database may be away: that is the point
                done, seen = self._progress(node)
                if done and not any(sender.is_alive() for sender in senders):
                    break
                if seen >= next_at:
                    self._disturb()
                    next_at = seen + self.rng.randint(1, 2 * self.plan.events_between)
        self.over.set()

    def _disturb(self) -> None:
        kinds = [*(f"{part} killed" for part in PARTS), "archive killed", "database restarted"]
        weights = [3, 2, 3, 3, 1, 1]
        if self.plan.disk_full:
            kinds.append("disk full")
            weights.append(1)
        (kind,) = self.rng.choices(kinds, weights)
        self.verdict.disturbances[kind] += 1
        if kind == "database restarted":
            (self.plan.restart_database or self._lock_sqlite)()
        elif kind == "disk full":
            self._fill_disk(for_s=2.0)
        elif kind == "archive killed":
            assert self.archive is not None
            self.archive.kill()
        else:
            self.children[next(part for part in PARTS if kind.startswith(part))].kill()

    def _lock_sqlite(self) -> None:
        with sqlite3.connect(self.home / "node.db", timeout=30) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(1.0)
            connection.rollback()
        connection.close()

    def _fill_disk(self, *, for_s: float) -> None:
        ballast = self.home / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
        time.sleep(for_s)
        ballast.unlink()

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        if not self.plan.disk_full:
            yield
            return
        size = f"size={64 + self.plan.studies // 2 + 8 * self.plan.readable}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(self.home)], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", str(self.home)], check=False)

    # --- the judgement

    def _progress(self, node: Node) -> tuple[bool, int]:
        with node.database.snapshot() as session:
            seen = int(session.execute(select(func.max(EventRow.id))).scalar() or 0)
            known = session.execute(select(func.count(StudyRow.uid.distinct()))).scalar_one()
            going = session.execute(
                select(func.count()).where(StudyRow.state.in_(("received", "queued", "reading")))
            ).scalar_one()
            tasks = session.execute(
                select(func.count()).where(TaskRow.state.in_(("waiting", "leased")))
            ).scalar_one()
        return known >= self.plan.studies and not going and not tasks, seen

    def _judge(self, node: Node) -> None:
        received = Counter(_uids(file) for file in self.archive_folder.iterdir())
        self.verdict.sent_again = sum(received.values()) - len(received)
        with node.database.snapshot() as session:
            self.verdict.chain_whole = events.check_chain(session).whole
            for number in range(self.plan.studies):
                self._judge_study(session, study_uid(number), received)

    def _judge_study(self, session: Any, uid: str, received: Counter[tuple[str, str, str]]) -> None:
        rows = (
            session.execute(select(StudyRow).where(StudyRow.uid == uid).order_by(StudyRow.revision))
            .scalars()
            .all()
        )
        if not rows:
            self.verdict.lost.append(f"{uid}: never registered")
            return
        self.verdict.revisions += len(rows) - 1
        last = rows[-1]
        outcome = {"ready": "read", "refused": "refused", "failed": "failed"}.get(last.state)
        if outcome is None:
            self.verdict.lost.append(f"{uid}: ended {last.state}")
            return
        setattr(self.verdict, outcome, getattr(self.verdict, outcome) + 1)
        self._judge_images(session, uid, rows)
        for row in rows:
            self._judge_events(session, row)
        if last.state == "ready":
            self._judge_delivery(session, last, {key for key in received if key[0] == uid}, len(rows))

    def _judge_images(self, session: Any, uid: str, rows: list[StudyRow]) -> None:
        images = (
            session.execute(select(InstanceRow).where(InstanceRow.study_id.in_([row.id for row in rows])))
            .scalars()
            .all()
        )
        slices = [image for image in images if image.modality == "CT"]
        if len(slices) not in (3, 15) or any(not (self.home / image.path).is_file() for image in images):
            self.verdict.lost.append(f"{uid}: {len(slices)} slices, or a file is missing")
        if len({image.sop_uid for image in images}) != len(images):
            self.verdict.double.append(f"{uid}: one instance stored twice")

    def _judge_events(self, session: Any, row: StudyRow) -> None:
        kinds = Counter(session.execute(select(EventRow.kind).where(EventRow.study_id == row.id)).scalars())
        for kind in ("ready", "refused", "sent"):
            if kinds[kind] > 1:
                self.verdict.double.append(f"{row.uid} revision {row.revision}: {kind} {kinds[kind]} times")

    def _judge_delivery(
        self, session: Any, row: StudyRow, received: set[tuple[str, str, str]], revisions: int
    ) -> None:
        states = (
            session.execute(select(DeliveryRow.state).where(DeliveryRow.study_id == row.id)).scalars().all()
        )
        if states != ["sent"]:
            self.verdict.lost.append(f"{row.uid}: delivery {states}")
        sent = {
            str(dcmread(file, stop_before_pixels=True).SOPInstanceUID)
            for file in (self.home / row.reading).glob("*.dcm")
        }
        if missing := sent - {sop for _, _, sop in received}:
            self.verdict.lost.append(f"{row.uid}: the archive lacks {len(missing)} of {len(sent)} results")
        for modality in ("SEG", "SR"):
            if sum(kind == modality for _, kind, _ in received) > revisions:
                self.verdict.double.append(f"{row.uid}: the archive holds several {modality}")

    def _close(self, node: Node) -> None:
        self.over.set()
        begun = [child for child in self.children.values() if child.pid is not None]
        for child in begun:
            child.terminate()
        for child in begun:
            child.join(20)
            child.kill()
        if self.archive is not None:
            self.archive.kill()
            self.archive.wait()
        node.database.close()


def _uids(file: Path) -> tuple[str, str, str]:
    """Return study, modality and instance of a file in the archive; a file that a kill cut short has none."""
    try:
        header = dcmread(
            file, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "Modality", "SOPInstanceUID"]
        )
        return str(header.StudyInstanceUID), str(header.Modality), str(header.SOPInstanceUID)
    except Exception:
        return ("", "", file.name)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(4096):
            sink.sendall(data)


def _quiet_loop(part: Loop, settings: NodeSettings) -> None:
    os.setpgrp()  # Ctrl-C is for the one who watches
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log = settings.home.parent / f"{part}.log"
    with log.open("a") as file:
        os.dup2(file.fileno(), 2)
    run_loop(part, settings)
