"""Search the archive for partner exams of patients with a reading, and have those within the windows sent.

One study at a time, within the hours of `partners`, each at most once in `search_every_h`; at most
`search_daily` studies are fetched a day: an archive is there for others. What comes is received like any
study; the finder pairs it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial

from pydicom import Dataset
from sqlalchemy import select
from sqlalchemy.orm import Session

from ichnos.audit.pairing import HOURS_PER_DAY, PairWindows
from ichnos.cohort import Exam
from ichnos.errors import IchnosError
from ichnos.service.node import Node
from ichnos.service.partners.finder import days_apart
from ichnos.service.reception import keep_retrieved
from ichnos.service.remote.archive import ArchivedStudy, fetch_study, studies_of_patient
from ichnos.service.settings import ArchiveSettings
from ichnos.service.store import events
from ichnos.service.store.options import keep_option, option
from ichnos.service.store.tables import StudyRow

SEARCHED = "partners.searched"  # option: study -> when its patient was last asked for (a Unix time)
FETCHED = "partners.fetched"  # option: {"day": ISO date, "studies": how many were asked for on it}
_HOUR_S = 3600.0
_PARTNER_OF: dict[str, Exam] = {"CT": "followup", "MR": "diffusion"}  # the widest window of each modality

Ask = Callable[[ArchiveSettings, str, str], Sequence[ArchivedStudy]]
Fetch = Callable[[ArchiveSettings, str, str, Callable[[Dataset], object]], int]
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class PartnerSearch:
    """Asks the archive for the exams that judge what had been read."""

    node: Node
    ask: Ask = studies_of_patient
    fetch: Fetch = fetch_study

    def step(self) -> bool:
        """Ask for the next patient; False when none is due, or it is not the hour or the day's cap."""
        settings, now = self.node.settings, self.node.clock()
        wanted, moment = settings.partners, datetime.fromtimestamp(now, UTC)
        if not (wanted.enabled and wanted.search and settings.archive.answers):
            return False
        if not wanted.may_judge(moment.hour):
            return False
        with self.node.database.transaction() as session:
            left = wanted.search_daily - _fetched_on(session, moment.date())
            study = _next_due(session, now, every_s=wanted.search_every_h * _HOUR_S) if left > 0 else None
            if study is None:
                return False
            _note_searched(session, study, now)  # before asking: an archive that is away is not asked at once
            known = set(session.execute(select(StudyRow.uid)).scalars())
        try:
            self._fetch(study, known, left, moment.date())
        except IchnosError as problem:  # the archive's, or ours to keep what it gave
            _log.warning("partner exams of study %d were not searched: %s", study.id, problem)
        return True

    def _fetch(self, study: StudyRow, known: set[str], left: int, today: date) -> None:
        archive, own = self.node.settings.archive, self.node.settings.receiver.ae_title
        there = self.ask(archive, study.patient_id, own)
        new = [one for one in there if one.uid not in known and within_window(study.study_date, one)]
        for one in new[:left]:
            with self.node.database.transaction() as session:
                _count_fetched(session, today)
                details = {"study": one.uid, "modalities": one.modalities}
                events.append_event(
                    session,
                    "partner asked",
                    at=self.node.clock(),
                    actor="search",
                    study_id=study.id,
                    details=details,
                )
            self.fetch(archive, one.uid, own, partial(keep_retrieved, self.node))


def within_window(ct_date: str, found: ArchivedStudy) -> bool:
    """Say whether a study of the archive may judge a plain CT, by day and modality; the judge looks at hours.

    >>> later = ArchivedStudy("1.2", "20260310", "MR", "", None)
    >>> within_window("20260301", later), within_window("20260401", later)
    (True, False)
    """
    days = days_apart(ct_date, found.date)
    modalities = {part.strip() for part in found.modalities.split(",")}
    return days is not None and any(
        0 <= days <= PairWindows().of(exam)[1] / HOURS_PER_DAY
        for modality, exam in _PARTNER_OF.items()
        if modality in modalities
    )


def _next_due(session: Session, now: float, *, every_s: float) -> StudyRow | None:
    """Return the study whose patient was asked for longest ago, if that is long enough; oldest ones last."""
    asked: dict[str, float] = option(session, SEARCHED, {})
    rows = session.execute(
        select(StudyRow)
        .where(StudyRow.state == "ready", StudyRow.patient_id != "")
        .order_by(StudyRow.id.desc())
    ).scalars()
    longest = PairWindows().diffusion_h[1] * _HOUR_S
    due = [
        row
        for row in rows
        if now - asked.get(str(row.id), 0.0) >= every_s and 0 <= now - _taken(row.study_date) <= longest
    ]
    return min(due, key=lambda row: asked.get(str(row.id), 0.0), default=None)


def _taken(day: str) -> float:
    """Return the beginning of a day as a Unix time; minus infinity where the day is not known."""
    try:
        return datetime.strptime(day[:8], "%Y%m%d").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return float("-inf")


def _note_searched(session: Session, study: StudyRow, now: float) -> None:
    """Remember when a study's patient was asked for; those too old to be asked again are forgotten."""
    longest = PairWindows().diffusion_h[1] * _HOUR_S
    asked: dict[str, float] = option(session, SEARCHED, {})
    keep_option(
        session, SEARCHED, {k: at for k, at in asked.items() if now - at <= longest} | {str(study.id): now}
    )


def _fetched_on(session: Session, day: date) -> int:
    counted = option(session, FETCHED, {})
    return int(counted.get("studies", 0)) if counted.get("day") == day.isoformat() else 0


def _count_fetched(session: Session, day: date) -> None:
    keep_option(session, FETCHED, {"day": day.isoformat(), "studies": _fetched_on(session, day) + 1})
