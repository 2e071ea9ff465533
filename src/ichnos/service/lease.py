"""Keep the lease of a task alive while a worker or sender is busy with it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from ichnos.service.node import Node
from ichnos.service.store import queue

_BEATS_PER_LEASE = 4  # three may fail, as during a restart of the database
_log = logging.getLogger(__name__)


@contextmanager
def kept_lease(node: Node, task_id: int, *, worker: str) -> Iterator[None]:
    """Prolong the lease of a task in a thread while the block runs."""
    over = threading.Event()
    thread = threading.Thread(target=_beat, args=(node, task_id, worker, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _beat(node: Node, task_id: int, worker: str, over: threading.Event) -> None:
    lease_s = node.settings.reading.lease_s
    while not over.wait(lease_s / _BEATS_PER_LEASE):
        try:
            with node.database.transaction() as session:
                queue.extend_lease(session, task_id, worker=worker, now=node.clock(), lease_s=lease_s)
        except SQLAlchemyError as error:
            _log.warning("the lease of task %d was not prolonged: %s", task_id, type(error).__name__)
