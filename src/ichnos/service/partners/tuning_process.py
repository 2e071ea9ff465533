"""The process that fine-tunes: without the database, at the lowest priority, resumed where it was killed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ichnos.audit.adaptation import Adapted
from ichnos.audit.tuning import TuningSettings, learnable_cohort, training_from, tuned_on_pairs
from ichnos.cohort import Cohort
from ichnos.errors import IchnosError, InputRefused
from ichnos.files import sole_writer
from ichnos.formats.bids import read_cohort
from ichnos.learning.loop.resources import Resources
from ichnos.learning.loop.steps import Progress
from ichnos.models import default_model, load_model
from ichnos.models.store import sha256
from ichnos.service.partners.tuning import note_progress
from ichnos.service.partners.tuning_job import TuningJob, TuningOutcome, keep_outcome, outcome_in

_LOWEST_PRIORITY = 19  # nice


def run_tuning(job: TuningJob) -> None:
    """Carry out a job in a process of its own; what came of it lies in its folder afterwards."""
    os.nice(_LOWEST_PRIORITY)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the node ends us when it has stopped
    torch.set_num_threads(job.how.threads)
    _end_with_parent()
    carry_out(job)


def carry_out(job: TuningJob) -> None:
    """Fine-tune, and keep what came of it; a job whose outcome is known is done."""
    with sole_writer(job.work):
        if outcome_in(job.work) is not None:
            return
        try:
            made = _made(job)
            outcome = TuningOutcome(said=made.said, patients=len(made.taught))
        except IchnosError as refusal:
            outcome = TuningOutcome(refusal=refusal.without_names)
        keep_outcome(job.work, outcome)


def _end_with_parent() -> None:
    """End this process when the node that started it was killed, so that it never works unseen."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _made(job: TuningJob) -> Adapted:
    model = load_model(Path(job.model)) if job.model else default_model()
    settings = TuningSettings(job.target, job.how.steps, job.how.share)
    training_from(model, settings)  # refuse before hours of pairing
    cohort = _told_apart(_cohort(job))
    shutil.rmtree(job.made, ignore_errors=True)  # half-written by a process that was killed

    def report(progress: Progress) -> None:
        note_progress(job.work, "training", step=progress.step, steps=progress.steps)

    resources = Resources(
        job.how.device,
        command=f"node: fine-tuning for {job.target}, {job.how.steps} steps",
        prepared=lambda patient: note_progress(job.work, "preparing patients"),
        report=report,
    )
    return tuned_on_pairs(model, cohort, job.made, settings, work=job.work / "training", resources=resources)


def _cohort(job: TuningJob) -> Cohort:
    """Return the pairs; they are made once, and their images are linked no longer than that."""
    root, ready = job.work / "cohort", job.work / "cohort.ready"
    images, readings = job.work / "images", job.work / "readings"
    remove = partial(shutil.rmtree, ignore_errors=True)
    for folder in (images, readings):
        remove(folder)
    if ready.is_file():
        return read_cohort(root)
    if not job.files:
        raise InputRefused("the images of all pairs have been removed, so there is nothing to learn from")
    note_progress(job.work, "pairing and transferring exams")
    try:
        _link(job.files, images)
        for number, folder in enumerate(job.readings):
            shutil.copytree(folder, readings / str(number), copy_function=os.link)
        cohort = learnable_cohort(images, readings, root, job.target, salt=job.salt)
    finally:
        for folder in (images, readings):
            remove(folder)
    ready.touch()
    return cohort


def _told_apart(cohort: Cohort) -> Cohort:
    """Leave out who shares a CT with another id: one person under two names, as after an emergency."""
    of_ct = {patient.id: sha256(patient.exam("ct")) for patient in cohort.with_exams("ct")}
    count = Counter(of_ct.values())
    kept = tuple(patient for patient in cohort if count[of_ct.get(patient.id, "")] < 2)
    return replace(cohort, patients=kept)


def _link(files: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in files:
        os.link(file, folder / file.name)
