"""A whole node in threads of the test: receiver, assembler, worker, sender and pages, with a rule that reads.

What is rare in tests of one part is real here: TCP, a browser's requests, DICOM both ways.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from pynetdicom import AE, AllStoragePresentationContexts, evt

from builders.readable_head import head, model, rule
from ichnos.api import read_with
from ichnos.formats.dicom.write import Plane, SeriesHeader, write_series
from ichnos.inference import Predictor
from ichnos.reading import Reading
from ichnos.service.accounts import auth
from ichnos.service.assembler import assemble
from ichnos.service.node import Node, open_node
from ichnos.service.receiver import Receiver
from ichnos.service.sender import Sender
from ichnos.service.settings import (
    AssemblySettings,
    Destination,
    NodeSettings,
    ReceiverSettings,
    SendingSettings,
)
from ichnos.service.web import views
from ichnos.service.web.app import create_app
from ichnos.service.worker import Worker

PASSWORD = "correct horse battery"


class Living:
    """The running node: its addresses and what its destination has taken."""

    def __init__(self, home: Path) -> None:
        self.taken: list[str] = []
        self.pacs = self._archive()
        there = Destination(
            name="PACS", ae_title="PACS", host="127.0.0.1", port=self.pacs.socket.getsockname()[1]
        )
        settings = NodeSettings(
            home=home,
            receiver=ReceiverSettings(port=0),
            assembly=AssemblySettings(quiet_s=3),
            sending=SendingSettings(destinations=(there,)),
        )
        self.node: Node = open_node(settings)
        self.receiver = Receiver(self.node)
        self.receiver.start()
        config = uvicorn.Config(
            create_app(self.node), port=0, log_level="error", timeout_graceful_shutdown=1, ws="none"
        )
        self.server = uvicorn.Server(config)
        self.threads = [threading.Thread(target=self.server.run), threading.Thread(target=self._work)]
        for thread in self.threads:
            thread.start()
        until(lambda: self.server.started, 30)

    @property
    def url(self) -> str:
        """Return the address of the pages."""
        port = self.server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def add_user(self, name: str, role: auth.Role) -> None:
        """Let somebody in with PASSWORD."""
        with self.node.database.transaction() as session:
            auth.add_user(session, name, PASSWORD, role)

    def token(self, name: str, role: auth.Role, *scopes: auth.Scope) -> str:
        """Add a user and return a token of theirs."""
        with self.node.database.transaction() as session:
            user = auth.UserRow(name=name, password_hash="", role=role)
            session.add(user)
            session.flush()
            now = self.node.clock()
            return auth.issue_token(session, user, label="test", now=now, days=1, scopes=scopes)

    def close(self) -> None:
        """End every part."""
        self.node.stopping.set()
        self.server.should_exit = True
        for thread in self.threads:
            thread.join()
        self.receiver.stop()
        self.pacs.shutdown()
        self.node.database.close()

    def _work(self) -> None:
        worker = Worker(self.node, read_by_rule, lambda _model: read_by_rule)
        sender = Sender(self.node)
        while not self.node.stopping.wait(0.1):
            assemble(self.node)
            worker.step()
            sender.step()

    def _archive(self) -> Any:
        entity = AE(ae_title="PACS")
        entity.supported_contexts = AllStoragePresentationContexts
        entity.add_supported_context("1.2.840.10008.1.1")

        def keep(event: Any) -> int:
            self.taken.append(str(event.dataset.Modality))
            return 0

        return entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])


_READ: dict[tuple[str, ...], Reading] = {}  # by the files' names, which are hashes of their content


def read_by_rule(folder: Path, name: str) -> Reading:
    """Read as the models would, by a rule instead of a network; the same images once."""
    images = tuple(sorted(file.name for file in folder.iterdir()))
    if images not in _READ:
        _READ[images] = read_with(Predictor(model(), backend=rule), folder, name=name)
    return _READ[images]


def write_head(folder: Path, *, date: str = "20260101", clot: bool = True) -> Path:
    """Write a made head CT as DICOM; slices of 4 mm."""
    volume = head(clot=clot).volume.reoriented("LPS")
    normal = np.cross(volume.affine[:3, 0], volume.affine[:3, 1])
    planes = []
    for k in range(0, volume.shape[2], 2):
        affine = np.array(volume.affine)
        affine[:3, 2], affine[:3, 3] = normal / np.linalg.norm(normal), volume.world((0, 0, k))
        planes.append(Plane(volume.array[:, :, k].T.astype(np.float32), affine))
    header = SeriesHeader(seed=f"{date} {clot}", patient_id="P7", patient_name="Doe^Jane", date=date)
    write_series(planes, folder, header=header)
    return folder


def until(question: Callable[[], Any], seconds: float) -> Any:
    """Ask again until there is an answer."""
    ends = time.monotonic() + seconds
    while not (answer := question()):
        if time.monotonic() > ends:
            raise AssertionError(f"no answer within {seconds:g} s")
        time.sleep(0.05)
    return answer


@contextmanager
def living_node(home: Path) -> Iterator[Living]:
    """Run a node for the length of a block."""
    running = Living(home)
    try:
        yield running
    finally:
        running.close()


def require_program(name: str, package: str) -> str:
    """Return the path of a program; without it CI fails and anybody else skips."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed; CI installs it")
        pytest.skip(f"{name} is not installed (Debian: {package})")
    return found


def fetch_package(spec: str, folder: Path) -> Path:
    """Fetch a package from npm; return its tarball. Without it CI fails and anybody else skips."""
    npm = require_program("npm", "npm")
    words = [npm, "pack", "--silent", spec]
    fetched = subprocess.run(words, cwd=folder, capture_output=True, timeout=300, check=False)
    if fetched.returncode:
        if os.environ.get("CI"):
            pytest.fail(f"{spec} could not be fetched from npm")
        pytest.skip(f"{spec} could not be fetched from npm")
    return next(folder.glob("*.tgz"))


def finished_study(living: Living, seconds: float = 300) -> int:
    """Return the number of the newest study that was read, once there is one."""

    def newest() -> int:
        with living.node.database.snapshot() as session:
            return max((row.id for row in views.worklist(session, state="ready")), default=0)

    return int(until(newest, seconds))
