"""The event chain: every change of a study is one row that also holds the hash of the row before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from ichnos.service.store.tables import EventRow

FIRST = "0" * 64
_CHAIN_LOCK = 0x1C4205  # PostgreSQL advisory lock of the chain's end


def append_event(
    session: Session,
    kind: str,
    *,
    at: float,
    actor: str,
    study_id: int | None = None,
    details: Mapping[str, Any] | None = None,
) -> EventRow:
    """Add one event in the caller's transaction; `details` must hold no identity of a patient."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CHAIN_LOCK})
    session.flush()
    last = session.execute(select(EventRow.digest).order_by(EventRow.id.desc()).limit(1)).scalar()
    row = EventRow(
        at=round(at, 3),
        kind=kind,
        actor=actor,
        study_id=study_id,
        details=dict(details or {}),
        previous=last or FIRST,
    )
    row.digest = digest_of(row)
    session.add(row)
    session.flush()
    return row


def digest_of(row: EventRow) -> str:
    """Return the SHA-256 of an event's content and of the digest before it.

    >>> row = EventRow(at=1.0, kind="received", actor="receiver", details={}, previous=FIRST)
    >>> before = digest_of(row)
    >>> row.actor = "somebody"
    >>> digest_of(row) == before
    False
    """
    content = [row.previous, f"{row.at:.3f}", row.kind, row.actor, row.study_id, row.details]
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class ChainCheck:
    """Whether the chain is whole.

    >>> ChainCheck(12, None).whole, ChainCheck(12, broken_at=7).whole
    (True, False)
    """

    events: int
    broken_at: int | None  # id of the first event that does not follow from the one before it

    @property
    def whole(self) -> bool:
        """Tell whether every event follows from the one before it."""
        return self.broken_at is None


def check_chain(session: Session) -> ChainCheck:
    """Recompute every hash of the chain, in order."""
    previous, count = FIRST, 0
    for row in session.execute(select(EventRow).order_by(EventRow.id)).scalars().yield_per(1000):
        if row.previous != previous or digest_of(row) != row.digest:
            return ChainCheck(count, row.id)
        previous, count = row.digest, count + 1
    return ChainCheck(count, None)
