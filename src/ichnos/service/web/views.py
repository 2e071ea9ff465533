"""What the pages and the API show of a study: plain values, read in one transaction."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ichnos.service.store.tables import DeliveryRow, EventRow, StudyRow

SHOWN_STATES = ("received", "queued", "reading", "ready", "refused", "failed")


@dataclass(frozen=True)
class WorklistRow:
    """One line of the worklist."""

    id: int
    revision: int
    state: str
    patient_name: str
    patient_id: str
    study_date: str
    images: int
    arrived: str  # UTC
    finding: str  # the main result in a few words, or why there is none
    urgency: float
    acknowledged_by: str


@dataclass(frozen=True)
class DeliveryLine:
    """Where the results of a study are."""

    destination: str
    state: str
    error: str
    changed: str


@dataclass(frozen=True)
class EventLine:
    """One step of a study's way."""

    at: str
    kind: str
    actor: str
    details: dict[str, Any]


@dataclass(frozen=True)
class StudyDetails:
    """One study with its way through the node."""

    row: WorklistRow
    has_report: bool
    summary: dict[str, Any]
    deliveries: tuple[DeliveryLine, ...]
    timeline: tuple[EventLine, ...]
    revisions: tuple[int, ...]  # ids of all revisions of this study, newest first
    priors: tuple[WorklistRow, ...]  # other studies of the same patient

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def worklist(
    session: Session, *, state: str = "", open_only: bool = False, limit: int = 200
) -> list[WorklistRow]:
    """Return studies by urgency, the most urgent first; without superseded ones and those without a CT."""
    wanted = select(StudyRow).where(StudyRow.state.in_((state,) if state else SHOWN_STATES))
    if open_only:
        wanted = wanted.where(StudyRow.acknowledged_at.is_(None))
    ordered = wanted.order_by(StudyRow.urgency.desc(), StudyRow.first_image_at.desc()).limit(limit)
    return [_line(study) for study in session.execute(ordered).scalars()]


def details_of(session: Session, study_id: int) -> StudyDetails | None:
    """Return everything that is shown of one study; None when there is no such study."""
    study = session.get(StudyRow, study_id)
    if study is None:
        return None
    revisions = select(StudyRow.id).where(StudyRow.uid == study.uid).order_by(StudyRow.revision.desc())
    same_patient = select(StudyRow).where(
        StudyRow.patient_id == study.patient_id,
        StudyRow.patient_id != "",
        StudyRow.uid != study.uid,
        StudyRow.state.in_(SHOWN_STATES),
    )
    deliveries = select(DeliveryRow).where(DeliveryRow.study_id == study_id).order_by(DeliveryRow.id)
    steps = select(EventRow).where(EventRow.study_id == study_id).order_by(EventRow.id)
    return StudyDetails(
        row=_line(study),
        has_report=bool(study.reading),
        summary=dict(study.summary),
        deliveries=tuple(
            DeliveryLine(d.destination, d.state, d.error, _time(d.changed_at))
            for d in session.execute(deliveries).scalars()
        ),
        timeline=tuple(
            EventLine(_time(e.at), e.kind, e.actor, dict(e.details)) for e in session.execute(steps).scalars()
        ),
        revisions=tuple(session.execute(revisions).scalars()),
        priors=tuple(_line(s) for s in session.execute(same_patient.limit(20)).scalars()),
    )


def _line(study: StudyRow) -> WorklistRow:
    return WorklistRow(
        id=study.id,
        revision=study.revision,
        state=study.state,
        patient_name=study.patient_name.replace("^", " ").strip(),
        patient_id=study.patient_id,
        study_date=study.study_date,
        images=study.images,
        arrived=_time(study.first_image_at),
        finding=study.reason or finding_in_words(study.summary) if study.read_at or study.reason else "",
        urgency=study.urgency,
        acknowledged_by=study.acknowledged_by,
    )


def finding_in_words(summary: dict[str, Any]) -> str:
    """Return the main result in a few words.

    >>> finding_in_words({"ich_volume": 19.3, "side": "left", "site": "basal ganglia"})
    'ICH 19.3 mL, left basal ganglia'
    >>> finding_in_words({})
    'no haemorrhage found'
    """
    parts = [
        f"{label} {float(summary[key]):.1f} mL"
        for key, label in (("ich_volume", "ICH"), ("ivh_volume", "IVH"))
        if float(summary.get(key) or 0) > 0
    ]
    if not parts:
        return "no haemorrhage found"
    place = " ".join(str(summary[key]) for key in ("side", "site") if summary.get(key))
    return ", ".join([*parts, place] if place else parts)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
