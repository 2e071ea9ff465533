"""`make demo`: simulate one patient as a tilted DICOM series, read it, and print what was found beside
what is true. With --prepare: do only what is done once.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ichnos.cli.main import run
from ichnos.cli.read import ReadSettings, engine_of
from ichnos.cli.terminal.collector import collect_seldom
from ichnos.cli.terminal.threads import single_thread
from ichnos.models.store import DEFAULT, MANIFEST, SHIPPED
from ichnos.reading import Record
from ichnos.simulation.exams.ct import CtExam, simulate_ct
from ichnos.simulation.exams.dicom_export import export_ct
from ichnos.simulation.exams.scanners import CENTRES, draw_protocol
from ichnos.simulation.heads.from_mni import mni_head
from ichnos.simulation.patient import VirtualPatient
from ichnos.simulation.simulate import PatientSpec, simulate_patient

OUT = Path(__file__).resolve().parents[1] / "demo-out"
SEED = 21
TILT_DEG = 15.0


def simulated() -> tuple[VirtualPatient, CtExam]:
    """Make a patient of 71 years with a haematoma of 25 mL in the left putamen, and the CT of a tilted
    gantry.
    """
    spec = PatientSpec(
        site="putamen", side="left", ich_ml=25.0, leukoaraiosis_ml=14.0, age_years=71.0, followup=False
    )
    patient = simulate_patient(SEED, mni_head(OUT / "cache"), spec)
    drawn = draw_protocol(CENTRES["A"], rng=np.random.default_rng(SEED), still=True)
    protocol = replace(drawn, metal=False, offset_hu=0.0, tilt_deg=TILT_DEG)
    return patient, simulate_ct(
        patient, protocol, generator=torch.Generator().manual_seed(SEED), sheared=True
    )


def beside_the_truth(record: Record, patient: VirtualPatient) -> list[tuple[str, str, str]]:
    """Return what was read beside what was simulated."""
    truth = patient.truth
    rows = [
        ("haematoma", "ich_volume", "intracerebral haematoma, mL", f"{truth.ich_ml:.1f}"),
        ("haematoma", "ivh_volume", "ventricular blood, mL", f"{truth.ivh_ml:.1f}"),
        ("haematoma", "phe_volume", "oedema, mL", f"{truth.phe_ml:.1f}"),
        ("haematoma", "side", "side", patient.latent.side),
        ("haematoma", "site", "site", patient.latent.site),
        ("haematoma", "midline_shift", "midline shift, mm", f"{truth.midline_shift_mm:.1f}"),
        ("leukoaraiosis", "leukoaraiosis_volume", "leukoaraiosis, mL", f"{truth.leukoaraiosis_ml:.1f}"),
    ]
    found = {(f.target, m.name): m.value for f in record.findings for m in f.measures}
    return [(label, _shown(found.get((target, name))), true) for target, name, label, true in rows]


def _shown(value: object) -> str:
    return "not read" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def show(rows: Sequence[tuple[str, str, str]]) -> None:
    """Print a table of three columns."""
    for label, read, true in (("", "read", "simulated"), *rows):
        print(f"  {label:<30}{read:>12}{true:>12}")


def prepare() -> int:
    """Do once what every later demo finds done: grow the head around the template, compile the networks."""
    print("growing the demo's head and compiling the networks, once …", flush=True)
    mni_head(OUT / "cache")
    if (SHIPPED / DEFAULT / MANIFEST).is_file():
        engine_of(ReadSettings.model_validate({})).predictor()
    return 0


def main() -> int:
    """Make the patient anew, read the CT, show both, and say how long it took."""
    begun = time.monotonic()
    collect_seldom()
    shutil.rmtree(OUT / "reading", ignore_errors=True)
    shutil.rmtree(OUT / "dicom", ignore_errors=True)
    print(f"simulating a patient and a CT with {TILT_DEG:g}° of gantry tilt …", flush=True)
    with single_thread():
        patient, made = simulated()
    series = export_ct(made, OUT, patient_id="demo", exam="ct", latent=patient.latent)[0].parent
    if not (SHIPPED / DEFAULT / MANIFEST).is_file():
        print(f"the series: {series}")
        print(
            "no default weights are installed, so nothing can read it: `make weights` trains them. What the"
            " scan is:",
            flush=True,
        )
        return run(["inspect", str(series), "--montage", str(OUT / "slices.png")])
    code = run(["read", str(series), "-o", str(OUT / "reading")])
    for file in sorted((OUT / "reading").glob("*/reading.json")):
        print("\nbeside the simulated truth:")
        show(beside_the_truth(Record.model_validate_json(file.read_bytes()), patient))
    print(f"\nsimulated and read in {time.monotonic() - begun:.1f} s", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(prepare() if "--prepare" in sys.argv else main())
