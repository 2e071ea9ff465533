"""What every loop of the node shares: settings, database, clock, and a way to stop."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from ichnos.service.settings import NodeSettings
from ichnos.service.store.database import Database, open_database


@dataclass(frozen=True, eq=False)
class Node:
    """Settings and database of one node; `stopping` ends its loops."""

    settings: NodeSettings
    database: Database
    clock: Callable[[], float] = time.time
    stopping: threading.Event = field(default_factory=threading.Event)

    def repeat(self, step: Callable[[Node], bool], *, pause_s: float) -> None:
        """Call a step until the node stops; pause whenever the step had nothing to do."""
        while not self.stopping.is_set():
            if not step(self):
                self.stopping.wait(pause_s)


def open_node(settings: NodeSettings) -> Node:
    """Create the home folder and open the database."""
    settings.home.mkdir(parents=True, exist_ok=True)
    return Node(settings, open_database(settings.database_url))


def worker_name(kind: str) -> str:
    """Return a name that no other process has: kind, host, process, a random part."""
    return f"{kind}-{socket.gethostname()[:24]}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
