"""Patients whose expansion is known: CT, outlines and the label, one after the other so that a cohort need
not fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ichnos.clinical.expansion import DEFAULT_DEFINITION, DEFINITIONS, ExpansionDefinition
from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused
from ichnos.formats import bids, nifti
from ichnos.volume import Volume, volume_ml


@dataclass(frozen=True, eq=False)
class Labelled:
    """One patient with baseline masks and the outcome; all in RAS on the CT's grid."""

    patient: Patient
    hu: Volume
    ich: Volume
    ivh: Volume
    expanded: float  # 1 or 0
    followup_ml: float  # ICH at follow-up
    followup_ivh_ml: float


def labelled(
    cohort: Cohort, definition: ExpansionDefinition = DEFINITIONS[DEFAULT_DEFINITION]
) -> Iterator[Labelled]:
    """Yield the patients with a haematoma at baseline and a known follow-up lesion.

    The follow-up's volume is that of the follow-up CT's own outline where there is one, of the outline on the
    baseline grid otherwise.
    """
    if cohort.root is None:
        raise InputRefused(
            "the cohort has no folder, so its targets cannot be found; read it with formats.bids.read_cohort"
        )
    for patient in cohort:
        case = labelled_patient(cohort, patient, definition)
        if case is not None:
            yield case


def labelled_patient(
    cohort: Cohort, patient: Patient, definition: ExpansionDefinition = DEFINITIONS[DEFAULT_DEFINITION]
) -> Labelled | None:
    """Return one patient with the label; None without a haematoma, a CT, or a known follow-up lesion."""
    root = str(cohort.root)
    before, after = (bids.find_target(root, patient.id, name) for name in ("haematoma", "expansion"))
    if before is None or after is None or "ct" not in patient.exams:
        return None
    labels = nifti.load(before).reoriented("RAS")
    ich, ivh = (labels.with_array(labels.array == value) for value in (1, 2))
    if not ich.array.any():
        return None
    later = nifti.load(_own_outline(cohort, patient) or after)
    volumes = [volume_ml(later.with_array(later.array == value)) for value in (1, 2)]
    label = float(definition(volume_ml(ich), volumes[0], volume_ml(ivh), volumes[1]))
    if not np.isfinite(label):
        return None
    hu = nifti.load(patient.exam("ct")).reoriented("RAS")
    return Labelled(patient, hu, ich, ivh, label, volumes[0], volumes[1])


def _own_outline(cohort: Cohort, patient: Patient) -> Path | None:
    for pipeline in bids.TRUSTED_PIPELINES:
        path = bids.derivative_path(
            str(cohort.root), patient.id, pipeline=pipeline, label="haematoma", kind="dseg", exam="followup"
        )
        if path.is_file():
            return path
    return None
