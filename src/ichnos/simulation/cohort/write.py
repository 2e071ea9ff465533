"""Write a cohort of virtual patients: exams in a BIDS-like layout, the truth under derivatives/truth and
nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ichnos import __version__
from ichnos.cohort import Patient
from ichnos.errors import IchnosError, UsageError
from ichnos.files import atomic_file
from ichnos.formats import bids
from ichnos.runs import Summary, apply
from ichnos.simulation.cohort.compact import write_compact
from ichnos.simulation.cohort.design import Design, RenderSettings, Subject, subjects
from ichnos.simulation.cohort.exam_files import TRUTH, PatientFiles, random_numbers
from ichnos.simulation.cohort.population import make_subject
from ichnos.simulation.disease.clinical_row import COLUMNS, clinical_row, state_of, tract_damage
from ichnos.simulation.patient import VirtualPatient

WorkerContext = Callable[[], AbstractContextManager[None]]


def simulate_cohort(
    design: Design,
    out: str | Path,
    *,
    seed: int,
    render: RenderSettings | None = None,
    name: str = "virtual patients",
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
    cache: Path | None = None,
    worker_context: WorkerContext = nullcontext,
) -> Summary:
    """Make every patient of a design and write the cohort; patients of an earlier, equal call are kept.

    The same seed gives the same files on CPU if `worker_context`, entered around each patient, sees to one
    thread. Who fails is named in the summary and simulated anew by the next call. Source heads, which take
    longer than patients, are kept in the folder `cache`.
    """
    render, out = render or RenderSettings(), Path(out)
    _refuse_other_files(out)
    chosen = subjects(design, seed=seed)
    settings = {"design": asdict(design), "seed": seed, "render": asdict(render)}
    task = partial(write_patient, render=render, cache=cache, worker_context=worker_context)
    how: dict[str, Any] = {"workers": workers, "scheduler": scheduler, "progress": progress}
    summary = apply(task, chosen, out=out, settings=settings, name="simulate", **how)
    _write_tables(summary, chosen, out, name=name)
    _write_provenance(out, settings, design, summary)
    return summary


def _refuse_other_files(out: Path) -> None:
    if out.exists() and any(out.iterdir()) and not (out / ".ichnos").is_dir():
        raise UsageError(
            f"{out} holds other files; give a new or empty folder, or one that an earlier simulation began"
        )


def write_patient(
    subject: Subject,
    folder: Path,
    *,
    render: RenderSettings,
    cache: Path | None = None,
    worker_context: WorkerContext = nullcontext,
) -> dict[str, Any]:
    """Make one patient, write exams and truth into `folder` as if it were the cohort, and return the facts
    and the truth's row.
    """
    with worker_context():
        return _written(subject, folder, render, cache)


def _written(subject: Subject, folder: Path, render: RenderSettings, cache: Path | None) -> dict[str, Any]:
    patient = make_subject(subject, render, cache=cache)
    if render.compact:
        volumes = write_compact(subject, patient, folder)
    else:
        volumes = _write_exams(subject, patient, folder, render)
    facts = clinical_row(state_of(patient), trial=subject.trial, rng=random_numbers(subject, "clinical"))
    return {"facts": dict(facts), "truth": {**volumes, **_hidden(patient)}}


def _write_exams(
    subject: Subject, patient: VirtualPatient, folder: Path, render: RenderSettings
) -> dict[str, float]:
    writer = PatientFiles(subject, patient, folder, render)
    for exam in subject.exams:
        writer.write(exam)
    writer.write_transforms()
    return writer.volumes


def _hidden(patient: VirtualPatient) -> dict[str, Any]:
    """Return what only the simulation knows about a patient, for the truth's table."""
    latent, truth = patient.latent, patient.truth
    bleeds = latent.has_haematoma
    return {
        "has_haematoma": int(bleeds),
        "site": latent.site or None,
        "side": latent.side or None,
        "signs": " ".join(latent.signs) or None,
        "expanded": int(patient.expanded) if bleeds and patient.followup is not None else None,
        "expanded_drawn": int(latent.expands) if bleeds and patient.followup is not None else None,
        "operation": latent.operation or None,
        "expansion_probability": round(patient.expansion_probability, 6) if bleeds else None,
        "injury": state_of(patient).injury,
        **tract_damage(patient),
        "fazekas_periventricular": truth.fazekas_periventricular,
        "fazekas_deep": truth.fazekas_deep,
        "midline_shift_mm": round(truth.midline_shift_mm, 2),
        "source": latent.source,
    }


def _write_tables(summary: Summary, chosen: Sequence[Subject], out: Path, *, name: str) -> None:
    rows = {str(row["id"]): row for row in summary.rows}
    made = [s for s in chosen if s.id in rows]
    if not made:
        return
    people = [Patient(s.id, s.centre, s.split, facts=rows[s.id]["facts"]) for s in made]
    bids.write_cohort(people, out, name=name, columns=COLUMNS)
    folder = bids.write_pipeline(out, TRUTH)
    truths = [Patient(s.id, s.centre, s.split, facts=rows[s.id]["truth"]) for s in made]
    bids.write_participants(truths, folder)


def _write_provenance(out: Path, settings: Mapping[str, Any], design: Design, summary: Summary) -> None:
    """Write the one file that says how the cohort came about; nothing in it depends on when or where."""
    content = {
        "ichnos": __version__,
        "torch": torch.__version__,
        "settings": settings,
        "about": design.about,
        "assumed": list(design.assumed),
        "patients": len(summary),
        "failed": [failure.id for failure in summary.failures],
    }
    path = out / "derivatives" / TRUTH / "provenance.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_made(summary: Summary) -> None:
    """Refuse a cohort of which patients failed, with the first reason."""
    if summary.failures:
        first = summary.failures[0]
        raise IchnosError(
            f"{len(summary.failures)} patient(s) could not be made; the first, {first.id}: {first.why}"
        )
