"""Find pairs: for each exam that has come to rest, the patient's other exams within the windows.

The finder remembers the last event that it has looked at, in the same transaction as the pairs that it adds,
so that a kill neither loses nor doubles one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from ichnos.audit.pairing import PairWindows
from ichnos.service.node import Node
from ichnos.service.store import events, queue
from ichnos.service.store.options import keep_option, option
from ichnos.service.store.tables import EventRow, InstanceRow, PairRow, StudyRow, TaskRow

SEEN_EVENT = "partners.seen"  # option: id of the last event that was looked at
SEEN_IMAGE = "partners.seen_outline"  # option: id of the last image that was looked at
SHADOW_MODEL = "partners.shadow"  # option: name of the model that reads beside the one that reads
JUDGE, SHADOW = "judge", "shadow"  # kinds of tasks
LATE = "the plain CT was read after the partner exam had come; only forecasts are judged"
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
        ripe_at = now - settings.delay_s
        with self.node.database.transaction() as session:
            seen = int(option(session, SEEN_EVENT, 0))
            wanted = select(EventRow).where(EventRow.id > seen, EventRow.kind.in_(("ready", "kept")))
            ripe = wanted.where(EventRow.at <= ripe_at)
            found = list(session.execute(ripe.order_by(EventRow.id).limit(_EVENTS_AT_ONCE)).scalars())
            for event in found:
                study = session.get(StudyRow, event.study_id) if event.study_id is not None else None
                if study is not None and _at_rest(study, ripe_at):
                    _look(session, study, ripe_at=ripe_at, now=now)
            if found:
                keep_option(session, SEEN_EVENT, found[-1].id)
            images = _look_at_images(session, ripe_at=ripe_at, now=now)
        return bool(found) or images


def _at_rest(study: StudyRow, ripe_at: float) -> bool:
    """Tell whether a study has come to rest; one without a CT is looked at again after each later image."""
    return study.state != "kept" or study.last_image_at <= ripe_at


def _look_at_images(session: Session, *, ripe_at: float, now: float) -> bool:
    """Look at studies without a CT that came to rest, and judge pairs again that have got more since.

    More is an image of such a study, or a segmentation: somebody may have corrected one. Own results have no
    pair yet when they are stored, or change nothing; scores that are known stay.
    """
    seen = int(option(session, SEEN_IMAGE, 0))
    wanted = select(InstanceRow, StudyRow).join(StudyRow, InstanceRow.study_id == StudyRow.id)
    judges = or_(InstanceRow.modality.in_(("SEG", "MR")), StudyRow.state == "kept")
    ripe = wanted.where(InstanceRow.id > seen, judges, InstanceRow.received_at <= ripe_at)
    found = list(session.execute(ripe.order_by(InstanceRow.id).limit(_EVENTS_AT_ONCE)))
    newest: dict[int, float] = {}
    for image, study in found:
        if _at_rest(study, ripe_at):
            newest[study.id] = max(image.received_at, newest.get(study.id, 0.0))
    for study in {study.id: study for _, study in found if study.id in newest}.values():
        if study.state == "kept":
            _look(session, study, ripe_at=ripe_at, now=now)
    _judge_again(session, newest)
    if found:
        keep_option(session, SEEN_IMAGE, found[-1][0].id)
    return bool(found)


def _judge_again(session: Session, newest: Mapping[int, float]) -> None:
    """Queue the pairs of these studies that were judged before their newest image came."""
    pairs = select(PairRow).where(
        PairRow.judged_at.is_not(None),
        or_(PairRow.ct_study_id.in_(newest), PairRow.partner_study_id.in_(newest)),
    )
    for pair in session.execute(pairs).scalars():
        came = max(newest.get(pair.ct_study_id, 0.0), newest.get(pair.partner_study_id, 0.0))
        if came > (pair.judged_at or 0.0):
            _queue(session, pair)


def _queue(session: Session, pair: PairRow) -> None:
    """Have a pair judged, unless it waits for that already."""
    waiting = select(TaskRow.payload).where(
        TaskRow.kind == JUDGE, TaskRow.state == "waiting", TaskRow.study_id == pair.ct_study_id
    )
    if all(payload.get("pair") != pair.id for payload in session.execute(waiting).scalars()):
        queue.enqueue(session, JUDGE, study_id=pair.ct_study_id, payload={"pair": pair.id}, priority=9)


def _look(session: Session, study: StudyRow, *, ripe_at: float, now: float) -> None:
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
    for other in (one for one in session.execute(same).scalars() if _at_rest(one, ripe_at)):
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
        pair.reason = LATE
        return
    _queue(session, pair)
    details = {"pair": pair.id}
    events.append_event(session, "paired", at=now, actor="assembler", study_id=ct.id, details=details)
