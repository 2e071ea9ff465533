"""Simulated patients read by a model: measured against true volumes and grades, for calibration models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache as kept_once
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.inference import Predictor
from ichnos.learning.fit.fazekas import fit_ordinal, left_out
from ichnos.learning.fit.volume import fit_volume_calibration
from ichnos.learning.virtual.batches import scanned
from ichnos.models import load_model
from ichnos.prognosis.fazekas import FazekasModel
from ichnos.prognosis.volume import VolumeCalibration
from ichnos.reading import read_scan
from ichnos.reading.record import Record
from ichnos.runs import Numbered
from ichnos.simulation.exams.scanners import CENTRES, draw_protocol
from ichnos.simulation.heads.from_labels import labelled_head
from ichnos.simulation.heads.from_mni import mni_head
from ichnos.simulation.simulate import PatientSpec, simulate_patient
from ichnos.volume import volume_ml

CALIBRATED = ("ICH", "IVH", "PHE", "leukoaraiosis")  # whose volumes get intervals
_FAZEKAS_REGIONS = ("periventricular", "deep")
_LEUKOARAIOSIS_ML = (0.3, 60.0)  # uniform in its logarithm, so that every grade occurs
_BLEEDING = 0.6  # fraction of patients
_SEED = 660_000


@dataclass(frozen=True)
class ReadPatients:
    """How patients are simulated and read: plain data, so that it can be sent to another process."""

    model: Path
    heads: tuple[Path, ...]  # label maps; empty: the MNI head
    cache: Path


@kept_once
def _predictor(model: Path) -> Predictor:
    return Predictor(load_model(model), threads=1)


def read_patient(case: Numbered, folder: Path, *, how: ReadPatients) -> dict[str, Any]:
    """Simulate and read a patient; return volumes, measured and true, and true grades."""
    del folder
    rng = np.random.default_rng([_SEED, case.number])
    wanted_ml = float(np.exp(rng.uniform(*np.log(_LEUKOARAIOSIS_ML))))
    heads = how.heads
    head = labelled_head(heads[case.number % len(heads)], how.cache) if heads else mni_head(how.cache)
    spec = PatientSpec(
        spacing_mm=1.5, haematoma_probability=_BLEEDING, leukoaraiosis_ml=wanted_ml, followup=False
    )
    patient = simulate_patient(_SEED + case.number, head, spec)
    protocol = draw_protocol(CENTRES[sorted(CENTRES)[case.number % len(CENTRES)]], rng=rng)
    scan, truth = scanned(patient, protocol, case.number, [target.lower() for target in CALIBRATED])
    record = read_scan(scan, _predictor(how.model), only=["haematoma", "leukoaraiosis"]).record
    return {
        **{f"{target}_ml": _value(record, f"{target.lower()}_volume") for target in CALIBRATED},
        **{f"{target}_true_ml": volume_ml(truth[target.lower()]) for target in CALIBRATED},
        **{f"{region}_ml": _value(record, f"{region}_volume") for region in _FAZEKAS_REGIONS},
        "periventricular_grade": patient.truth.fazekas_periventricular,
        "deep_grade": patient.truth.fazekas_deep,
        "status": record.finding("leukoaraiosis").status,
    }


def _value(record: Record, name: str) -> float:
    """Return a measure of any finding; 0 where nothing was found, so that there was nothing to measure."""
    measures = (m for finding in record.findings for m in finding.measures)
    return next((float(m.value) for m in measures if m.name == name and m.value is not None), 0.0)


def fazekas_of_readings(rows: Sequence[dict[str, Any]]) -> FazekasModel:
    """Fit the grades of both regions; the cohort's description says how often left-out patients are right."""
    looked_at = [row for row in rows if row["status"] != "could not look"]
    models, accuracies = {}, []
    for region in _FAZEKAS_REGIONS:
        volumes = [float(row[f"{region}_ml"]) for row in looked_at]
        grades = [int(row[f"{region}_grade"]) for row in looked_at]
        models[region] = fit_ordinal(volumes, grades)
        right, near = left_out(volumes, grades)
        accuracies.append(f"{region} {100 * right:.0f} % right and {100 * near:.0f} % within one grade")
    cohort = (
        f"{len(looked_at)} simulated patients, graded on their true maps; in those left out:"
        f" {', '.join(accuracies)}"
    )
    return FazekasModel(cohort=cohort, periventricular=models["periventricular"], deep=models["deep"])


def volumes_of_readings(rows: Sequence[dict[str, Any]]) -> VolumeCalibration:
    """Fit the intervals of the volumes."""
    pairs = {
        target: [(float(row[f"{target}_ml"]), float(row[f"{target}_true_ml"])) for row in rows]
        for target in CALIBRATED
    }
    return fit_volume_calibration(pairs, cohort="simulated patients in whom it was found")
