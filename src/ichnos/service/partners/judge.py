"""Judge pairs: one at a time, with the same `pair` and `audit` that the command line runs on a folder."""

from __future__ import annotations

import logging
import math
import os
import random
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from ichnos.audit.exams import exams_in
from ichnos.audit.pairing import pair_exams
from ichnos.audit.run import AuditSummary, audit_cohort
from ichnos.audit.score import Score
from ichnos.errors import IchnosError, InputRefused
from ichnos.service.lease import kept_lease
from ichnos.service.node import Node, worker_name
from ichnos.service.partners.finder import JUDGE, LATE
from ichnos.service.partners.folders import pair_folder
from ichnos.service.partners.shadow import shadow_readings
from ichnos.service.store import events, queue, studies
from ichnos.service.store.options import option
from ichnos.service.store.tables import OptionRow, PairRow, ScoreRow, StudyRow, TaskRow

SALT = "partners.salt"  # option: what ids of the node's pairs are hashed with
_FIRST_WAIT_S = 60.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    """What a judge has claimed: the files of both studies, and the readings of the time."""

    task_id: int
    pair_id: int
    files: tuple[Path, ...]
    readings: tuple[Path, ...]  # none: the plain CT was read after the partner exam had come
    salt: str
    begun_at: float  # what comes later is judged another time


@dataclass(eq=False)
class PairJudge:
    """Judges one pair after the other, within the hours that the settings allow."""

    node: Node
    name: str = field(default_factory=lambda: worker_name("judge"))
    rng: random.Random = field(default_factory=random.Random)

    def step(self) -> bool:
        """Judge the next pair; False when none waits or it is not the hour."""
        hour = datetime.fromtimestamp(self.node.clock(), UTC).hour
        job = self._claim() if self.node.settings.partners.may_judge(hour) else None
        if job is None:
            return False
        home = pair_folder(self.node.settings.home, job.pair_id)
        try:
            with kept_lease(self.node, job.task_id, worker=self.name):
                state, reason, scores = _judged(job, home) if job.readings else ("late", LATE, ())
        except InputRefused as refusal:
            state, reason, scores = "no pair", refusal.without_names, ()
        except Exception as error:  # one odd pair must not end the worker
            _log.exception("pair %d could not be judged", job.pair_id)
            self._fail(job, f"{type(error).__name__}: {error}")
            return True
        self._finish(job, state, reason, scores)
        return True

    def _claim(self) -> _Job | None:
        now, home = self.node.clock(), self.node.settings.home
        lease_s = self.node.settings.reading.lease_s
        with self.node.database.transaction() as session:
            task = queue.claim_task(session, JUDGE, worker=self.name, now=now, lease_s=lease_s)
            if task is None:
                return None
            pair = session.get_one(PairRow, int(task.payload["pair"]))
            ct, partner = (session.get_one(StudyRow, i) for i in (pair.ct_study_id, pair.partner_study_id))
            files = [home / image.path for one in (ct, partner) for image in studies.files_of(session, one)]
            folders = _readings_of(home, ct, until=partner.first_image_at)
            folders += _readings_of(home, partner) if folders else []
            return _Job(task.id, pair.id, tuple(files), tuple(folders), salt_of(session), now)

    def _finish(self, job: _Job, state: str, reason: str, scores: Iterable[Score]) -> None:
        """Keep what came of a pair with the end of its task, all or nothing; known scores stay."""
        now = self.node.clock()
        with self.node.database.transaction() as session:
            task = queue.held_task(session, job.task_id, worker=self.name)
            if task is None:
                _log.warning("pair %d was judged by another worker; this result is thrown away", job.pair_id)
                return
            pair = session.get_one(PairRow, job.pair_id)
            if state != "late" or pair.state != "judged":  # judged before the CT was read again
                pair.state, pair.reason = state, reason
            pair.judged_at = job.begun_at
            added = add_scores(session, job.pair_id, scores, now=now)
            queue.complete_task(session, task)
            details = {"pair": job.pair_id, "state": state, "scores": added}
            events.append_event(
                session, "judged", at=now, actor=self.name, study_id=pair.ct_study_id, details=details
            )

    def _fail(self, job: _Job, error: str) -> None:
        now = self.node.clock()
        with self.node.database.transaction() as session:
            task: TaskRow | None = queue.held_task(session, job.task_id, worker=self.name)
            if task is not None and queue.fail_task(
                session, task, error, now=now, first_wait_s=_FIRST_WAIT_S, rng=self.rng
            ):
                pair = session.get_one(PairRow, job.pair_id)
                pair.state, pair.reason = "failed", error


def _readings_of(home: Path, study: StudyRow, *, until: float = math.inf) -> list[Path]:
    """Return the folders of a study's readings, shadow readings too, that were made up to a time."""
    own = [home / study.reading] if study.reading and (study.read_at or 0.0) <= until else []
    return own + shadow_readings(home, study.id, until=until)


def _judged(job: _Job, home: Path) -> tuple[str, str, tuple[Score, ...]]:
    """Pair, transfer and score in a folder of the pair's own; return state, reason, scores.

    The folder is begun anew, and removed in the end: tables keep what came of it.
    """
    shutil.rmtree(home, ignore_errors=True)
    images, readings = home / "images", home / "readings"
    images.mkdir(parents=True)
    for file in job.files:
        os.link(file, images / file.name)
    for number, folder in enumerate(job.readings):
        shutil.copytree(folder, readings / str(number), copy_function=os.link)
    try:
        pair_exams(exams_in(images), home / "cohort", salt=job.salt)
        done = audit_cohort(home / "cohort", readings, home / "audit")
    except IchnosError as refusal:
        raise InputRefused(refusal.marked) from None
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return _state(done), "; ".join(why for _, why in done.refused), done.scores


def _state(done: AuditSummary) -> str:
    return "judged" if done.scores else "refused"


def add_scores(session: Session, pair_id: int, scores: Iterable[Score], *, now: float) -> int:
    """Add the scores of a pair that are not known yet; return how many were added."""
    rows = session.execute(select(ScoreRow).where(ScoreRow.pair_id == pair_id)).scalars()
    known = {(row.partner, row.model, row.quantity, row.judge) for row in rows}
    new = [
        score for score in scores if (score.partner, score.model, score.quantity, score.judge) not in known
    ]
    for score in new:
        session.add(
            ScoreRow(
                pair_id=pair_id,
                partner=score.partner,
                model=score.model,
                quantity=score.quantity,
                judge=score.judge,
                score=asdict(score),
                at=now,
            )
        )
    session.flush()
    return len(new)


def salt_of(session: Session) -> str:
    """Return the node's own salt, made on first use; it leaves the node with no export."""
    salt = str(option(session, SALT, ""))
    if not salt:
        salt = secrets.token_hex(16)
        session.add(OptionRow(name=SALT, value=salt))
        session.flush()
    return salt
