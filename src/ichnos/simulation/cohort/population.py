"""Who becomes a patient: law and anatomy for one subject of a design."""

from __future__ import annotations

from pathlib import Path

import torch

from ichnos.errors import InputRefused
from ichnos.simulation.cohort.design import RenderSettings, Subject
from ichnos.simulation.heads.from_labels import head_files, labelled_head
from ichnos.simulation.heads.from_mni import mni_head
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.patient import VirtualPatient
from ichnos.simulation.simulate import PatientSpec, draws_of, simulate_patient

TRIES = 5000


def make_subject(
    subject: Subject, render: RenderSettings, *, cache: Path | None = None, device: torch.device | str = "cpu"
) -> VirtualPatient:
    """Make the patient of a subject: the first of the subject's own seeds whose law fits what the design asks
    for.

    Source heads are kept in the folder `cache`.
    """
    seed = fitting_seed(subject)
    head = source_head(render.anatomy, seed, cache)
    spec = PatientSpec(
        spacing_mm=render.voxel_mm,
        mix=subject.mix,
        haematoma_probability=1.0 if subject.has_haematoma else 0.0,
        acute_infarct_probability=0.04 if subject.has_haematoma else 0.6,
        followup="followup" in subject.exams,
        fibres="diffusion" in subject.exams,
        oracle_samples=render.oracle_samples if "followup" in subject.exams and subject.has_haematoma else 0,
    )
    return simulate_patient(seed, head, spec, device=device)


def fitting_seed(subject: Subject) -> int:
    """Return a seed whose draws expand or not, and are as large, as the design asks; drawn from the law by
    rejection.
    """
    for k in range(TRIES):
        seed = (subject.seed + 7919 * k) % 2**31
        if not subject.has_haematoma or (subject.expands is None and subject.least_ich_ml == 0):
            return seed
        draws = draws_of(seed, subject.mix)
        fits = subject.expands is None or bool(draws.expanded[0]) == subject.expands
        if fits and float(draws.ich_ml[0]) >= subject.least_ich_ml:
            return seed
    raise InputRefused(
        f"no patient like sub-{subject.id} was found in {TRIES} draws; ask for a smaller haematoma than"
        f" {subject.least_ich_ml:g} mL"
    )


def source_head(anatomy: str | None, seed: int, cache: Path | None = None) -> SourceHead:
    """Return the head that a patient is varied from: the MNI head, or one label map of a folder, chosen by
    the seed.
    """
    if anatomy is None:
        return mni_head(cache)
    files = head_files(Path(anatomy))
    return labelled_head(files[seed % len(files)], cache)
