"""The event table as audit messages: one XML element per event (DICOM PS3.15 A.5, IHE ATNA, RFC 3881).

Events hold no identity. An export for the hospital's audit repository may name study and patient, where they
are still known; that is asked for, never the default.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from xml.etree import ElementTree

from sqlalchemy import select
from sqlalchemy.orm import Session

from ichnos.service.store.tables import EventRow, StudyRow

Action = Literal["C", "R", "U", "D", "E"]  # create, read, update, delete, execute
_LOOPS = ("receiver", "assembler", "worker", "sender", "retention")


@dataclass(frozen=True)
class EventCode:
    """What PS3.16 calls an event (context group 400), and what was done (RFC 3881, 5.1.2)."""

    code: str
    meaning: str
    action: Action


_TRANSFERRED = EventCode("110104", "DICOM Instances Transferred", "C")
_ACCESSED = EventCode("110103", "DICOM Instances Accessed", "R")
_BEGINS = EventCode("110102", "Begin Transferring DICOM Instances", "E")
_EXPORTED = EventCode("110106", "Export", "R")
_DELETED = EventCode("110105", "DICOM Study Deleted", "D")
_SIGNED_IN = EventCode("110114", "User Authentication", "E")
_SECURITY = EventCode("110113", "Security Alert", "E")
_ACTIVITY = EventCode("110100", "Application Activity", "E")
_CODES = {
    "received": _TRANSFERRED,
    "kept": _TRANSFERRED,
    "conflict": EventCode("110104", "DICOM Instances Transferred", "U"),
    "reading": _ACCESSED,
    "acknowledged": _ACCESSED,
    "to send": _BEGINS,
    "sent": EventCode("110104", "DICOM Instances Transferred", "R"),
    "stored": EventCode("110104", "DICOM Instances Transferred", "R"),
    "exported": _EXPORTED,
    "purged": _DELETED,
    "signed in": _SIGNED_IN,
    "signed out": _SIGNED_IN,
    "sign-in failed": _SECURITY,
}
_FAILED = ("failed", "not sent", "not stored", "sign-in failed")


def code_of(kind: str) -> EventCode:
    """Return the audit code of an event; what is no transfer, access or sign-in is application activity.

    >>> code_of("purged").meaning, code_of("queued").meaning
    ('DICOM Study Deleted', 'Application Activity')
    """
    return _CODES.get(kind, _ACTIVITY)


def audit_messages(
    session: Session, *, source: str, since: float = 0.0, identified: bool = False
) -> Iterator[str]:
    """Give one `AuditMessage` per event from a time on (seconds since 1970), in the order of the chain."""
    wanted = select(EventRow).where(EventRow.at >= since).order_by(EventRow.id)
    for row in session.execute(wanted).scalars().yield_per(1000):
        yield _xml(session, row, source, identified)


@dataclass(frozen=True)
class AuditMessage:
    """One event as it leaves the node."""

    event: int  # its number in the event table
    at: float  # seconds since 1970
    failed: bool
    xml: str


def messages_after(
    session: Session, event: int, *, limit: int, source: str, identified: bool = False
) -> list[AuditMessage]:
    """Return the next messages after an event of the chain, at most `limit`."""
    wanted = select(EventRow).where(EventRow.id > event).order_by(EventRow.id).limit(limit)
    return [
        AuditMessage(row.id, row.at, row.kind in _FAILED, _xml(session, row, source, identified))
        for row in session.execute(wanted).scalars()
    ]


def _xml(session: Session, row: EventRow, source: str, identified: bool) -> str:
    study = session.get(StudyRow, row.study_id) if identified and row.study_id is not None else None
    return ElementTree.tostring(_message(row, source, study), encoding="unicode")


def _message(row: EventRow, source: str, study: StudyRow | None) -> ElementTree.Element:
    code, failed = code_of(row.kind), row.kind in _FAILED
    message = ElementTree.Element("AuditMessage")
    event = ElementTree.SubElement(
        message,
        "EventIdentification",
        EventActionCode=code.action,
        EventDateTime=datetime.fromtimestamp(row.at, UTC).isoformat(timespec="milliseconds"),
        EventOutcomeIndicator="4" if failed else "0",  # minor failure | success
    )
    _code(event, "EventID", code.code, code.meaning)
    ElementTree.SubElement(event, "EventOutcomeDescription").text = _words(row)
    machine = row.actor.startswith(_LOOPS)
    actor = ElementTree.SubElement(
        message,
        "ActiveParticipant",
        UserID=row.actor,
        UserIsRequestor="false" if machine else "true",
    )
    role = ("110150", "Application") if machine else ("110151", "Application Launcher")
    _code(actor, "RoleIDCode", *role)
    origin = ElementTree.SubElement(message, "AuditSourceIdentification", AuditSourceID=source)
    ElementTree.SubElement(origin, "AuditSourceTypeCode", {"csd-code": "4"})  # application server process
    if row.study_id is not None:
        _study(message, row.study_id, study)
    return message


def _study(message: ElementTree.Element, number: int, study: StudyRow | None) -> None:
    named = study is not None and study.state != "purged"
    thing = ElementTree.SubElement(
        message,
        "ParticipantObjectIdentification",
        ParticipantObjectID=study.uid if study is not None and named else f"study {number} of this node",
        ParticipantObjectTypeCode="2",  # system object
        ParticipantObjectTypeCodeRole="3",  # report
    )
    _code(thing, "ParticipantObjectIDTypeCode", "110180", "Study Instance UID")
    if study is None or not named or not study.patient_id:
        return
    person = ElementTree.SubElement(
        message,
        "ParticipantObjectIdentification",
        ParticipantObjectID=study.patient_id,
        ParticipantObjectTypeCode="1",  # person
        ParticipantObjectTypeCodeRole="1",  # patient
    )
    kind = {"csd-code": "2", "codeSystemName": "RFC-3881", "originalText": "Patient Number"}
    ElementTree.SubElement(person, "ParticipantObjectIDTypeCode", kind)


def _code(parent: ElementTree.Element, name: str, code: str, meaning: str) -> None:
    values = {"csd-code": code, "codeSystemName": "DCM", "originalText": meaning}
    ElementTree.SubElement(parent, name, values)


def _words(row: EventRow) -> str:
    details = ", ".join(f"{key}: {value}" for key, value in sorted(row.details.items()))
    return (
        f"{row.kind} ({details}); event {row.id}, {row.digest}"
        if details
        else f"{row.kind}; event {row.id}, {row.digest}"
    )
