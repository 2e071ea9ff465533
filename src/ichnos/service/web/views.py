"""What the pages and the API show of a study: plain values, read in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from ichnos.service.store.studies import CONFLICT, PATIENT_DIFFERS
from ichnos.service.store.tables import DeliveryRow, EventRow, StudyRow

WORKLIST_ROWS = 200  # of one page
_PRIORS_SHOWN = 8
SUMMARY_WORDS = {  # measure in a study's summary -> (words, unit)
    "ich_volume": ("ICH", "mL"),
    "ivh_volume": ("IVH", "mL"),
    "phe_volume": ("PHE", "mL"),
    "side": ("Side", ""),
    "site": ("Site", ""),
    "midline_shift": ("Midline shift", "mm"),
    "expansion_probability": ("Expansion probability", "%"),
    "leukoaraiosis_volume": ("Leukoaraiosis", "mL"),
}
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
    """One event: a step of a study's way, or a change of settings."""

    id: int
    at: str  # UTC
    kind: str
    actor: str
    study_id: int | None
    details: dict[str, Any]


@dataclass(frozen=True)
class MeasureLine:
    """One measure of a study and of each of its priors, in words; "" where there is none."""

    label: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class StudyDetails:
    """One study with its way through the node."""

    row: WorklistRow
    uid: str  # StudyInstanceUID
    held: bool  # retention does not remove it
    conflicts: int  # images that came again with other bytes, which are not read
    other_patient: bool  # some of these name another PatientID
    has_report: bool
    summary: dict[str, Any]
    deliveries: tuple[DeliveryLine, ...]
    timeline: tuple[EventLine, ...]
    revisions: tuple[int, ...]  # ids of all revisions of this study, newest first
    priors: tuple[WorklistRow, ...]  # other studies of the same patient, newest first
    measures: tuple[MeasureLine, ...]  # this study beside its priors


def worklist(
    session: Session, *, state: str = "", open_only: bool = False, limit: int = WORKLIST_ROWS, offset: int = 0
) -> list[WorklistRow]:
    """Return studies that nobody has acknowledged, then the others; in each the most urgent, newest first.

    Superseded ones and those without a CT are not among them.
    """
    order = (
        StudyRow.acknowledged_at.is_not(None),
        StudyRow.urgency.desc(),
        StudyRow.first_image_at.desc(),
        StudyRow.id.desc(),
    )
    wanted = select(StudyRow).where(*_in_worklist(state, open_only)).order_by(*order)
    return [_line(study) for study in session.execute(wanted.limit(limit).offset(offset)).scalars()]


def worklist_length(session: Session, *, state: str = "", open_only: bool = False) -> int:
    """Return how many studies the whole worklist has."""
    count = select(func.count()).select_from(StudyRow).where(*_in_worklist(state, open_only))
    return int(session.execute(count).scalar_one())


def _in_worklist(state: str, open_only: bool) -> list[ColumnElement[bool]]:
    shown = StudyRow.state.in_((state,) if state else SHOWN_STATES)
    return [shown, StudyRow.acknowledged_at.is_(None)] if open_only else [shown]


def details_of(session: Session, study_id: int) -> StudyDetails | None:
    """Return everything that is shown of one study; None when there is no such study."""
    study = session.get(StudyRow, study_id)
    if study is None:
        return None
    revisions = select(StudyRow.id).where(StudyRow.uid == study.uid).order_by(StudyRow.revision.desc())
    deliveries = select(DeliveryRow).where(DeliveryRow.study_id == study_id).order_by(DeliveryRow.id)
    priors, conflicts = _priors(session, study), _conflicts(session, study)
    return StudyDetails(
        row=_line(study),
        uid=study.uid,
        held=study.hold,
        conflicts=len(conflicts),
        other_patient=any(PATIENT_DIFFERS in details for details in conflicts),
        has_report=bool(study.reading),
        summary=dict(study.summary),
        deliveries=tuple(
            DeliveryLine(d.destination, d.state, d.error, _time(d.changed_at))
            for d in session.execute(deliveries).scalars()
        ),
        timeline=tuple(event_lines(session, study_id=study_id)),
        revisions=tuple(session.execute(revisions).scalars()),
        priors=tuple(_line(prior) for prior in priors),
        measures=tuple(_measures([study, *priors])),
    )


def event_lines(
    session: Session, *, study_id: int | None = None, after: int = 0, limit: int = 1000
) -> list[EventLine]:
    """Return events in order; those of one study, or all."""
    wanted = select(EventRow).where(EventRow.id > after).order_by(EventRow.id).limit(limit)
    if study_id is not None:
        wanted = wanted.where(EventRow.study_id == study_id)
    return [
        EventLine(e.id, _time(e.at), e.kind, e.actor, e.study_id, dict(e.details))
        for e in session.execute(wanted).scalars()
    ]


def last_event(session: Session, study_id: int | None = None) -> int:
    """Return the number of the newest event, of one study or of all; 0 for none."""
    newest = select(func.max(EventRow.id))
    if study_id is not None:
        newest = newest.where(EventRow.study_id == study_id)
    return int(session.execute(newest).scalar() or 0)


def _priors(session: Session, study: StudyRow) -> list[StudyRow]:
    same_patient = (
        select(StudyRow)
        .where(
            StudyRow.patient_id == study.patient_id,
            StudyRow.patient_id != "",
            StudyRow.uid != study.uid,
            StudyRow.state.in_(SHOWN_STATES),
        )
        .order_by(StudyRow.study_date.desc(), StudyRow.id.desc())
        .limit(_PRIORS_SHOWN)
    )
    return list(session.execute(same_patient).scalars())


def _conflicts(session: Session, study: StudyRow) -> Sequence[dict[str, Any]]:
    """Return what was noted of each image of any revision that came again with other bytes."""
    noted = (
        select(EventRow.details)
        .join(StudyRow, EventRow.study_id == StudyRow.id)
        .where(StudyRow.uid == study.uid, EventRow.kind == CONFLICT)
    )
    return session.execute(noted).scalars().all()


def _measures(columns: Sequence[StudyRow]) -> Iterator[MeasureLine]:
    for name, (label, unit) in SUMMARY_WORDS.items():
        cells = [study.summary.get(name) for study in columns]
        if any(cell is not None for cell in cells):
            yield MeasureLine(label, tuple(_in_words(cell, unit) for cell in cells))


def _in_words(value: Any, unit: str) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.1f} {unit}".strip() if unit != "%" else f"{value:.0f} %"
    return "" if value is None else str(value)


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
    >>> finding_in_words({"ivh_volume": 4.0, "expansion_probability": 31.0})
    'IVH 4.0 mL, expansion probability 31 %'
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
    growth = summary.get("expansion_probability")
    said = [place, "" if growth is None else f"expansion probability {float(growth):.0f} %"]
    return ", ".join([*parts, *filter(None, said)])


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
