"""Sends the event table to the hospital's audit repository (syslog), in order, on from where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ichnos.service.node import Node, worker_name
from ichnos.service.remote.syslog import send_messages
from ichnos.service.settings import SyslogSettings
from ichnos.service.store.options import keep_option
from ichnos.service.store.tables import OptionRow
from ichnos.service.upkeep.audit_trail import AuditMessage, messages_after

BATCH = 100
_POSITION = "audit position"
_LEASE_S = 120.0  # after which another sender goes on, where the first one has been killed
_LONGEST_WAIT_S = 300.0
SendBatch = Callable[[Sequence[AuditMessage], SyslogSettings], None]  # OSError: not taken
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class AuditSender:
    """Sends batch after batch; of several senders one at a time.

    The position moves on after a batch was taken: nothing is left out when this process is killed, and at
    most the batch on its way is sent again, under the same sequence numbers.
    """

    node: Node
    send: SendBatch = send_messages
    name: str = field(default_factory=lambda: worker_name("audit"))
    next_at: float = 0.0
    failures: int = 0

    def step(self) -> bool:
        """Send what is due; False when nothing was, or the server did not take it."""
        settings, now = self.node.settings.audit, self.node.clock()
        if not settings.host or now < self.next_at:
            return False
        batch = self._claim(now)
        if not batch:
            return False
        try:
            self.send(batch, settings)
        except OSError as error:
            self._wait(now, error)
            return False
        self.failures = 0
        self._move_on(batch[-1].event)
        return True

    def _claim(self, now: float) -> list[AuditMessage]:
        with self.node.database.transaction() as session:
            position = _position(session)
            if position["by"] not in ("", self.name) and now < position["until"]:
                return []
            batch = messages_after(
                session,
                position["sent"],
                limit=BATCH,
                source=self.node.settings.receiver.ae_title,
                identified=self.node.settings.audit.identified,
            )
            if batch:
                keep_option(session, _POSITION, {**position, "by": self.name, "until": now + _LEASE_S})
            return batch

    def _move_on(self, event: int) -> None:
        with self.node.database.transaction() as session:
            if _position(session)["by"] == self.name:  # else another one has sent this batch since
                keep_option(session, _POSITION, {"sent": event, "by": "", "until": 0.0})

    def _wait(self, now: float, error: OSError) -> None:
        self.failures += 1
        wait_s = min(2.0**self.failures, _LONGEST_WAIT_S)
        self.next_at = now + wait_s
        _log.warning("the audit repository took no messages (%s); again in %.0f s", error, wait_s)


def _position(session: Session) -> dict[str, Any]:
    """Return the last event that was sent, and who is sending until when; other senders wait for the row."""
    wanted = select(OptionRow).where(OptionRow.name == _POSITION).with_for_update()
    row = session.execute(wanted).scalar_one_or_none()
    return dict(row.value) if row is not None else {"sent": 0, "by": "", "until": 0.0}
