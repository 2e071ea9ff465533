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
    """Apply a reading task to patients, resumably; other networks read anew."""
    folder = out / "readings" / settings_hash(settings)
    return rows_of_patients(task, patients, folder, budget, settings=settings)


def rows_of_patients(
    task: Any,
    patients: Sequence[Patient],
    folder: Path,
    budget: StudyBudget,
    *,
    settings: Any,
    name: str = "read",
    failed: str = "read",
) -> list[dict[str, Any]]:
    """Apply a task to patients, resumably, with the ledger `name` in `folder`; return its rows.

    A patient in whom it fails is left out and told: "sub-1 could not be `failed`".
    """
    done = apply(
        task, patients, out=folder, settings=settings, name=name, workers=budget.workers, progress=False
    )
    for failure in done.failures:
        budget.say(f"sub-{failure.id} could not be {failed}: {failure.why}")
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
