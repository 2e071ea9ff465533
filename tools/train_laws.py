"""Fit the laws of a model's measures on simulated scans: volumes against the true ones, Fazekas grades
against those of the maps.

python tools/train_laws.py --heads FOLDER_OF_LABEL_MAPS --patients 68          (goes on where it was stopped)
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import cache as kept_once
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ichnos.files import atomic_file
from ichnos.inference import Predictor
from ichnos.learning.fit.fazekas import fit_ordinal, left_out
from ichnos.learning.fit.volume import fit_volume_calibration
from ichnos.learning.virtual.batches import scanned
from ichnos.learning.virtual.default_model import HELD_OUT
from ichnos.models import default_model, load_model
from ichnos.prognosis.fazekas import FAZEKAS_FILE, FazekasModel
from ichnos.prognosis.volume import VOLUME_FILE, VolumeCalibration
from ichnos.reading import read_scan
from ichnos.reading.record import Record
from ichnos.runs import Numbered, apply
from ichnos.simulation.exams.scanners import CENTRES, draw_protocol
from ichnos.simulation.heads.from_labels import labelled_head
from ichnos.simulation.heads.from_mni import mni_head
from ichnos.simulation.simulate import PatientSpec, simulate_patient
from ichnos.volume import volume_ml

TARGETS = ("ICH", "IVH", "PHE", "leukoaraiosis")
PLACES = ("periventricular", "deep")
LEUKOARAIOSIS_ML = (0.3, 60.0)  # drawn evenly in its logarithm, so that every grade occurs
BLEEDING = 0.6  # share of patients
SEED = 660_000


@kept_once
def reader(model: Path) -> Predictor:
    """Return the model's predictor, made once in each process."""
    return Predictor(load_model(model), threads=1)


def measured(
    case: Numbered, folder: Path, *, model: Path, heads: tuple[Path, ...], cache: Path
) -> dict[str, Any]:
    """Return a patient's volumes, measured and true, and true grades; BLEEDING of the patients bleed."""
    del folder
    torch.set_num_threads(1)
    rng = np.random.default_rng([SEED, case.number])
    wanted_ml = float(np.exp(rng.uniform(*np.log(LEUKOARAIOSIS_ML))))
    head = labelled_head(heads[case.number % len(heads)], cache) if heads else mni_head(cache)
    spec = PatientSpec(
        spacing_mm=1.5, haematoma_probability=BLEEDING, leukoaraiosis_ml=wanted_ml, followup=False
    )
    patient = simulate_patient(SEED + case.number, head, spec)
    protocol = draw_protocol(CENTRES[sorted(CENTRES)[case.number % len(CENTRES)]], rng=rng)
    scan, truth = scanned(patient, protocol, case.number, [target.lower() for target in TARGETS])
    record = read_scan(scan, reader(model), only=["haematoma", "leukoaraiosis"]).record
    return {
        **{f"{target}_ml": _value(record, f"{target.lower()}_volume") for target in TARGETS},
        **{f"{target}_true_ml": volume_ml(truth[target.lower()]) for target in TARGETS},
        **{f"{place}_ml": _value(record, f"{place}_volume") for place in PLACES},
        "periventricular_grade": patient.truth.fazekas_periventricular,
        "deep_grade": patient.truth.fazekas_deep,
        "status": record.finding("leukoaraiosis").status,
    }


def _value(record: Record, name: str) -> float:
    """Return a measure of any finding; 0 where it was not made because nothing was found."""
    return next(
        (
            float(m.value)
            for f in record.findings
            for m in f.measures
            if m.name == name and m.value is not None
        ),
        0.0,
    )


def fazekas_law(rows: list[dict[str, Any]]) -> FazekasModel:
    """Fit the grades of either place, and say how often they are right in patients left out."""
    laws, told = {}, []
    for place in PLACES:
        volumes, grades = (
            [float(row[f"{place}_ml"]) for row in rows],
            [int(row[f"{place}_grade"]) for row in rows],
        )
        laws[place] = fit_ordinal(volumes, grades)
        right, near = left_out(volumes, grades)
        told.append(f"{place} {100 * right:.0f} % right and {100 * near:.0f} % within one grade")
    cohort = (
        f"{len(rows)} simulated patients, grades of the maps they were made from; in those left out:"
        f" {', '.join(told)}"
    )
    return FazekasModel(cohort=cohort, periventricular=laws["periventricular"], deep=laws["deep"])


def volume_law(rows: list[dict[str, Any]]) -> VolumeCalibration:
    """Fit the intervals of the volumes."""
    pairs = {
        target: [(float(row[f"{target}_ml"]), float(row[f"{target}_true_ml"])) for row in rows]
        for target in TARGETS
    }
    return fit_volume_calibration(pairs, cohort="simulated patients in whom it was found")


def main() -> None:
    """Simulate, read, fit, and write volumes.json and fazekas.json beside the model's weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--heads", type=Path, default=None, help="folder of label maps; the last four are left to the gates"
    )
    parser.add_argument("--patients", type=int, default=68)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--cache", type=Path, default=Path("build/heads"))
    parser.add_argument("--work", type=Path, default=Path("build/laws"))
    given = parser.parse_args()
    heads = tuple(sorted(given.heads.glob("*.nii*")))[:-HELD_OUT] if given.heads else ()
    model = load_model(given.model) if given.model else default_model()
    task = partial(measured, model=model.folder, heads=heads, cache=given.cache)
    settings = {"model": model.all_weights(), "heads": [head.name for head in heads]}
    cases = [Numbered(number) for number in range(given.patients)]
    done = apply(
        task,
        cases,
        out=given.work,
        settings=settings,
        name="read",
        workers=given.workers,
        progress=sys.stderr.isatty(),
    )
    rows = [row for row in done.rows if row["status"] != "could not look"]
    for name, law in ((FAZEKAS_FILE, fazekas_law(rows)), (VOLUME_FILE, volume_law(list(done.rows)))):
        with atomic_file(model.folder / name) as file:
            file.write_text(json.dumps(law.model_dump(), indent=2) + "\n")
        print(f"{model.folder / name}: {law.cohort}")


if __name__ == "__main__":
    main()
