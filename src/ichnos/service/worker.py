"""The worker: claims a study, reads it with the models, stores the reading and queues its deliveries."""

from __future__ import annotations

import logging
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ichnos.api import Engine, read_with, save_reading
from ichnos.errors import IchnosError
from ichnos.reading import Reading, Record
from ichnos.service.destinations import enabled_destinations
from ichnos.service.installed import folder_of_model
from ichnos.service.node import Node, worker_name
from ichnos.service.store import queue, studies
from ichnos.service.store.images import StoredImage, store_image
from ichnos.service.store.studies import ReadingOutcome

_log = logging.getLogger(__name__)
_FIRST_WAIT_S = 5.0  # after a failed reading; doubles with each try
ReadStudy = Callable[[Path, str], Reading]  # (folder of images, name of the scan) -> reading


@dataclass(eq=False)
class Worker:
    """Reads one study after the other; `read_study` is the models, or a stand-in in tests."""

    node: Node
    read_study: ReadStudy
    reader_of: Callable[[str], ReadStudy] | None = None  # for a reading with a model that somebody named
    name: str = field(default_factory=lambda: worker_name("worker"))
    rng: random.Random = field(default_factory=random.Random)

    def step(self, _node: Node | None = None) -> bool:
        """Read the next study; False when nothing waits."""
        settings, now = self.node.settings.reading, self.node.clock()
        with self.node.database.transaction() as session:
            task = queue.claim_task(session, "read", worker=self.name, now=now, lease_s=settings.lease_s)
            if task is None:
                return False
            study = studies.begin_reading(session, task, now=now)
            files = [self.node.settings.home / image.path for image in studies.files_of(session, study)]
            model = str(task.payload.get("model", ""))
        try:
            with self._heartbeat(task.id):
                read = self.reader_of(model) if model and self.reader_of else self.read_study
                outcome = self._read(study.id, files, read)
        except (IchnosError, OSError, RuntimeError, ValueError, MemoryError) as error:
            _log.exception("study %d could not be read", study.id)
            self._fail(task.id, f"{type(error).__name__}: {error}")
            return True
        self._finish(task.id, outcome)
        return True

    def _read(self, study_id: int, files: list[Path], read: ReadStudy) -> ReadingOutcome:
        """Read into a folder of its own and move it into place; the same task twice gives the same folder."""
        home = self.node.settings.home
        scratch, final = home / "work" / f"{self.name}-{study_id}", home / "readings" / str(study_id)
        shutil.rmtree(scratch, ignore_errors=True)
        images = scratch / "images"
        images.mkdir(parents=True)
        for file in files:
            os.link(file, images / file.name)
        reading = read(images, f"study-{study_id}")
        save_reading(reading, scratch / "reading")
        final.parent.mkdir(parents=True, exist_ok=True)
        old = scratch / "old"
        if final.exists():
            os.replace(final, old)
        os.replace(scratch / "reading", final)
        shutil.rmtree(scratch, ignore_errors=True)
        return outcome_of(reading.record, str(final.relative_to(home)))

    def _finish(self, task_id: int, outcome: ReadingOutcome) -> None:
        sending = self.node.settings.sending
        results = self._stored_results(outcome)
        with self.node.database.transaction() as session:
            task = queue.held_task(session, task_id, worker=self.name)
            if task is None:
                _log.warning("task %d was taken by another worker; this result is thrown away", task_id)
                return
            for image in results:
                studies.register_image(session, image, now=self.node.clock(), source="ichnos")
            studies.finish_reading(
                session,
                task,
                outcome,
                now=self.node.clock(),
                destinations=[there.name for there in enabled_destinations(session, self.node.settings)],
                attempts_allowed=sending.attempts,
            )

    def _stored_results(self, outcome: ReadingOutcome) -> list[StoredImage]:
        """Keep SEG and SR beside the images, so that a viewer finds them in the node's DICOMweb."""
        home, results = self.node.settings.home, []
        for file in sorted((home / outcome.folder).glob("*.dcm")):
            copy = home / "work" / f"{self.name}-{file.name}"
            shutil.copyfile(file, copy)
            results.append(store_image(home, copy))
        return results

    def _fail(self, task_id: int, error: str) -> None:
        now = self.node.clock()
        with self.node.database.transaction() as session:
            task = queue.held_task(session, task_id, worker=self.name)
            if task is not None and queue.fail_task(
                session, task, error, now=now, first_wait_s=5.0, rng=self.rng
            ):
                studies.set_aside(session, task, now=now)

    @contextmanager
    def _heartbeat(self, task_id: int) -> Iterator[None]:
        """Prolong the lease in a thread while the block runs."""
        lease_s, over = self.node.settings.reading.lease_s, threading.Event()

        def beat() -> None:
            while not over.wait(lease_s / 4):
                with self.node.database.transaction() as session:
                    now = self.node.clock()
                    queue.extend_lease(session, task_id, worker=self.name, now=now, lease_s=lease_s)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def study_reader(node: Node, model: str = "") -> ReadStudy:
    """Return a function that reads a folder of images: with a model by its name, else the chosen one.

    The choice is looked up for each study, so that a change in the pages holds from the next one on.
    """
    settings = node.settings.reading

    def read(folder: Path, name: str) -> Reading:
        with node.database.snapshot() as session:
            chosen = folder_of_model(session, node.settings, model)
        cache = str(node.settings.home / "compiled")
        engine = Engine(model=chosen, device=settings.device, threads=settings.threads, cache=cache)
        return read_with(engine.predictor(), folder, name=name)

    return read


def outcome_of(record: Record, folder: str) -> ReadingOutcome:
    """Return what the tables keep of a reading."""
    values = {
        measure.name: measure.value
        for finding in record.findings
        for measure in finding.measures
        if measure.value is not None and measure.name in _SHOWN
    }
    return ReadingOutcome(folder, record.refusal, urgency_of(values, refused=bool(record.refusal)), values)


_SHOWN = frozenset(
    [
        "ich_volume",
        "ivh_volume",
        "phe_volume",
        "expansion_probability",
        "leukoaraiosis_volume",
        "midline_shift",
        "side",
        "site",
    ]
)


def urgency_of(values: dict[str, float | str | bool], *, refused: bool) -> float:
    """Return how early a study comes in the worklist; greater is earlier.

    Blood comes first, by volume and by the probability that it grows; then what could not be read, which a
    person must look at; then the rest.

    >>> large, small = {"ich_volume": 40.0, "expansion_probability": 30.0}, {"ich_volume": 2.0}
    >>> urgency_of(large, refused=False) > urgency_of(small, refused=False) > urgency_of({}, refused=True) > 0
    True
    """
    if refused:
        return 1.0
    blood = _number(values.get("ich_volume")) + _number(values.get("ivh_volume"))
    return 0.0 if blood <= 0 else 2.0 + blood * (1.0 + _number(values.get("expansion_probability")) / 100.0)


def _number(value: float | str | bool | None) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
