"""Find pairs: for each exam that has come to rest, the patient's other exams within the windows.

The finder remembers the last event that it has looked at, in the same transaction as the pairs that it adds,
so that a kill neither loses nor doubles one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from ichnos.audit.pairing import PairWindows
from ichnos.service.node import Node
from ichnos.service.store import events, queue
from ichnos.service.store.options import keep_option, option
from ichnos.service.store.tables import EventRow, InstanceRow, PairRow, StudyRow

SEEN_EVENT = "partners.seen"  # option: id of the last event that was looked at
SEEN_OUTLINE = "partners.seen_outline"  # option: id of the last segmentation that was looked at
SHADOW_MODEL = "partners.shadow"  # option: name of the model that reads beside the one that reads
JUDGE, SHADOW = "judge", "shadow"  # kinds of tasks
_EVENTS_AT_ONCE = 200
_LONGEST_DAYS = int(max(high for _, high in (PairWindows().followup_h, PairWindows().diffusion_h)) / 24) + 1


@dataclass(eq=False)
class PairFinder:
    """Looks at exams that came to rest, in the order of their events."""

    node: Node

    def step(self) -> bool:
        """Look at the next exams; False when there are none, or pairing is switched off."""
        settings, now = self.node.settings.partners, self.node.clock()
        if not settings.enabled:
            return False
        with self.node.database.transaction() as session:
            seen = int(option(session, SEEN_EVENT, 0))
            wanted = select(EventRow).where(EventRow.id > seen, EventRow.kind.in_(("ready", "kept")))
            ripe = wanted.where(EventRow.at <= now - settings.delay_s)
            found = list(session.execute(ripe.order_by(EventRow.id).limit(_EVENTS_AT_ONCE)).scalars())
            for event in found:
                study = session.get(StudyRow, event.study_id) if event.study_id is not None else None
                if study is not None:
                    _look(session, study, now=now)
            if found:
                keep_option(session, SEEN_EVENT, found[-1].id)
            outlines = _look_for_outlines(session, ripe_at=now - settings.delay_s)
        return bool(found) or outlines


def _look_for_outlines(session: Session, *, ripe_at: float) -> bool:
    """Judge pairs again whose study has received a segmentation since: somebody may have corrected one.

    Own results have no pair yet when they are stored, or change nothing; scores that are known stay.
    """
    seen = int(option(session, SEEN_OUTLINE, 0))
    wanted = select(InstanceRow).where(InstanceRow.id > seen, InstanceRow.modality == "SEG")
    ripe = wanted.where(InstanceRow.received_at <= ripe_at).order_by(InstanceRow.id).limit(_EVENTS_AT_ONCE)
    found = list(session.execute(ripe).scalars())
    studies_seen = {image.study_id for image in found}
    pairs = select(PairRow).where(
        PairRow.judged_at.is_not(None),
        or_(PairRow.ct_study_id.in_(studies_seen), PairRow.partner_study_id.in_(studies_seen)),
    )
    for pair in session.execute(pairs).scalars():
        if any(image.received_at > (pair.judged_at or 0.0) for image in found):
            queue.enqueue(session, JUDGE, study_id=pair.ct_study_id, payload={"pair": pair.id}, priority=9)
    if found:
        keep_option(session, SEEN_OUTLINE, found[-1].id)
    return bool(found)


def _look(session: Session, study: StudyRow, *, now: float) -> None:
    """Add the pairs that a study makes with the patient's other ones, and its shadow reading."""
    shadow = str(option(session, SHADOW_MODEL, ""))
    if shadow and study.state == "ready":
        queue.enqueue(session, SHADOW, study_id=study.id, payload={"model": shadow}, priority=5)
    if not study.patient_id:
        return
    same = select(StudyRow).where(
        StudyRow.patient_id == study.patient_id,
        StudyRow.uid != study.uid,
        StudyRow.state.in_(("ready", "kept")),
    )
    for other in session.execute(same).scalars():
        for first, second in ((study, other), (other, study)):
            if may_pair(session, first, second):
                _add(session, first, second, now=now)


def may_pair(session: Session, ct: StudyRow, partner: StudyRow) -> bool:
    """Say whether another study may judge one, as far as the tables tell; the judge looks at the time."""
    days = days_apart(ct.study_date, partner.study_date)
    if ct.state != "ready" or days is None or not 0 <= days <= _LONGEST_DAYS:
        return False
    return partner.state == "ready" or "MR" in _modalities(session, partner)


def days_apart(first: str, second: str) -> int | None:
    """Return the days from one study date to another; None where one is not known.

    >>> days_apart("20260228", "20260302"), days_apart("", "20260302")
    (2, None)
    """
    days = [_day(first), _day(second)]
    return None if days[0] is None or days[1] is None else (days[1] - days[0]).days


def _day(text: str) -> date | None:
    try:
        return datetime.strptime(text[:8], "%Y%m%d").date()
    except ValueError:
        return None


def _modalities(session: Session, study: StudyRow) -> Iterable[str]:
    return session.execute(
        select(InstanceRow.modality).where(InstanceRow.study_id == study.id).distinct()
    ).scalars()


def _add(session: Session, ct: StudyRow, partner: StudyRow, *, now: float) -> None:
    known = select(PairRow.id).where(PairRow.ct_study_id == ct.id, PairRow.partner_study_id == partner.id)
    if session.execute(known).scalar() is not None:
        return
    pair = PairRow(ct_study_id=ct.id, partner_study_id=partner.id, found_at=now)
    session.add(pair)
    session.flush()
    late = ct.read_at is None or ct.read_at > partner.first_image_at
    if late:
        pair.state = "late"
        pair.reason = "the plain CT was read after the partner exam had come; only forecasts are judged"
        return
    queue.enqueue(session, JUDGE, study_id=ct.id, payload={"pair": pair.id}, priority=9)
    details = {"pair": pair.id}
    events.append_event(session, "paired", at=now, actor="assembler", study_id=ct.id, details=details)
