"""Retention: studies are removed after a number of days, or by hand, unless somebody holds them.

A purged study leaves an anonymous row behind, so that its events keep their study and no number is used
twice.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from ichnos.errors import UsageError
from ichnos.service.node import Node
from ichnos.service.partners.folders import pair_folder, shadow_folder
from ichnos.service.store import events
from ichnos.service.store.options import option
from ichnos.service.store.studies import revisions_of
from ichnos.service.store.tables import DeliveryRow, InstanceRow, PairRow, StudyRow, TaskRow

_DAY_S = 86_400.0
_MOVING = ("received", "queued", "reading")
_log = logging.getLogger(__name__)


KEEP_DAYS = "storage.keep_days"  # the option that the pages change


def keep_days_of(node: Node) -> float:
    """Return after how many days studies are removed, 0 for never: what the pages say, else the settings."""
    with node.database.snapshot() as session:
        return float(option(session, KEEP_DAYS, node.settings.storage.keep_days))


def purge_expired(node: Node, *, keep_days: float) -> int:
    """Remove studies whose last image and reading are older than this; 0 days: none. Return how many."""
    if keep_days <= 0:
        return 0
    before = node.clock() - keep_days * _DAY_S
    with node.database.snapshot() as session:
        old = (
            select(StudyRow.uid).where(StudyRow.last_image_at < before, StudyRow.state != "purged").distinct()
        )
        candidates = session.execute(old).scalars().all()
    return sum(_purge_if_old(node, uid, before) for uid in candidates)


def _purge_if_old(node: Node, uid: str, before: float) -> bool:
    with node.database.transaction() as session:
        rows = revisions_of(session, uid)
        newest = max((max(row.last_image_at, row.read_at or 0.0) for row in rows), default=before)
        if newest >= before or why_kept(session, rows):
            return False
        _remove(session, node.settings.home, rows, now=node.clock(), actor="retention")
    return True


def purge_study(node: Node, study_id: int, *, actor: str) -> None:
    """Remove a study, all its revisions, images and readings; refuse one that is held or on its way."""
    with node.database.transaction() as session:
        study = session.get(StudyRow, study_id)
        if study is None or study.state == "purged":
            raise UsageError(f"there is no study {study_id}")
        rows = revisions_of(session, study.uid)
        if why := why_kept(session, rows):
            raise UsageError(f"study {study_id} cannot be removed: {why}")
        _remove(session, node.settings.home, rows, now=node.clock(), actor=actor)


def hold_study(node: Node, study_id: int, *, held: bool, actor: str) -> None:
    """Protect every revision of a study from retention and purge, or give it free."""
    with node.database.transaction() as session:
        study = session.get(StudyRow, study_id)
        if study is None or study.state == "purged":
            raise UsageError(f"there is no study {study_id}")
        for row in revisions_of(session, study.uid):
            row.hold = held
        kind = "held" if held else "hold ended"
        events.append_event(session, kind, at=node.clock(), actor=actor, study_id=study_id)


def why_kept(session: Session, rows: Sequence[StudyRow]) -> str:
    """Return why a study may not be removed; "" if it may."""
    if any(row.hold for row in rows):
        return "it is held"
    if any(row.state in _MOVING for row in rows):
        return "it is on its way through the node"
    ids = [row.id for row in rows]
    waiting = select(TaskRow.id).where(TaskRow.study_id.in_(ids), TaskRow.state.in_(("waiting", "leased")))
    return "its results are being sent" if session.execute(waiting.limit(1)).first() else ""


def _remove(session: Session, home: Path, rows: Sequence[StudyRow], *, now: float, actor: str) -> None:
    """Remove files first: after a crash in between, the rows still say what to remove."""
    ids = [row.id for row in rows]
    images = session.execute(select(InstanceRow).where(InstanceRow.study_id.in_(ids))).scalars().all()
    for path in {image.path for image in images} - _used_elsewhere(session, images, ids):
        (home / path).unlink(missing_ok=True)
        (home / path).with_suffix(".json").unlink(missing_ok=True)
    readings = {home / row.reading for row in rows if row.reading}
    for folder in (*readings, *_partners_folders(session, home, ids)):
        shutil.rmtree(folder, ignore_errors=True)
    for table in (InstanceRow, DeliveryRow, TaskRow):
        session.execute(delete(table).where(table.study_id.in_(ids)))
    for row in rows:
        events.append_event(session, "purged", at=now, actor=actor, study_id=row.id)
        _forget(row)
    _log.info("study %s removed with %d images", ", ".join(map(str, ids)), len(images))


def _partners_folders(session: Session, home: Path, ids: Sequence[int]) -> list[Path]:
    """Return the folders of shadow readings of these studies, and of every pair that they belong to."""
    pairs = select(PairRow.id).where(or_(PairRow.ct_study_id.in_(ids), PairRow.partner_study_id.in_(ids)))
    judged = [pair_folder(home, number) for number in session.execute(pairs).scalars()]
    return judged + [shadow_folder(home, number) for number in ids]


def _used_elsewhere(session: Session, images: Sequence[InstanceRow], ids: Sequence[int]) -> set[str]:
    """Return files that another study refers to as well: equal bytes are stored once."""
    hashes = [image.sha256 for image in images]
    others = select(InstanceRow.path).where(InstanceRow.sha256.in_(hashes), InstanceRow.study_id.not_in(ids))
    return set(session.execute(others).scalars())


def _forget(row: StudyRow) -> None:
    row.uid, row.state = f"purged-{row.id}", "purged"
    row.patient_id = row.patient_name = row.study_date = row.source = row.reading = ""
    row.reason, row.summary, row.images, row.urgency = "", {}, 0, 0.0
