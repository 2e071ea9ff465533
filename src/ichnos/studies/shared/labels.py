"""Labels of a study: targets transferred onto the CTs, and the ground truth of a simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused
from ichnos.formats import bids, nifti
from ichnos.learning.segmentation.target_files import target_degree, target_file
from ichnos.runs import apply
from ichnos.simulation.cohort.exam_files import TRUTH
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.rows import PatientRow
from ichnos.transfer.makers import TransferOptions, TransferTarget
from ichnos.transfer.pairs import ACCEPTED, pairs_of, settle, transfer_pair
from ichnos.transfer.run import transfer_cohort
from ichnos.volume import Volume


@dataclass(frozen=True)
class StudyLabels:
    """What transfer gave: the cohort with its targets, where they came from, and a row per pair."""

    cohort: Cohort
    pipelines: tuple[str, ...]
    rows: Mapping[str, PatientRow]  # patient -> numbers of the pair, with its verdict
    refused: int


def transferred_labels(cohort: Cohort, target: TransferTarget, budget: StudyBudget) -> StudyLabels:
    """Transfer the target of every pair. A smoke run transfers one pair and takes the labels of all from
    the simulation's truth.
    """
    if cohort.root is None:
        raise InputRefused(
            "the cohort has no folder, and transfer writes targets into it; read it with"
            " formats.bids.read_cohort"
        )
    root = cohort.root.resolve()
    pipelines: tuple[str, ...] = (TRUTH,) if budget.smoke else ("manual", ACCEPTED)
    if budget.smoke:
        rows, failures = _one_pair(cohort, root, target)
    else:
        settings = TransferOptions(str(root))
        result = transfer_cohort(root, [target], settings=settings, workers=budget.workers, progress=False)
        rows, failures = list(result.rows), len(result.failures)
    by_patient = {str(row["id"]).rpartition("-")[0]: row for row in rows}
    refused = failures + sum(row["verdict"] == "refuse" for row in rows)
    return StudyLabels(
        with_validation(bids.read_cohort(root, pipelines=pipelines)), pipelines, by_patient, refused
    )


def _one_pair(cohort: Cohort, root: Path, target: TransferTarget) -> tuple[list[Mapping[str, Any]], int]:
    """Transfer the last pair of a smoke run; return its row and the number of failures."""
    settings = TransferOptions(str(root))
    done = apply(
        partial(transfer_pair, settings=settings),
        pairs_of(cohort, [target])[-1:],
        out=root,
        settings=asdict(settings),
        name="transfer-smoke",
        progress=False,
    )
    bids.write_pipeline(root, ACCEPTED)
    return list(settle(root, done.rows, {})), len(done.failures)


def with_validation(cohort: Cohort) -> Cohort:
    """Return the cohort with every fifth training patient set aside for validation, if nobody is yet.

    >>> from ichnos.cohort import Patient
    >>> cohort = with_validation(Cohort(tuple(Patient(str(k), split="train") for k in range(1, 11))))
    >>> [patient.id for patient in cohort.of_split("validation")]
    ['5', '10']
    """
    if len(cohort.of_split("validation")):
        return cohort
    train = [p.id for p in cohort.of_split("train")]
    held = set(train[4::5] or train[-1:])
    return replace(
        cohort, patients=tuple(replace(p, split="validation") if p.id in held else p for p in cohort)
    )


def label_on_ct(cohort: Cohort, patient: Patient, name: str, pipelines: Sequence[str]) -> Volume | None:
    """Return a patient's label of a target as a mask on the RAS CT; None where there is none."""
    found = target_file(cohort, patient, name, pipelines)
    if found is None:
        return None
    ct = nifti.open_nifti(patient.exam("ct")).volume
    return ct.with_array(target_degree(*found, ct) >= 0.5).reoriented("RAS")


def truth_rows(cohort: Cohort) -> dict[str, dict[str, str]]:
    """Return the simulation's table of truths by patient; empty for a real cohort."""
    assert cohort.root is not None
    folder = cohort.root / "derivatives" / TRUTH
    return (
        {row["participant_id"]: row for row in bids.read_participants(folder)}
        if (folder / "participants.tsv").is_file()
        else {}
    )
