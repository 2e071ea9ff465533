"""What every loop of the node shares: settings, database, clock, and a way to stop."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from ichnos.service.settings import NodeSettings
from ichnos.service.store.database import Database, open_database

_AFTER_ERROR_S = 1.0  # before a loop goes on after a step that failed, or a database that did not answer
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Node:
    """Settings and database of one node; `stopping` ends its loops."""

    settings: NodeSettings
    database: Database
    clock: Callable[[], float] = time.time
    stopping: threading.Event = field(default_factory=threading.Event)

    def repeat(self, step: Callable[[Node], bool], *, pause_s: float) -> None:
        """Call a step until the node stops; pause when it had nothing to do, failed, or has no database."""
        while not self.stopping.is_set():
            try:
                busy = step(self)
            except SQLAlchemyError as error:
                _log.error("the database did not answer (%s); trying again", type(error).__name__)
                self.stopping.wait(_AFTER_ERROR_S)
                continue
            except Exception as error:  # one odd study must not end a loop that all others need
                _log.error("%s at %s; going on", type(error).__name__, _where(error))
                self.stopping.wait(_AFTER_ERROR_S)
                continue
            if not busy:
                self.stopping.wait(pause_s)


def _where(error: Exception) -> str:
    """Return files and lines, innermost first; not the message, which may hold values of a header."""
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))


def open_node(settings: NodeSettings) -> Node:
    """Create the home folder and open the database."""
    settings.home.mkdir(parents=True, exist_ok=True)
    return Node(settings, open_database(settings.database_url))


def worker_name(kind: str) -> str:
    """Return a name that no other process has: kind, host, process, a random part."""
    return f"{kind}-{socket.gethostname()[:24]}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
