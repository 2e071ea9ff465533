"""The queue on both databases: nothing is lost, nothing is done twice, what keeps failing is set aside."""

from __future__ import annotations

import random
import threading
from typing import Any

from sqlalchemy import event, select, text

from ichnos.service.store import queue
from ichnos.service.store.database import Database
from ichnos.service.store.tables import TaskRow


def fill(database: Database, count: int, **how: int) -> None:
    with database.transaction() as session:
        for _ in range(count):
            queue.enqueue(session, "read", **how)  # type: ignore[arg-type]


def claim(database: Database, *, worker: str = "w", now: float = 0.0) -> TaskRow | None:
    with database.transaction() as session:
        return queue.claim_task(session, "read", worker=worker, now=now, lease_s=10)


def test_tasks_come_by_priority_then_by_age(database: Database) -> None:
    for priority in (5, 1, 5):
        fill(database, 1, priority=priority)
    order = [task.id for task in (claim(database), claim(database), claim(database)) if task]
    assert order == [2, 1, 3]
    assert claim(database) is None


def test_many_workers_share_the_tasks_without_a_double(database: Database) -> None:
    fill(database, 40)
    taken: list[int] = []
    lock = threading.Lock()

    def work(name: str) -> None:
        while task := claim(database, worker=name):
            with lock:
                taken.append(task.id)

    threads = [threading.Thread(target=work, args=(f"w{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 41))


def test_a_task_of_a_silent_worker_goes_to_another_and_the_first_one_learns_it(database: Database) -> None:
    fill(database, 1)
    first = claim(database, worker="slow")
    assert first is not None
    with database.transaction() as session:
        assert queue.release_expired(session, now=5.0) == []  # its lease still runs
    assert claim(database, worker="quick", now=5.0) is None
    with database.transaction() as session:
        queue.release_expired(session, now=11.0)
    second = claim(database, worker="quick", now=11.0)
    assert second is not None
    assert second.id == first.id
    with database.transaction() as session:
        assert queue.held_task(session, first.id, worker="slow") is None
        assert not queue.extend_lease(session, first.id, worker="slow", now=12.0, lease_s=10)
        assert queue.held_task(session, first.id, worker="quick") is not None


def test_a_heartbeat_keeps_the_lease(database: Database) -> None:
    fill(database, 1)
    task = claim(database)
    assert task is not None
    with database.transaction() as session:
        assert queue.extend_lease(session, task.id, worker="w", now=9.0, lease_s=10)
        queue.release_expired(session, now=15.0)
    assert claim(database, now=15.0) is None


def test_a_failing_task_waits_longer_each_time_and_is_then_set_aside(database: Database) -> None:
    fill(database, 1, attempts_allowed=3)
    now, waits, rng = 0.0, [], random.Random(3)
    for attempt in (1, 2, 3):
        task = claim(database, now=now)
        assert task is not None
        with database.transaction() as session:
            held = queue.held_task(session, task.id, worker="w")
            assert held is not None
            dead = queue.fail_task(session, held, "broken", now=now, first_wait_s=4.0, rng=rng)
            waits.append(held.not_before - now)
            now = held.not_before
        assert dead == (attempt == 3)
    assert 3.0 <= waits[0] <= 5.0 < 6.0 <= waits[1] <= 10.0
    with database.transaction() as session:
        assert session.execute(select(TaskRow.state, TaskRow.error)).one() == ("dead", "broken")
        assert queue.tasks_waiting(session, "read") == 0


def test_a_task_is_not_there_when_its_transaction_fails(database: Database) -> None:
    class Boom(Exception):
        pass

    try:
        with database.transaction() as session:
            queue.enqueue(session, "read")
            raise Boom
    except Boom:
        pass
    assert claim(database) is None


def test_a_claim_waits_for_no_disk_and_every_other_transaction_does(database: Database) -> None:
    fill(database, 1)
    asked = "PRAGMA synchronous" if database.is_sqlite else "SHOW synchronous_commit"
    seen = []
    for durable in (False, True, False):
        with database.transaction(durable=durable) as session:
            seen.append(session.execute(text(asked)).scalar())
            if not durable:
                queue.claim_task(session, "read", worker="w", now=0.0, lease_s=10)
    quick, safe = (1, 2) if database.is_sqlite else ("off", "on")
    assert seen == [quick, safe, quick]
    with database.snapshot() as session:
        assert session.execute(select(TaskRow.state, TaskRow.attempts)).one() == ("leased", 1)


def test_the_next_task_is_found_by_the_index_alone(database: Database) -> None:
    """A claim must cost the same however long the queue is: no sort, no walk over the table."""
    fill(database, 300)
    ran: list[tuple[str, Any]] = []
    note = lambda _c, _d, statement, values, *_: ran.append((statement, values))  # noqa: E731
    event.listen(database.engine, "before_cursor_execute", note)
    assert claim(database) is not None
    event.remove(database.engine, "before_cursor_execute", note)
    ((statement, values),) = [(words, values) for words, values in ran if words.startswith("UPDATE task")]
    explain, sort = ("EXPLAIN QUERY PLAN", "TEMP B-TREE") if database.is_sqlite else ("EXPLAIN", "Sort")
    with database.transaction() as session:
        if not database.is_sqlite:  # else it would walk over so small a table
            session.execute(text("SET LOCAL enable_seqscan TO OFF"))
        plan = session.connection().exec_driver_sql(f"{explain} {statement}", values).all()
    lines = " ".join(str(line) for line in plan)
    assert "task_next" in lines
    assert sort not in lines
