"""One patient read in every way, and what is known of the patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.cohort import Patient
from ichnos.evidence.metrics.overlap import dice
from ichnos.inference.grid import SpacingMm, through_grid
from ichnos.simulation.cohort.exam_files import TRUTH
from ichnos.studies.ryu2025.design import RISK_FACTORS, WHITE_MATTER_LABEL
from ichnos.studies.ryu2025.threshold import dark_white_matter
from ichnos.studies.shared.grid_limit import AT_VOXELS
from ichnos.studies.shared.labels import StudyLabels, label_on_ct
from ichnos.studies.shared.reading import ct_scan, predictor_of
from ichnos.studies.shared.rows import known_number
from ichnos.volume import Volume, volume_ml


@dataclass(frozen=True)
class WhiteMatterReader:
    """Read one patient in every way, and compare with every label there is."""

    labels: StudyLabels
    models: dict[str, str]  # name -> folder
    cut_hu: float
    device: str
    voxels: Mapping[str, SpacingMm] = field(default_factory=dict)  # by network

    def __call__(self, patient: Patient, folder: Path) -> dict[str, Any]:
        """Return volumes in mL, Dice against the registered label, and what is known of the patient."""
        del folder
        scan = ct_scan(patient)
        cohort = self.labels.cohort
        registered = label_on_ct(cohort, patient, WHITE_MATTER_LABEL, self.labels.pipelines)
        true = (
            label_on_ct(cohort, patient, WHITE_MATTER_LABEL, (TRUTH,))
            if TRUTH not in self.labels.pipelines
            else registered
        )
        found = {
            name: predictor_of(model, self.device)(scan).mask(WHITE_MATTER_LABEL)
            for name, model in self.models.items()
        }
        found["threshold"] = dark_white_matter(scan.volume, self.cut_hu)
        row: dict[str, Any] = {
            "split": patient.split,
            "centre": patient.centre,
            "vendor": scan.acquisition.manufacturer or "unknown",
        }
        row |= {f"{name}_ml": round(volume_ml(mask), 4) for name, mask in found.items()}
        if registered is not None:
            for name, spacing_mm in self.voxels.items():
                at_voxels = through_grid(registered, spacing_mm)
                row[f"{name}{AT_VOXELS}_dice"] = _finite(dice(registered, at_voxels))
        return row | _compared(found, registered, true)


def _compared(
    found: Mapping[str, Volume], registered: Volume | None, true: Volume | None
) -> dict[str, float | None]:
    """Return each way's Dice with the registered label, and how the label compares with the truth."""
    row = {
        f"{name}_dice": None if registered is None else _finite(dice(registered, mask))
        for name, mask in found.items()
    }
    row["registered_ml"] = None if registered is None else round(volume_ml(registered), 4)
    row["true_ml"] = None if true is None else round(volume_ml(true), 4)
    row["label_dice"] = None if registered is None or true is None else _finite(dice(true, registered))
    return row


def _finite(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 5)


def patient_facts(
    patient: Patient, truths: Mapping[str, Mapping[str, str]], labels: StudyLabels
) -> dict[str, Any]:
    """Return what transfer, the simulation and the clinic know of a patient."""
    truth, pair = truths.get(patient.id, {}), labels.rows.get(patient.id, {})
    facts = {**truth, **{k: v for k, v in patient.facts.items() if v is not None}}
    grades = {name: known_number(facts.get(f"fazekas_{name}")) for name in ("periventricular", "deep")}
    return {
        "mri_ml": pair.get("leukoaraiosis_flair_ml", truth.get("leukoaraiosis_flair_ml")),
        "infarct_ml": facts.get("infarct_acute_ml", facts.get("infarct_ml")),
        "fazekas": sum(grades.values()),
        **{f"fazekas_{name}": grade for name, grade in grades.items()},
        **{name: facts.get(name) for name in (*RISK_FACTORS, "sex", "nihss", "mrs_90d")},
        "earlier_stroke": facts.get("earlier_stroke", _old_infarct(truth)),
    }


def _old_infarct(truth: Mapping[str, str]) -> float | None:
    """Return whether a simulated patient had an earlier stroke: an old infarct in the table of truths."""
    ml = known_number(truth.get("infarct_old_ml"))
    return float(ml > 0) if np.isfinite(ml) else None
