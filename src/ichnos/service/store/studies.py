"""Studies and their states; every change happens in one transaction with its event and its task.

    received → queued → reading → ready | refused | failed        (superseded: a later revision took over)

A study without a CT is `kept`: stored, never read. Results of our own that come back are such images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from ichnos.service.store import events, queue
from ichnos.service.store.images import StoredImage
from ichnos.service.store.tables import DeliveryRow, InstanceRow, StudyRow, TaskRow

READ_MODALITY = "CT"
CONFLICT = "conflict"  # event: other bytes came under a known UID
INPUTS = "inputs"  # in the details of a first reading: what the CT was like, by name of the quality check
PATIENT_DIFFERS = "another_patient_id"  # in its details, which do not say which one
Arrival = Literal["new", "duplicate", "conflict"]


def register_image(session: Session, image: StoredImage, *, now: float, source: str) -> Arrival:
    """Note an image that is on the disk; the same bytes again change nothing, other bytes are flagged."""
    _one_at_a_time(session, image.study_uid)
    known = _known(session, image)
    if image.sha256 in known:
        return "duplicate"
    study = latest_revision(session, image.study_uid) if known else None
    if study is None:
        study = _study_for(session, image, now=now, source=source)
    session.add(_row_of(image, study, now=now, conflicting=bool(known)))
    study.images += 1
    if study.state == "kept" or (image.modality == READ_MODALITY and study.state == "received"):
        study.last_image_at = now
    if not known:
        return "new"
    first_patient = next(iter(known.values()))
    details = {PATIENT_DIFFERS: True} if image.patient_id != first_patient else {}
    events.append_event(session, CONFLICT, at=now, actor="receiver", study_id=study.id, details=details)
    return "conflict"


def _known(session: Session, image: StoredImage) -> dict[str, str]:
    """Return what came under an image's UIDs, in order: digest -> PatientID of the revision it came in.

    An archive that moves images to another study may keep their SOPInstanceUID: there they are new.
    """
    same_uid = (
        select(InstanceRow.sha256, StudyRow.patient_id)
        .join(StudyRow, InstanceRow.study_id == StudyRow.id)
        .where(StudyRow.uid == image.study_uid, InstanceRow.sop_uid == image.sop_uid)
        .order_by(InstanceRow.id)
    )
    return {digest: patient_id for digest, patient_id in session.execute(same_uid)}


def _row_of(image: StoredImage, study: StudyRow, *, now: float, conflicting: bool) -> InstanceRow:
    return InstanceRow(
        study_id=study.id,
        series_uid=image.series_uid,
        sop_uid=image.sop_uid,
        sop_class=image.sop_class,
        modality=image.modality,
        sha256=image.sha256,
        size=image.size,
        path=image.path,
        received_at=now,
        conflicting=conflicting,
    )


def _one_at_a_time(session: Session, study_uid: str) -> None:
    """Let images of one study wait for each other: two associations must not open its revision twice."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(hashtext(:uid))"), {"uid": study_uid})


def _study_for(session: Session, image: StoredImage, *, now: float, source: str) -> StudyRow:
    """Return the open revision of an image's study; a CT image after the study was queued opens the next."""
    latest = latest_revision(session, image.study_uid)
    reads = image.modality == READ_MODALITY
    if latest is not None and (latest.state == "received" or not reads):
        return latest
    if latest is not None and latest.state == "kept":
        latest.state = "received"
        events.append_event(session, "received", at=now, actor="receiver", study_id=latest.id)
        return latest
    return _new_revision(session, image, 1 if latest is None else latest.revision + 1, now=now, source=source)


def _new_revision(
    session: Session, image: StoredImage, revision: int, *, now: float, source: str
) -> StudyRow:
    study = StudyRow(
        uid=image.study_uid,
        revision=revision,
        state="received" if image.modality == READ_MODALITY else "kept",
        patient_id=image.patient_id,
        patient_name=image.patient_name,
        study_date=image.study_date,
        source=source,
        first_image_at=now,
        last_image_at=now,
        images=0,
        summary={},
    )
    session.add(study)
    session.flush()
    details = {"revision": revision, "source": source}
    events.append_event(session, study.state, at=now, actor="receiver", study_id=study.id, details=details)
    return study


def latest_revision(session: Session, uid: str) -> StudyRow | None:
    """Return the newest revision of a study."""
    return session.execute(
        select(StudyRow)
        .where(StudyRow.uid == uid)
        .order_by(StudyRow.revision.desc())
        .limit(1)
        .with_for_update()
    ).scalar()


def revisions_of(session: Session, uid: str) -> list[StudyRow]:
    """Return all revisions of a study, oldest first; its images wait until this transaction ends."""
    _one_at_a_time(session, uid)
    wanted = select(StudyRow).where(StudyRow.uid == uid).order_by(StudyRow.revision).with_for_update()
    return list(session.execute(wanted).scalars())


@dataclass(frozen=True)
class SettleRule:
    """When a study counts as complete; seconds."""

    quiet_s: float
    limit_s: float
    attempts_allowed: int = 3


def settle_studies(
    session: Session, rule: SettleRule, *, now: float, complete: Mapping[int, str] | None = None
) -> list[StudyRow]:
    """Queue every study that is complete: quiet long enough, known to be `complete`, or the limit reached."""
    open_studies = session.execute(
        select(StudyRow).where(StudyRow.state == "received").with_for_update(skip_locked=True)
    ).scalars()
    settled = []
    for study in open_studies:
        why = (complete or {}).get(study.id) or _complete(study, rule, now)
        if why:
            _supersede_older(session, study, now=now)
            study.state, study.settled_at = "queued", now
            queue.enqueue(session, "read", study_id=study.id, attempts_allowed=rule.attempts_allowed)
            details = {"why": why, "images": study.images}
            events.append_event(
                session, "queued", at=now, actor="assembler", study_id=study.id, details=details
            )
            settled.append(study)
    return settled


def _complete(study: StudyRow, rule: SettleRule, now: float) -> str:
    if study.expected_images is not None and study.images >= study.expected_images:
        return "all images of the archive have arrived"
    if now - study.last_image_at >= rule.quiet_s:
        return f"no new image for {rule.quiet_s:g} s"
    if now - study.first_image_at >= rule.limit_s:
        return f"the limit of {rule.limit_s:g} s is reached"
    return ""


def _supersede_older(session: Session, study: StudyRow, *, now: float) -> None:
    older = session.execute(
        select(StudyRow).where(
            StudyRow.uid == study.uid, StudyRow.revision < study.revision, StudyRow.state != "superseded"
        )
    ).scalars()
    for old in older:
        old.state = "superseded"
        session.execute(
            update(TaskRow)
            .where(TaskRow.study_id == old.id, TaskRow.state.in_(("waiting", "leased")))
            .values(state="dead")
        )
        session.execute(
            update(DeliveryRow)
            .where(DeliveryRow.study_id == old.id, DeliveryRow.state.in_(("waiting", "sending")))
            .values(state="dead", error=f"revision {study.revision} took over", changed_at=now)
        )
        details = {"by_revision": study.revision}
        events.append_event(
            session, "superseded", at=now, actor="assembler", study_id=old.id, details=details
        )


def files_of(session: Session, study: StudyRow) -> list[InstanceRow]:
    """Return the images of a study up to its revision; where bytes conflict, those that came first."""
    return list(
        session.execute(
            select(InstanceRow)
            .join(StudyRow, InstanceRow.study_id == StudyRow.id)
            .where(
                StudyRow.uid == study.uid,
                StudyRow.revision <= study.revision,
                InstanceRow.conflicting.is_(False),
            )
            .order_by(InstanceRow.id)
        ).scalars()
    )


def begin_reading(session: Session, task: TaskRow, *, now: float) -> StudyRow:
    """Note that a worker reads the study of a claimed task."""
    study = session.get_one(StudyRow, task.study_id)
    if study.state != "reading":
        study.state = "reading"
        details = {"attempt": task.attempts} | dict(task.payload)
        events.append_event(session, "reading", at=now, actor=task.worker, study_id=study.id, details=details)
    return study


@dataclass(frozen=True)
class ReadingOutcome:
    """What a worker found, as the tables keep it."""

    folder: str  # below the home folder
    refusal: str = ""  # why the scan was not read; "" where it was
    urgency: float = 0.0
    summary: Mapping[str, Any] | None = None
    inputs: Mapping[str, float] | None = None  # what the CT was like


def finish_reading(
    session: Session,
    task: TaskRow,
    outcome: ReadingOutcome,
    *,
    now: float,
    destinations: Sequence[str],
    attempts_allowed: int,
) -> StudyRow:
    """Store the outcome, complete the task and queue one delivery per destination, all or nothing."""
    study = session.get_one(StudyRow, task.study_id)
    details = {} if _was_read(session, study) else {INPUTS: dict(outcome.inputs or {})}
    study.state = "refused" if outcome.refusal else "ready"
    study.reason, study.reading, study.read_at = outcome.refusal, outcome.folder, now
    study.urgency, study.summary = outcome.urgency, dict(outcome.summary or {})
    worker = task.worker
    queue.complete_task(session, task)
    events.append_event(session, study.state, at=now, actor=worker, study_id=study.id, details=details)
    if not outcome.refusal:
        for name in destinations:
            deliver(session, study, name, now=now, attempts_allowed=attempts_allowed)
    return study


def _was_read(session: Session, study: StudyRow) -> bool:
    """Tell whether any revision of a study has been read: its CT has been counted then."""
    read = select(StudyRow.id).where(StudyRow.uid == study.uid, StudyRow.read_at.is_not(None))
    return session.execute(read.limit(1)).first() is not None


def deliver(
    session: Session, study: StudyRow, destination: str, *, now: float, attempts_allowed: int
) -> DeliveryRow:
    """Queue the results of a study for a destination; again, if they were delivered before."""
    row = session.execute(
        select(DeliveryRow).where(DeliveryRow.study_id == study.id, DeliveryRow.destination == destination)
    ).scalar()
    if row is None:
        row = DeliveryRow(study_id=study.id, destination=destination, changed_at=now)
        session.add(row)
    row.state, row.error, row.changed_at = "waiting", "", now
    session.flush()
    if not _waits_already(session, row):
        queue.enqueue(
            session,
            "send",
            study_id=study.id,
            payload={"delivery": row.id},
            attempts_allowed=attempts_allowed,
        )
    details = {"destination": destination}
    events.append_event(session, "to send", at=now, actor="worker", study_id=study.id, details=details)
    return row


def _waits_already(session: Session, delivery: DeliveryRow) -> bool:
    """Tell whether a sender will come for a delivery anyhow, so that two requests send once."""
    waiting = select(TaskRow.payload).where(
        TaskRow.kind == "send", TaskRow.state == "waiting", TaskRow.study_id == delivery.study_id
    )
    return any(payload.get("delivery") == delivery.id for payload in session.execute(waiting).scalars())


def set_aside(session: Session, task: TaskRow, *, now: float) -> None:
    """Note that the last try of a task failed: its study, or its delivery, is given up by name."""
    if task.kind == "read" and task.study_id is not None:
        study = session.get_one(StudyRow, task.study_id)
        if study.state == "superseded":
            return
        study.state, study.reason = "failed", task.error
        events.append_event(session, "failed", at=now, actor="worker", study_id=study.id)
    elif task.kind == "send":
        delivery = session.get_one(DeliveryRow, int(task.payload["delivery"]))
        delivery.state, delivery.error, delivery.changed_at = "dead", task.error, now
        details = {"destination": delivery.destination}
        events.append_event(
            session, "not sent", at=now, actor="sender", study_id=task.study_id, details=details
        )


def read_again(
    session: Session, study: StudyRow, *, now: float, actor: str, attempts_allowed: int, model: str = ""
) -> None:
    """Queue a study once more; with another model, if one is named."""
    study.state, study.reason = "queued", ""
    payload = {"model": model} if model else {}
    queue.enqueue(session, "read", study_id=study.id, payload=payload, attempts_allowed=attempts_allowed)
    details = {"why": "asked for"} | payload
    events.append_event(session, "queued", at=now, actor=actor, study_id=study.id, details=details)


def acknowledge(session: Session, study: StudyRow, *, now: float, actor: str) -> None:
    """Note that a person has seen a study."""
    study.acknowledged_by, study.acknowledged_at = actor, now
    events.append_event(session, "acknowledged", at=now, actor=actor, study_id=study.id)
