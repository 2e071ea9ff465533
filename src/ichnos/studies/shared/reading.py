"""Every patient of a study read once, by every network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ichnos.cohort import Patient
from ichnos.formats import nifti
from ichnos.inference import Predictor
from ichnos.models import Model, load_model
from ichnos.runs import apply
from ichnos.runs.ledger import settings_hash
from ichnos.scan import Scan
from ichnos.studies.shared.budget import StudyBudget


def model_identity(models: Mapping[str, Model]) -> dict[str, list[Any]]:
    """Return what decides the masks of each model: with another one every patient is read anew."""
    return {
        name: [model.manifest.weights_sha256, *(t.threshold for t in model.manifest.targets)]
        for name, model in models.items()
    }


def read_patients(
    task: Any, patients: Sequence[Patient], out: Path, budget: StudyBudget, *, settings: Any
) -> list[dict[str, Any]]:
    """Apply a reading task to patients, resumably; a patient who cannot be read is left out and told.
    Other networks read anew.
    """
    done = apply(
        task,
        patients,
        out=out / "readings" / settings_hash(settings),
        settings=settings,
        name="read",
        workers=budget.workers,
        progress=False,
    )
    for failure in done.failures:
        budget.say(f"sub-{failure.id} could not be read: {failure.why}")
    return list(done.rows)


@lru_cache(maxsize=4)
def predictor_of(folder: str, device: str) -> Predictor:
    """Return the predictor_of of a model folder (loaded once per process).

    All but plain U-Nets run in torch: OpenVINO takes minutes to make U-Mamba's graph, which a few patients do
    not pay back.
    """
    model = load_model(folder)
    return Predictor(
        model,
        backend="auto" if model.manifest.network.name in ("unet", "planned") else "torch",
        device=device,
        threads=1,
    )


def ct_scan(patient: Patient) -> Scan:
    """Return a patient's CT in RAS."""
    opened = nifti.open_nifti(patient.exam("ct"))
    return Scan(opened.volume.reoriented("RAS"), opened.acquisition)
