"""The worker: claims a study, reads it with the models, stores the reading and queues its deliveries."""

from __future__ import annotations

import logging
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ichnos.api import Engine, read_with, save_reading
from ichnos.audit.monitoring.inputs import watched_values
from ichnos.reading import Reading, Record
from ichnos.service.installed import folder_of_model
from ichnos.service.lease import kept_lease
from ichnos.service.node import Node, worker_name
from ichnos.service.remote.destinations import enabled_destinations
from ichnos.service.results.extras import write_extras
from ichnos.service.settings import Extra
from ichnos.service.store import queue, studies
from ichnos.service.store.images import StoredImage, free_gib, store_image
from ichnos.service.store.studies import ReadingOutcome

_log = logging.getLogger(__name__)
_FIRST_WAIT_S = 5.0  # after a failed reading; doubles with each try
_SHARE_OF_WATERMARK = 0.5  # of the space below which exams are refused: below that, nothing is read either
ReadStudy = Callable[[Path, str], Reading]  # (folder of images, name of the scan) -> reading


@dataclass(frozen=True)
class _Job:
    """What a worker has claimed."""

    task_id: int
    study_id: int
    folder: str  # of the reading, of this attempt alone
    files: tuple[Path, ...]
    model: str
    extras: frozenset[Extra]


@dataclass(eq=False)
class Worker:
    """Reads one study after the other; `read_study` is the models, or a stand-in in tests."""

    node: Node
    read_study: ReadStudy
    reader_of: Callable[[str], ReadStudy] | None = None  # for a reading with a model that somebody named
    name: str = field(default_factory=lambda: worker_name("worker"))
    rng: random.Random = field(default_factory=random.Random)

    def step(self, _node: Node | None = None) -> bool:
        """Read the next study; False when nothing waits or the disk is too full to read."""
        job = None if self._disk_is_full() else self._claim()
        if job is None:
            return False
        try:
            with kept_lease(self.node, job.task_id, worker=self.name):
                outcome = self._read(job)
        except Exception as error:  # one odd study must not end the worker
            _log.exception("study %d could not be read", job.study_id)
            self._fail(job.task_id, f"{type(error).__name__}: {error}")
            return True
        self._finish(job.task_id, outcome)
        return True

    def _claim(self) -> _Job | None:
        settings, now = self.node.settings, self.node.clock()
        # A claim that a crash of the machine undoes is made again: nobody waits for its way to the disk.
        with self.node.database.transaction(durable=False) as session:
            task = queue.claim_task(
                session, "read", worker=self.name, now=now, lease_s=settings.reading.lease_s
            )
            if task is None:
                return None
            study = studies.begin_reading(session, task, now=now)
            destinations = enabled_destinations(session, settings)
            return _Job(
                task_id=task.id,
                study_id=study.id,
                folder=f"{study.id}-{task.id}-{task.attempts}",
                files=tuple(settings.home / image.path for image in studies.files_of(session, study)),
                model=str(task.payload.get("model", "")),
                extras=frozenset(extra for there in destinations for extra in there.extras),
            )

    def _disk_is_full(self) -> bool:
        storage = self.node.settings.storage
        return free_gib(self.node.settings.home) < storage.refuse_below_gib * _SHARE_OF_WATERMARK

    def _read(self, job: _Job) -> ReadingOutcome:
        """Read into a folder that this attempt alone has: only the database says which reading counts."""
        home = self.node.settings.home
        scratch, final = home / "work" / f"{self.name}-{job.study_id}", home / "readings" / job.folder
        shutil.rmtree(scratch, ignore_errors=True)
        images = scratch / "images"
        images.mkdir(parents=True)
        for file in job.files:
            os.link(file, images / file.name)
        read = self.reader_of(job.model) if job.model and self.reader_of else self.read_study
        reading = read(images, f"study-{job.study_id}")
        save_reading(reading, scratch / "reading")
        write_extras(reading, scratch / "reading", job.extras)
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(final, ignore_errors=True)  # of a clock or a database that went back
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
                shutil.rmtree(self.node.settings.home / outcome.folder, ignore_errors=True)
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
                session, task, error, now=now, first_wait_s=_FIRST_WAIT_S, rng=self.rng
            ):
                studies.set_aside(session, task, now=now)


def study_reader(node: Node, model: str = "") -> ReadStudy:
    """Return a function that reads a folder of images: with a model by its name, else the chosen one.

    The choice is looked up for each study, so that a change in the pages holds from the next one on.
    """

    def read(folder: Path, name: str) -> Reading:
        return read_with(_engine(node, model).predictor(), folder, name=name)

    return read


def load_model_ahead(node: Node) -> None:
    """Load the networks before a study comes, which then need not wait; a model that fails is logged."""
    try:
        _engine(node).predictor()
    except Exception as error:  # each study that it cannot read will say so
        _log.error("the model could not be loaded: %s", error)


def _engine(node: Node, model: str = "") -> Engine:
    settings = node.settings.reading
    with node.database.snapshot() as session:
        chosen = folder_of_model(session, node.settings, model)
    cache = str(node.settings.home / "compiled")
    return Engine(model=chosen, device=settings.device, threads=settings.threads, cache=cache)


def outcome_of(record: Record, folder: str) -> ReadingOutcome:
    """Return what the tables keep of a reading."""
    values = {
        measure.name: measure.value
        for finding in record.findings
        for measure in finding.measures
        if measure.value is not None and measure.name in _SHOWN
    }
    inputs = {name: round(value, 3) for name, value in watched_values(record).items()}
    urgency = urgency_of(values, refused=bool(record.refusal))
    return ReadingOutcome(folder, record.refusal, urgency, values, inputs)


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
