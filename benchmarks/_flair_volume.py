"""How much of simulated white-matter disease our own FLAIR segmenter finds: Dice and bias of the volume.

Patients without a haematoma, with 4 to 40 mL in turn; `labels.py` prints the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ichnos.simulation.exams.mri import draw_mri_protocol, simulate_mri
from ichnos.simulation.exams.truth import masks_on_grid
from ichnos.simulation.heads.from_labels import head_files, labelled_head
from ichnos.simulation.heads.from_mni import mni_head
from ichnos.simulation.simulate import PatientSpec, simulate_patient
from ichnos.transfer.flair import hyperintensities_of
from ichnos.volume import volume_ml

FIRST_SEED = 401
LOADS_ML = (4.0, 15.0, 40.0, 10.0)


def measured(patients: int, heads: Path | None) -> Iterator[list[dict[str, Any]]]:
    """Yield a row for each patient so far, and the medians."""
    rows: list[dict[str, Any]] = []
    for k in range(patients):
        rows.append(_measured(k, heads))
        middle = {key: float(np.median([row[key] for row in rows])) for key in rows[0] if key != "name"}
        yield [*rows, {"name": "median", **middle}]


def _measured(k: int, heads: Path | None) -> dict[str, Any]:
    files = head_files(heads) if heads and k % 2 else ()
    head = labelled_head(files[k % len(files)]) if files else mni_head()
    load = LOADS_ML[k % len(LOADS_ML)]
    spec = PatientSpec(
        followup=False,
        haematoma_probability=0.0,
        leukoaraiosis_ml=load,
        acute_infarct_probability=0.0,
        old_infarct_probability=0.0,
    )
    patient = simulate_patient(FIRST_SEED + k, head, spec)
    rng, generator = np.random.default_rng(FIRST_SEED + k), torch.Generator().manual_seed(FIRST_SEED + k)
    exam = simulate_mri(patient, draw_mri_protocol("flair", rng=rng), generator=generator)
    truth = masks_on_grid(
        patient,
        ("leukoaraiosis",),
        thickness_mm=exam.protocol.thickness_mm,
        affine=exam.volume.affine,
        shape=exam.volume.shape,
        patient_from_exam=exam.patient_from_exam,
    )["leukoaraiosis"]
    lesions = hyperintensities_of(exam.volume.astype(np.float32))
    mask, true = lesions.mask.array, truth.array > 0
    true_ml = np.count_nonzero(true) * truth.voxel_ml
    return {
        "name": f"{head.name}, {exam.volume.spacing_mm[2]:.1f} mm slices",
        "truth, mL": true_ml,
        "found, mL": volume_ml(lesions.mask),
        "bias, %": 100 * (volume_ml(lesions.mask) / true_ml - 1),
        "Dice": 2 * np.count_nonzero(mask & true) / (mask.sum() + true.sum()),
        "left out, mL": volume_ml(lesions.left_out),
    }
