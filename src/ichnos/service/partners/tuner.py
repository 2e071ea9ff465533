"""The fine-tuner: starts the process that fine-tunes, keeps its lease, puts the new model in its place."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path

from ichnos.errors import IchnosError, InputRefused
from ichnos.service.lease import kept_lease
from ichnos.service.node import Node, worker_name
from ichnos.service.partners.judge import salt_of
from ichnos.service.partners.tuning import TUNE, note_end, tuning_folder
from ichnos.service.partners.tuning_job import TuningJob, outcome_in
from ichnos.service.store import queue, studies
from ichnos.service.store.images import free_gib
from ichnos.service.store.tables import PairRow, StudyRow, TaskRow

_FIRST_WAIT_S = 60.0  # after a process that died
_END_S = 5.0  # for a process to end when it is told to
_log = logging.getLogger(__name__)


def started(job: TuningJob) -> BaseProcess:
    """Start a process that carries out a job; it ends with this one."""
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_child, args=(job,), name="ichnos-tuning", daemon=True)
    child.start()
    return child


def _child(job: TuningJob) -> None:
    from ichnos.service.partners.tuning_process import run_tuning  # PyTorch, which the worker does without

    run_tuning(job)


@dataclass(frozen=True, eq=False)
class _Running:
    """A task that is being carried out by a process."""

    task_id: int
    job: TuningJob
    process: BaseProcess
    lease: ExitStack


@dataclass(eq=False)
class FineTuner:
    """Has one model fine-tuned at a time, within the hours of the partners; call `stop` at the end."""

    node: Node
    start: Callable[[TuningJob], BaseProcess] = started
    name: str = field(default_factory=lambda: worker_name("tuner"))
    rng: random.Random = field(default_factory=random.Random)
    _running: _Running | None = None

    def step(self) -> bool:
        """Begin, look after or finish a fine-tuning, without waiting for it; False when nothing was to do."""
        try:
            return self._step()
        except (OSError, IchnosError):  # must not end the worker; the task comes back when its lease ends
            _log.exception("a fine-tuning could not be begun or finished")
            return False

    def _step(self) -> bool:
        running = self._running
        if running is None:
            return self._may_run() and self._begin()
        if running.process.is_alive():
            if not self._may_run():
                self.stop()  # goes on in the next night
            return False
        self._running = None
        running.process.join()
        try:
            self._finish(running)
        finally:
            running.lease.close()
        return True

    def stop(self) -> None:
        """End the process and put its task back; what it has done so far is kept."""
        running, self._running = self._running, None
        if running is None:
            return
        running.process.terminate()
        running.process.join(_END_S)
        if running.process.is_alive():
            running.process.kill()
            running.process.join()
        running.lease.close()
        with self.node.database.transaction() as session:
            task = queue.held_task(session, running.task_id, worker=self.name)
            if task is not None:
                queue.hand_back(session, task)

    def _may_run(self) -> bool:
        settings = self.node.settings
        hour = datetime.fromtimestamp(self.node.clock(), UTC).hour
        room = free_gib(settings.home) >= settings.storage.refuse_below_gib
        return settings.partners.may_judge(hour) and room

    def _begin(self) -> bool:
        now, settings = self.node.clock(), self.node.settings
        with self.node.database.transaction() as session:
            task = queue.claim_task(
                session, TUNE, worker=self.name, now=now, lease_s=settings.reading.lease_s
            )
            if task is None:
                return False
            task.payload = {"since": now, **task.payload}  # the first time counts
            salt = salt_of(session)
        with ExitStack() as opened:
            opened.enter_context(kept_lease(self.node, task.id, worker=self.name))
            job = self._job(task, salt)
            process = self.start(job)
            self._running = _Running(task.id, job, process, opened.pop_all())
        return True

    def _job(self, task: TaskRow, salt: str) -> TuningJob:
        """Return what a task asks for, with the images and readings that are here now."""
        home, payload = self.node.settings.home, task.payload
        files: dict[Path, None] = {}
        readings: dict[Path, None] = {}
        with self.node.database.snapshot() as session:
            for pair in filter(None, (session.get(PairRow, number) for number in payload["pairs"])):
                both = [session.get_one(StudyRow, i) for i in (pair.ct_study_id, pair.partner_study_id)]
                if any(study.state == "purged" for study in both):
                    continue
                images = [image for study in both for image in studies.files_of(session, study)]
                files |= {home / image.path: None for image in images}
                readings |= {home / study.reading: None for study in both if study.reading}
        work = tuning_folder(home, task.id)
        work.mkdir(parents=True, exist_ok=True)
        how, name, model = self.node.settings.fine_tuning, str(payload["name"]), str(payload["model"])
        return TuningJob(work, name, model, str(payload["target"]), tuple(files), tuple(readings), salt, how)

    def _finish(self, running: _Running) -> None:
        """Keep what came of it with the end of its task, all or nothing."""
        job, code = running.job, running.process.exitcode
        outcome, now = outcome_in(job.work), self.node.clock()
        with self.node.database.transaction() as session:
            task = queue.held_task(session, running.task_id, worker=self.name)
            if task is None:
                _log.warning("fine-tuning %d was taken by another worker, which goes on", running.task_id)
                return
            if outcome is None:
                error = f"the process ended with code {code}; the log of the worker says why"
                queue.fail_task(session, task, error, now=now, first_wait_s=_FIRST_WAIT_S, rng=self.rng)
            elif outcome.refusal:
                queue.give_up(session, task, outcome.refusal)
            else:
                self._install(job)
                task.payload = {**task.payload, "patients": outcome.patients, "said": outcome.said}
                queue.complete_task(session, task)
            if task.state != "waiting":
                note_end(session, task, now=now)
            over = task.state != "waiting"
        if over:
            shutil.rmtree(job.work, ignore_errors=True)

    def _install(self, job: TuningJob) -> None:
        """Move the new model among the node's; a kill after that, before the commit, changes nothing."""
        models = self.node.settings.home / "models"
        models.mkdir(exist_ok=True)
        if job.made.exists():
            os.rename(job.made, models / job.name)
        elif not (models / job.name).exists():
            raise InputRefused(f"{job.made} is gone; ask for the fine-tuning again")
