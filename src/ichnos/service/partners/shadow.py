"""Shadow readings: another model reads new studies too; nobody is shown or sent them, but they are judged."""

from __future__ import annotations

import logging
import math
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.orm import Session

from ichnos.api import save_reading
from ichnos.reading.save import RECORD
from ichnos.service.lease import kept_lease
from ichnos.service.node import Node, worker_name
from ichnos.service.partners.finder import SHADOW, SHADOW_MODEL
from ichnos.service.partners.folders import shadow_folder
from ichnos.service.store import queue, studies
from ichnos.service.store.options import option, set_option
from ichnos.service.store.tables import StudyRow
from ichnos.service.worker import ReadStudy

_FIRST_WAIT_S = 60.0
_log = logging.getLogger(__name__)


def shadow_readings(home: Path, study_id: int, *, until: float = math.inf) -> list[Path]:
    """Return the folders of a study's shadow readings that were made up to a time."""
    records = sorted(shadow_folder(home, study_id).glob(f"*/{RECORD}"))
    return [record.parent for record in records if record.stat().st_mtime <= until]


def set_shadow(session: Session, model: str, *, now: float, actor: str) -> None:
    """Let a model read new studies in the shadow of the one that reads; "" ends it."""
    set_option(session, SHADOW_MODEL, model or None, now=now, actor=actor)


def shadow_of(session: Session) -> str:
    """Return the name of the model that reads in the shadow; "" where none does."""
    return str(option(session, SHADOW_MODEL, ""))


@dataclass(eq=False)
class ShadowReader:
    """Reads one study after the other with the model that its task names."""

    node: Node
    reader_of: Callable[[str], ReadStudy]
    name: str = field(default_factory=lambda: worker_name("shadow"))
    rng: random.Random = field(default_factory=random.Random)

    def step(self) -> bool:
        """Read the next study; False when nothing waits."""
        now, settings = self.node.clock(), self.node.settings
        with self.node.database.transaction() as session:
            task = queue.claim_task(
                session, SHADOW, worker=self.name, now=now, lease_s=settings.reading.lease_s
            )
            if task is None:
                return False
            study = session.get_one(StudyRow, task.study_id)
            files = [settings.home / image.path for image in studies.files_of(session, study)]
            model, task_id, study_id = str(task.payload["model"]), task.id, study.id
        error = ""
        try:
            with kept_lease(self.node, task_id, worker=self.name):
                self._read(study_id, model, files)
        except Exception as problem:  # a challenger's trouble must not stop the node
            _log.exception("study %d could not be read in the shadow", study_id)
            error = f"{type(problem).__name__}: {problem}"
        self._finish(task_id, error)
        return True

    def _read(self, study_id: int, model: str, files: list[Path]) -> None:
        home = self.node.settings.home
        scratch, final = home / "work" / f"{self.name}-{study_id}", shadow_folder(home, study_id) / model
        if (final / RECORD).is_file():
            return  # the CT was read again; what the shadow had said before the partner exam came stays
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "images").mkdir(parents=True)
        for file in files:
            os.link(file, scratch / "images" / file.name)
        reading = self.reader_of(model)(scratch / "images", f"study-{study_id}")
        save_reading(reading, scratch / "reading")
        os.utime(scratch / "reading" / RECORD, (self.node.clock(), self.node.clock()))  # when it was made
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(scratch / "reading", final)
        shutil.rmtree(scratch, ignore_errors=True)

    def _finish(self, task_id: int, error: str) -> None:
        now = self.node.clock()
        with self.node.database.transaction() as session:
            task = queue.held_task(session, task_id, worker=self.name)
            if task is None:
                return
            if error:
                queue.fail_task(session, task, error, now=now, first_wait_s=_FIRST_WAIT_S, rng=self.rng)
            else:
                queue.complete_task(session, task)
