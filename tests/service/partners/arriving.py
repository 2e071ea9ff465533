"""A node in which studies of a patient arrive and are read, for the tests of its pairs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from ichnos.audit.score import Score
from ichnos.service.node import Node
from ichnos.service.partners import judge as judging
from ichnos.service.partners.folders import shadow_folder
from ichnos.service.settings import PartnerSettings
from ichnos.service.store import events, studies
from ichnos.service.store.images import StoredImage
from ichnos.service.store.tables import PairRow, StudyRow, TaskRow

SETTINGS = PartnerSettings(delay_s=100)


class Clock:
    """A clock that tests move."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def study(
    node: Node, uid: str, date: str, *, modality: str = "CT", patient: str = "P1", read: bool = True
) -> int:
    """Add a study as the node leaves it: a CT that was read, or an MR that is kept; return its id."""
    now = node.clock()
    sha = uid.encode().hex().ljust(64, "0")[:64]
    image = StoredImage(
        f"images/{sha}.dcm", sha, 1, uid, f"{uid}.9", f"{uid}.1", "1.2", modality, patient, "DOE^J", date
    )
    with node.database.transaction() as session:
        studies.register_image(session, image, now=now, source="CT1")
        row = studies.latest_revision(session, uid)
        assert row is not None
        if read and modality == "CT":
            row.state, row.read_at, row.reading = "ready", now, f"readings/{row.id}"
            row.summary = {"ich_volume": 10.0 + row.id}
            events.append_event(session, "ready", at=now, actor="worker", study_id=row.id)
        return row.id


def later(node: Node, seconds: float) -> None:
    node.clock.now += seconds  # type: ignore[attr-defined]


def pairs(node: Node) -> list[tuple[int, int, str]]:
    with node.database.snapshot() as session:
        rows = session.execute(select(PairRow).order_by(PairRow.id)).scalars()
        return [(row.ct_study_id, row.partner_study_id, row.state) for row in rows]


def waiting(node: Node, kind: str) -> int:
    with node.database.snapshot() as session:
        return len(
            session.execute(select(TaskRow).where(TaskRow.kind == kind, TaskRow.state == "waiting")).all()
        )


def more_of(node: Node, uid: str, number: int, modality: str = "MR") -> None:
    """Add another image to a study."""
    sha = f"{uid} {number}".encode().hex().ljust(64, "0")[:64]
    sop = f"{uid}.1.{number}"
    image = StoredImage(
        f"images/{sha}.dcm", sha, 1, uid, f"{uid}.9", sop, "1.2", modality, "P1", "DOE^J", "20260110"
    )
    with node.database.transaction() as session:
        studies.register_image(session, image, now=node.clock(), source="MR1")


def read_again(node: Node, study_id: int) -> None:
    """Read a study with another model, as a researcher may ask for at any time."""
    with node.database.transaction() as session:
        row = session.get_one(StudyRow, study_id)
        row.read_at, row.reading = node.clock(), f"readings/{study_id}-again"


def shadow_reading(node: Node, study_id: int, model: str, *, made_at: float) -> Path:
    folder = shadow_folder(node.settings.home, study_id) / model
    folder.mkdir(parents=True)
    (folder / "reading.json").write_text("{}")
    os.utime(folder / "reading.json", (made_at, made_at))
    return folder


def stand_in(monkeypatch: pytest.MonkeyPatch, *scores: Score, error: Exception | None = None) -> None:
    def judged(job: Any, home: Path) -> tuple[str, str, tuple[Score, ...]]:
        if error is not None:
            raise error
        return "judged", "", scores

    monkeypatch.setattr(judging, "_judged", judged)
