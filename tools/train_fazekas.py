"""Fit the Fazekas law of a model: what it measures on simulated scans against the grades of the maps they were made from.

python tools/train_fazekas.py --heads FOLDER_OF_LABEL_MAPS --patients 48          (goes on where it was stopped)
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
from gates import scan_of

from ichnos.files import atomic_file
from ichnos.inference import Predictor
from ichnos.learning.defaults import HELD_OUT
from ichnos.learning.fazekas import fit_ordinal, left_out
from ichnos.models import default_model, load_model
from ichnos.reading import read
from ichnos.reading.fazekas import FAZEKAS_LAW, FazekasLaw
from ichnos.runs import Numbered, apply
from ichnos.simulation.label_heads import labelled_head
from ichnos.simulation.mni_head import mni_head
from ichnos.simulation.scanners import CENTRES, draw_protocol
from ichnos.simulation.simulate import Wishes, simulate_patient

PLACES = ("periventricular", "deep")
LEUKOARAIOSIS_ML = (0.3, 60.0)  # drawn evenly in its logarithm, so that every grade occurs
SEED = 660_000


@kept_once
def reader(model: Path) -> Predictor:
    """Return the model's predictor, made once in each process."""
    return Predictor(load_model(model), threads=1)


def measured(case: Numbered, folder: Path, *, model: Path, heads: tuple[Path, ...], cache: Path) -> dict[str, Any]:
    """Return a patient's measured volumes and true grades."""
    del folder
    torch.set_num_threads(1)
    rng = np.random.default_rng([SEED, case.number])
    wanted_ml = float(np.exp(rng.uniform(*np.log(LEUKOARAIOSIS_ML))))
    head = labelled_head(heads[case.number % len(heads)], cache) if heads else mni_head(cache)
    wishes = Wishes(spacing_mm=1.5, haematoma_probability=0.3, leukoaraiosis_ml=wanted_ml, followup=False)
    patient = simulate_patient(SEED + case.number, head, wishes)
    protocol = draw_protocol(CENTRES[sorted(CENTRES)[case.number % len(CENTRES)]], rng=rng)
    scan, _ = scan_of(patient, protocol, case.number)
    finding = read(scan, reader(model), only=["leukoaraiosis"]).record.finding("leukoaraiosis")
    ml = {place: [m.value for m in finding.measures if m.name == f"{place}_volume"] for place in PLACES}
    return {
        **{f"{place}_ml": float(ml[place][0]) if ml[place] else 0.0 for place in PLACES},
        "periventricular_grade": patient.truth.fazekas_periventricular,
        "deep_grade": patient.truth.fazekas_deep,
        "status": finding.status,
    }


def main() -> None:
    """Simulate, read, fit, check on patients left out, and write fazekas.json beside the model's weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=Path, default=None, help="folder of label maps; the last four are left to the gates")
    parser.add_argument("--patients", type=int, default=48)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--cache", type=Path, default=Path("build/heads"))
    parser.add_argument("--work", type=Path, default=Path("build/fazekas"))
    given = parser.parse_args()
    heads = tuple(sorted(given.heads.glob("*.nii*")))[:-HELD_OUT] if given.heads else ()
    model = load_model(given.model) if given.model else default_model()
    task = partial(measured, model=model.folder, heads=heads, cache=given.cache)
    settings = {"model": model.manifest.weights_sha256, "heads": [head.name for head in heads]}
    cases = [Numbered(number) for number in range(given.patients)]
    done = apply(task, cases, out=given.work, settings=settings, name="read", workers=given.workers, progress=sys.stderr.isatty())
    rows = [row for row in done.rows if row["status"] != "could not look"]
    laws, told = {}, []
    for place in PLACES:
        volumes, grades = [float(row[f"{place}_ml"]) for row in rows], [int(row[f"{place}_grade"]) for row in rows]
        laws[place] = fit_ordinal(volumes, grades)
        right, near = left_out(volumes, grades)
        told.append(f"{place} {100 * right:.0f} % right and {100 * near:.0f} % within one grade")
    cohort = f"{len(rows)} simulated patients, grades of the maps they were made from; in those left out: {', '.join(told)}"
    law = FazekasLaw(cohort=cohort, periventricular=laws["periventricular"], deep=laws["deep"])
    with atomic_file(model.folder / FAZEKAS_LAW) as file:
        file.write_text(json.dumps(law.model_dump(), indent=2) + "\n")
    print(f"{model.folder / FAZEKAS_LAW}: {cohort}")


if __name__ == "__main__":
    main()
