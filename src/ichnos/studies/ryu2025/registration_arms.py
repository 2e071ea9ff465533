"""Rigid beside deformable registration of FLAIR to CT, on pairs whose displacement is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.cohort import Cohort, Patient
from ichnos.evidence.metrics.overlap import dice
from ichnos.evidence.tables import Table
from ichnos.formats import bids, nifti
from ichnos.registration import RegistrationKind, Transform, register
from ichnos.simulation.cohort.exam_files import TRUTH
from ichnos.studies.ryu2025.design import WHITE_MATTER_LABEL
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.page import comparison
from ichnos.studies.shared.reading import read_patients
from ichnos.studies.shared.rows import PatientRow, column_mean, known_number
from ichnos.transfer.flair import given_hyperintensities, leukoaraiosis_on_ct
from ichnos.volume import Affine, Volume

_ARMS: tuple[RegistrationKind, ...] = ("rigid", "deformable")  # rigid is what the labels are transferred by
_EVERY = 499  # brain voxel, at which the displacement is compared


@dataclass(frozen=True)
class RegistrationJudge:
    """Register one patient's FLAIR by each arm, and compare with the truth."""

    root: str  # of the cohort

    def __call__(self, patient: Patient, folder: Path) -> dict[str, Any]:
        """Return each arm's error in mm (median and 95th percentile of the brain), and the Dice on the CT of
        the true lesions of the FLAIR carried over by it.
        """
        del folder
        ct, flair = (nifti.load(patient.exam(exam)) for exam in ("ct", "flair"))
        brain = self._truth(patient, "brain", "dseg")
        truth = _true_displacement(Path(self.root), patient.id)
        points = brain.world(np.argwhere(brain.array > 0)[::_EVERY])
        row: dict[str, Any] = {"centre": patient.centre}
        start: Transform | None = None
        for kind in _ARMS:
            found = register(ct, flair, kind=kind, start=start, fixed_contrast="ct", moving_contrast="mri")
            start = found.transform
            away = np.linalg.norm(found.transform.map(points) - truth.map(points), axis=1)
            row |= {f"{kind}_mm": float(np.median(away)), f"{kind}_p95_mm": float(np.percentile(away, 95))}
            row[f"{kind}_dice"] = self._carried(patient, flair, ct, found.transform)
        return row

    def _truth(self, patient: Patient, label: str, kind: bids.MapKind, exam: Any = "ct") -> Volume:
        path = bids.derivative_path(self.root, patient.id, pipeline=TRUTH, label=label, kind=kind, exam=exam)
        return nifti.load(path)

    def _carried(self, patient: Patient, flair: Volume, ct: Volume, flair_from_ct: Transform) -> float | None:
        on_flair = self._truth(patient, WHITE_MATTER_LABEL, "mask", "flair")
        on_ct = self._truth(patient, WHITE_MATTER_LABEL, "mask")
        if not on_ct.array.any():
            return None
        found = leukoaraiosis_on_ct(
            given_hyperintensities(on_flair, flair), flair_from_ct=flair_from_ct, ct=ct
        )
        return round(dice(on_ct, found.mask), 5)


def _true_displacement(root: Path, patient: str) -> Transform:
    """Return the true map from CT mm to FLAIR mm."""
    return Transform.of(~Affine(np.loadtxt(_displacement_file(root, patient))))


def _displacement_file(root: Path, patient: str) -> Path:
    who = bids.subject(patient)
    return root / "derivatives" / TRUTH / who / f"{who}_from-flair_to-ct_xfm.txt"


def registration_rows(cohort: Cohort, out: Path, budget: StudyBudget) -> list[dict[str, Any]]:
    """Judge both arms on every external pair whose displacement is known; on one in a smoke run."""
    root = Path(str(cohort.root)).resolve()
    pairs = [
        patient
        for patient in cohort.of_split("external").with_exams("ct", "flair")
        if _displacement_file(root, patient.id).is_file()
    ]
    if not pairs:
        return []
    budget.say("registering external pairs with known displacement, rigidly and deformably")
    judge = RegistrationJudge(str(root))
    return read_patients(
        judge, pairs[:1] if budget.smoke else pairs, out, budget, settings={"arms": list(_ARMS)}
    )


def registration_table(rows: Sequence[PatientRow]) -> Table:
    """Each arm's error and overlap with the truth, and their paired difference."""
    measures = (
        ("error, median over the brain, mm", "mm"),
        ("error, 95th percentile over the brain, mm", "p95_mm"),
        ("Dice of the carried lesions with the true ones on CT", "dice"),
    )
    lines = [
        {
            "measure": title,
            **{kind: column_mean(rows, f"{kind}_{name}", of="a known displacement") for kind in _ARMS},
            "deformable minus rigid": column_mean(
                [{"gap": _gap(row, name)} for row in rows], "gap", of="both arms"
            ),
        }
        for title, name in measures
    ]
    note = (
        f"{len(rows)} external pairs whose displacement the simulation knows: heads lie differently in both"
        " exams and nothing has bent between them, so that a deformable step can lose, not gain. The labels"
        " are transferred rigidly."
    )
    return comparison("registration", "Rigid and deformable registration", lines, note=note)


def _gap(row: Mapping[str, Any], name: str) -> float:
    rigid, deformable = (known_number(row.get(f"{kind}_{name}")) for kind in _ARMS)
    return deformable - rigid
