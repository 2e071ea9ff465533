"""What the node watches of every CT that it read: once, at its place, whatever is purged or read again."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
from sqlalchemy import select

from builders.stored_node import open_stored
from ichnos.audit.monitoring.inputs import ReadInput
from ichnos.audit.monitoring.live import LiveEvidence, live_evidence
from ichnos.reading import Record
from ichnos.reading.record import QualityReason
from ichnos.service.node import Node
from ichnos.service.partners import evidence
from ichnos.service.store import queue, studies
from ichnos.service.store.images import StoredImage
from ichnos.service.store.studies import SettleRule
from ichnos.service.store.tables import EventRow, StudyRow
from ichnos.service.upkeep.retention import purge_study
from ichnos.service.worker import outcome_of


def arrive(node: Node, uid: str, image: int, *, now: float) -> None:
    sha = f"{uid}.{image}".encode().hex().ljust(64, "0")
    stored = StoredImage(
        f"images/{sha}.dcm", sha, 1, uid, f"{uid}.9", f"{uid}.{image}", "1.2", "CT", "P", "DOE", "20260101"
    )
    with node.database.transaction() as session:
        studies.register_image(session, stored, now=now, source="CT1")
        studies.settle_studies(session, SettleRule(quiet_s=0.001, limit_s=1.0), now=now + 1)


def read_next(node: Node, noise: float | None, *, now: float) -> None:
    """Finish the reading that waits: with a noise, or refused without one."""
    reasons = () if noise is None else (QualityReason(name="noise_hu", level="pass", text="", value=noise),)
    refused = {"status": "refused", "refusal": "made"} if noise is None else {"status": "read"}
    outcome = outcome_of(Record(name="a", quality=reasons, **refused), "readings/x")
    with node.database.transaction() as session:
        task = queue.claim_task(session, "read", worker="w", now=now, lease_s=10)
        assert task is not None
        studies.finish_reading(session, task, outcome, now=now, destinations=(), attempts_allowed=1)


def watched(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[ReadInput]:
    """Return the inputs that the node hands to its evidence."""
    found: list[ReadInput] = []

    def noted(scores: list, inputs: list[ReadInput], **more: object) -> LiveEvidence:
        found.extend(inputs)
        return live_evidence(scores, inputs)

    monkeypatch.setattr(evidence, "live_evidence", noted)
    evidence.node_evidence(node)
    return found


def test_a_ct_counts_once_at_its_place_whatever_becomes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = open_stored(tmp_path)
    for k, noise in enumerate((4.0004, None, 6.0)):
        arrive(node, f"1.{k}", 1, now=10.0 * k)
        read_next(node, noise, now=10.0 * k + 2)
    expected = [ReadInput(False, {"noise_hu": 4.0}), ReadInput(True, {}), ReadInput(False, {"noise_hu": 6.0})]
    assert watched(node, monkeypatch) == expected
    arrive(node, "1.2", 2, now=40)  # a late image: the next revision
    read_next(node, 6.1, now=42)
    with node.database.transaction() as session:
        again = session.get_one(StudyRow, 2)
        studies.read_again(session, again, now=50, actor="ANN", attempts_allowed=1, model="other")
    read_next(node, 5.0, now=52)
    purge_study(node, 1, actor="ANN")
    assert watched(node, monkeypatch) == expected
    node.database.close()


def test_an_alarm_stays_where_it_was_when_thousands_of_cts_have_come(tmp_path: Path) -> None:
    node = open_stored(tmp_path)

    def alarms(first: int, last: int) -> list[tuple[str, int]]:
        with node.database.transaction() as session:
            for k in range(first, last):
                noise = (4.0 if k < 40 else 8.0) + (k * 0.618) % 1
                details = {studies.INPUTS: {"noise_hu": noise}}
                row = EventRow(
                    at=0.0, kind="ready", actor="worker", details=details, previous="", digest=f"{k}"
                )
                session.add(row)
        return [(alarm.stream, alarm.at) for alarm in evidence.node_evidence(node).evidence.alarms]

    early = alarms(0, 100)
    assert early[0][0] == "noise of the CTs"
    assert early == alarms(100, 2500)
    with node.database.snapshot() as session:
        assert len(session.execute(select(EventRow.id)).all()) == 2500
    node.database.close()
