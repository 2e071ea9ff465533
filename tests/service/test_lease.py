"""A lease lives as long as its worker does, whatever the database does meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from ichnos.service.lease import kept_lease
from ichnos.service.node import Node, open_node
from ichnos.service.settings import NodeSettings, ReadingSettings
from ichnos.service.store import queue
from ichnos.service.store.database import Database
from ichnos.service.store.tables import TaskRow


def node_with_task(home: Path) -> Node:
    node = open_node(NodeSettings(home=home, reading=ReadingSettings(lease_s=1.2)))
    with node.database.transaction() as session:
        queue.enqueue(session, "read")
        queue.claim_task(session, "read", worker="w", now=node.clock(), lease_s=1.2)
    return node


def lease_until(node: Node) -> float:
    with node.database.snapshot() as session:
        return session.get_one(TaskRow, 1).lease_until


class Forgetful(Database):
    """A database whose first transactions fail, as while it restarts."""

    failures = 1

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        if Forgetful.failures:
            Forgetful.failures -= 1
            raise OperationalError("", {}, Exception("away"))
        with super().transaction() as session:
            yield session


def test_a_busy_worker_keeps_its_task_and_an_idle_one_does_not(tmp_path: Path) -> None:
    node = node_with_task(tmp_path)
    before = lease_until(node)
    with kept_lease(node, 1, worker="w"):
        time.sleep(0.5)
    after = lease_until(node)
    assert after > before
    time.sleep(0.4)
    assert lease_until(node) == after  # nobody beats after the block
    node.database.close()


def test_a_beat_that_fails_is_followed_by_one_that_works(tmp_path: Path) -> None:
    node = node_with_task(tmp_path)
    before, Forgetful.failures = lease_until(node), 1
    with kept_lease(replace(node, database=Forgetful(node.database.engine)), 1, worker="w"):
        time.sleep(0.8)
    assert Forgetful.failures == 0
    assert lease_until(node) > before
    node.database.close()


def test_a_loop_goes_on_when_the_database_comes_back(tmp_path: Path) -> None:
    node = node_with_task(tmp_path)
    calls: list[int] = []

    def step(asked: Node) -> bool:
        calls.append(1)
        if len(calls) == 1:
            raise OperationalError("", {}, Exception("away"))
        asked.stopping.set()
        return True

    node.repeat(step, pause_s=0.01)
    assert len(calls) == 2
    node.database.close()
