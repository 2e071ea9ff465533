"""The task queue: claim with a lease, heartbeat, retry with growing waits, set aside what keeps failing.

All functions work in the caller's transaction, so that a task and the state it belongs to change together.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from ichnos.service.store.tables import TaskRow

LONGEST_WAIT_S = 3600.0


def enqueue(
    session: Session,
    kind: str,
    *,
    study_id: int | None = None,
    payload: Mapping[str, Any] | None = None,
    priority: int = 0,
    not_before: float = 0.0,
    attempts_allowed: int = 3,
) -> TaskRow:
    """Add a task."""
    task = TaskRow(
        kind=kind,
        study_id=study_id,
        payload=dict(payload or {}),
        priority=priority,
        not_before=not_before,
        attempts_allowed=attempts_allowed,
    )
    session.add(task)
    session.flush()
    return task


def claim_task(session: Session, kind: str, *, worker: str, now: float, lease_s: float) -> TaskRow | None:
    """Take the most urgent task that is due; None when there is none. Two workers never get the same one.

    One statement, so one round trip; the subquery follows the index `task_next` and stops at its first row.
    """
    next_id = (
        select(TaskRow.id)
        .where(TaskRow.kind == kind, TaskRow.state == "waiting", TaskRow.not_before <= now)
        .order_by(TaskRow.priority, TaskRow.id)
        .limit(1)
        .with_for_update(skip_locked=True)  # PostgreSQL; SQLite ignores it and has one writer at a time
    )
    taken = (
        update(TaskRow)
        .where(TaskRow.id == next_id.scalar_subquery())
        .values(state="leased", worker=worker, lease_until=now + lease_s, attempts=TaskRow.attempts + 1)
        .returning(TaskRow)
    )
    options = {"synchronize_session": False, "populate_existing": True}
    return session.execute(taken, execution_options=options).scalar()


def extend_lease(session: Session, task_id: int, *, worker: str, now: float, lease_s: float) -> bool:
    """Prolong a lease; False when another worker has the task by now, so that the caller must stop."""
    mine = (TaskRow.id == task_id, TaskRow.state == "leased", TaskRow.worker == worker)
    result = session.execute(update(TaskRow).where(*mine).values(lease_until=now + lease_s))
    return bool(result.rowcount)  # type: ignore[attr-defined]


def held_task(session: Session, task_id: int, *, worker: str) -> TaskRow | None:
    """Return the task if this worker still holds its lease; else None: its result must be thrown away."""
    wanted = select(TaskRow).where(TaskRow.id == task_id).with_for_update()
    task = session.execute(wanted).scalar()
    return task if task is not None and task.state == "leased" and task.worker == worker else None


def complete_task(session: Session, task: TaskRow) -> None:
    """Mark a task as done."""
    task.state, task.error = "done", ""
    session.flush()


def fail_task(
    session: Session, task: TaskRow, error: str, *, now: float, first_wait_s: float, rng: random.Random
) -> bool:
    """Put a failed task back, later each time, or set it aside after its last try; True when set aside."""
    task.error, task.worker = error, ""
    if task.attempts >= task.attempts_allowed:
        task.state = "dead"
        session.flush()
        return True
    task.state = "waiting"
    task.not_before = now + wait_s(task.attempts, first_wait_s, rng)
    session.flush()
    return False


def give_up(session: Session, task: TaskRow, reason: str) -> None:
    """Set a task aside for a reason that no further try would change."""
    task.state, task.error, task.worker = "dead", reason, ""
    session.flush()


def hand_back(session: Session, task: TaskRow) -> None:
    """Put a task back that was interrupted and did not fail; the try does not count."""
    task.state, task.worker, task.attempts = "waiting", "", max(0, task.attempts - 1)
    session.flush()


def wait_s(attempts: int, first_wait_s: float, rng: random.Random) -> float:
    """Return how long to wait after so many tries: doubling, with jitter, an hour at most.

    >>> [round(wait_s(n, 5.0, random.Random(1))) for n in (1, 2, 3, 20)]
    [4, 8, 16, 3600]
    """
    doubled: float = first_wait_s * 2.0 ** min(attempts - 1, 30)
    return min(LONGEST_WAIT_S, doubled * rng.uniform(0.75, 1.25))


def release_expired(session: Session, *, now: float) -> list[TaskRow]:
    """Put tasks back whose worker has been silent for longer than its lease; return those set aside."""
    expired = session.execute(
        select(TaskRow)
        .where(TaskRow.state == "leased", TaskRow.lease_until < now)
        .with_for_update(skip_locked=True)
    ).scalars()
    dead = []
    for task in expired:
        task.error = f"worker {task.worker} stopped answering"
        task.worker = ""
        task.state = "dead" if task.attempts >= task.attempts_allowed else "waiting"
        if task.state == "dead":
            dead.append(task)
    session.flush()
    return dead


def tasks_waiting(session: Session, kind: str) -> int:
    """Count the tasks of a kind that wait or are being worked on."""
    query = (
        select(func.count())
        .select_from(TaskRow)
        .where(TaskRow.kind == kind, TaskRow.state.in_(("waiting", "leased")))
    )
    return int(session.execute(query).scalar_one())
