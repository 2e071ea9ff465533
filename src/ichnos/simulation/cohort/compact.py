"""A compact cohort: of each patient a piece of the CT around the blood, its outlines, and a row of facts.

The layout is that of any cohort, so every training and study that is given outlines reads both forms. What a
follow-up shows is written as outlines; its CT is planned and not simulated, which takes half of the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ichnos.cohort import Exam
from ichnos.formats import bids, nifti
from ichnos.scan import Acquisition
from ichnos.simulation.cohort.design import Subject
from ichnos.simulation.cohort.exam_files import TRUTH, labelled_map, noise_of, protocol_of
from ichnos.simulation.exams.ct import Plan, plan_ct, simulate_ct
from ichnos.simulation.exams.pose import HeadMotion
from ichnos.simulation.exams.scanners import CtProtocol
from ichnos.simulation.exams.truth import FOLLOWUP_MASKS, growth_on_grid, masks_on_grid, volumes_ml
from ichnos.simulation.patient import VirtualPatient
from ichnos.volume import Affine, Box, Volume

_MATRIX = 256  # of the CTs, whose slices hold nothing finer than 0.9 mm
_REACH_MM = 52.0  # from the haematoma's centre: what classifiers and forecasters see, and a little more
_MARGIN_MM = 12.0  # around all blood, which a restless head smears by 5 mm at most
_BLOOD = ("ich", "ivh", "phe")


@dataclass(frozen=True, eq=False)
class QuickScan:
    """A piece of a baseline CT around all blood, with outlines at both times."""

    ct: Volume
    acquisition: Acquisition
    masks: Mapping[str, Volume]  # on the CT's grid
    later: Mapping[str, Volume]  # on the grid of a follow-up CT that was not simulated; {} without one
    oracle: Volume | None  # the probability of blood at follow-up, on the CT's grid


def quick_scan(
    patient: VirtualPatient,
    first: CtProtocol,
    second: CtProtocol | None,
    *,
    generator: torch.Generator,
    on_ct: Sequence[str] = _BLOOD,
) -> QuickScan:
    """Scan a patient who bleeds on a coarse matrix, and outline what a follow-up CT (`second`) would show.

    `on_ct` names the masks on the baseline's grid. The head lies still in the follow-up.
    """
    image = simulate_ct(patient, replace(first, matrix=_MATRIX), generator=generator)
    grid = image.volume
    box = _piece(patient, Plan(grid.affine, grid.shape, image.patient_from_exam))
    ct, where = grid.cropped(box), _Where(image.patient_from_exam, first.thickness_mm, image.motion)
    return QuickScan(
        ct,
        image.acquisition,
        where.masks(patient, on_ct, ct),
        {} if second is None else _outlined_later(patient, replace(second, matrix=_MATRIX)),
        growth_on_grid(patient, affine=ct.affine, shape=ct.shape, **vars(where)),
    )


@dataclass(frozen=True)
class _Where:
    """How an exam's grid lies to the patient."""

    patient_from_exam: Affine
    thickness_mm: float
    motion: HeadMotion | None = None

    def masks(self, patient: VirtualPatient, names: Sequence[str], grid: Volume) -> dict[str, Volume]:
        return masks_on_grid(patient, names, affine=grid.affine, shape=grid.shape, **vars(self))


def _outlined_later(patient: VirtualPatient, protocol: CtProtocol) -> dict[str, Volume]:
    plan = plan_ct(patient, protocol, followup=True)
    whole = Volume(np.broadcast_to(np.uint8(0), plan.shape), plan.affine)
    where = _Where(plan.patient_from_exam, protocol.thickness_mm)
    return where.masks(patient, FOLLOWUP_MASKS, whole.cropped(_piece(patient, plan)))


def _piece(patient: VirtualPatient, plan: Plan) -> Box:
    """Return the box of an exam's voxels that holds all blood and what learners see around it."""
    moments = [m for m in (patient.baseline, patient.followup) if m is not None]
    ich = np.asarray((patient.baseline.ich >= 0.5).cpu())
    blood = np.any([np.asarray((m.ich + m.ivh + m.oedema >= 0.5).cpu()) for m in moments], axis=0) | ich
    index_from_patient = ~Affine(plan.affine) @ ~plan.patient_from_exam
    points = index_from_patient.map(patient.world(np.argwhere(blood)))
    centre = index_from_patient.map(patient.world(np.argwhere(ich if ich.any() else blood))).mean(axis=0)
    step = np.linalg.norm(plan.affine[:3, :3], axis=0)
    low = np.minimum(points.min(axis=0) - _MARGIN_MM / step, centre - _REACH_MM / step)
    high = np.maximum(points.max(axis=0) + _MARGIN_MM / step, centre + _REACH_MM / step)
    start, stop = np.floor(low).clip(0), np.minimum(np.ceil(high) + 1, plan.shape)
    return Box(tuple(map(int, start)), tuple(map(int, stop)))


def write_compact(subject: Subject, patient: VirtualPatient, folder: Path) -> dict[str, float]:
    """Write a patient's piece of CT and outlines below `folder`; return the volumes for the truth's table.

    A patient without blood, or of whom no CT is asked, has facts and volumes alone.
    """
    volumes = _chronic_ml(patient)
    if not patient.latent.has_haematoma:
        return volumes
    if "ct" not in subject.exams:
        truth = patient.truth
        return volumes | {"ich_ml": round(truth.ich_ml, 3), "ivh_ml": round(truth.ivh_ml, 3)}
    followed = "followup" in subject.exams
    scan = quick_scan(
        patient,
        protocol_of(subject, "ct"),
        protocol_of(subject, "followup") if followed else None,
        generator=noise_of(subject, "ct", patient.device),
        on_ct=(*_BLOOD, *(FOLLOWUP_MASKS if followed else ())),
    )
    bids.write_exam(folder, subject.id, "ct", scan.ct, sidecar=nifti.sidecar_of(scan.acquisition))
    _save(subject, folder, "haematoma", _joined(scan.masks, _BLOOD))
    if followed:
        _save(subject, folder, "expansion", _joined(scan.masks, FOLLOWUP_MASKS))
        _save(subject, folder, "haematoma", _joined(scan.later, FOLLOWUP_MASKS), exam="followup")
    if scan.oracle is not None:
        _save(subject, folder, "oracle", scan.oracle, kind="probseg")
    return volumes | volumes_ml({name: scan.masks[name] for name in _BLOOD}) | volumes_ml(dict(scan.later))


def _chronic_ml(patient: VirtualPatient) -> dict[str, float]:
    names = ("leukoaraiosis_ml", "infarct_acute_ml", "infarct_old_ml")
    known = {name: float(getattr(patient.truth, name)) for name in names}
    return {name: round(ml, 3) for name, ml in known.items() if np.isfinite(ml)}


def _joined(masks: Mapping[str, Volume], names: Sequence[str]) -> Volume:
    return labelled_map(*(masks[name] for name in names))


def _save(
    subject: Subject,
    folder: Path,
    label: str,
    volume: Volume,
    *,
    exam: Exam = "ct",
    kind: bids.MapKind = "dseg",
) -> None:
    bids.write_derivative(folder, subject.id, volume, pipeline=TRUTH, label=label, kind=kind, exam=exam)
