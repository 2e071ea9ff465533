"""What a virtual patient costs, and how close its voxels are to what was drawn; `ichnos simulate --check`
compares both with published figures.

python benchmarks/simulation_biology.py
"""

from __future__ import annotations

import resource
import statistics
import time

import torch

from ichnos.anatomy import tract
from ichnos.simulation.check.measure import drawn_rows
from ichnos.simulation.heads.from_mni import mni_head
from ichnos.simulation.patient import Tissue, VirtualPatient
from ichnos.simulation.simulate import PatientSpec, simulate_patient

PATIENTS = 6


def main() -> list[dict[str, object]]:
    torch.set_num_threads(1)
    rows = _fast_law()
    rows.append(_row("head grown around MNI152, first time", *_timed(mni_head), "s"))
    rows.append(
        _row(
            "tract atlas, both sides, first time",
            *_timed(lambda: [tract.atlas(side) for side in tract.SIDES]),
            "s",
        )
    )
    rows += _voxels()
    rows += [_midline(ml) for ml in (30.0, 60.0)]
    rows.append(
        _row(
            "peak memory of this process",
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            None,
            "GiB",
            "<= 3",
        )
    )
    return rows


def _fast_law() -> list[dict[str, object]]:
    started = time.process_time()
    drawn_rows()
    seconds = time.process_time() - started
    return [_row("20,000 image-free patients, with their realism rows", seconds, None, "s CPU")]


def _voxels() -> list[dict[str, object]]:
    head = mni_head()
    simulate_patient(0, head, PatientSpec(spacing_mm=3.0))
    lean, full, errors, inside = [], [], [], []
    for seed in range(1, PATIENTS + 1):
        lean.append(_timed(lambda seed=seed: simulate_patient(seed, head, PatientSpec(followup=False)))[:2])
        started = time.process_time()
        patient = simulate_patient(seed, head, PatientSpec(mni=True, fibres=True))
        full.append(time.process_time() - started)
        errors.append(abs(patient.truth.ich_ml / patient.latent.drawn_ich_ml - 1) * 100)
        errors.append(abs(patient.truth.followup_ich_ml / patient.latent.drawn_followup_ich_ml - 1) * 100)
        inside.append(_tract_in_brain(patient))
    return [
        _row(
            "patient at 1 mm, baseline only, median",
            statistics.median(t[0] for t in lean),
            statistics.median(t[1] for t in lean),
            "s",
            "<= 1.5",
        ),
        _row("patient at 1 mm, follow-up, MNI map, fibres, median", statistics.median(full), None, "s CPU"),
        _row("ICH in voxels against the law, worst of both times", max(errors), None, "%"),
        _row("tract inside brain tissue, worst side", 100 * min(inside), None, "%"),
    ]


def _midline(ich_ml: float) -> dict[str, object]:
    """Measure how far a clot in the putamen moves the midline; in patients some 3 to 6 mm at 30 to 60 mL."""
    spec = PatientSpec(site="putamen", side="left", ich_ml=ich_ml, followup=False)
    shifts = [
        simulate_patient(seed, mni_head(), spec).truth.midline_shift_mm for seed in range(1, PATIENTS + 1)
    ]
    return _row(f"midline shift, putamen {ich_ml:g} mL, median", statistics.median(shifts), None, "mm")


def _tract_in_brain(patient: VirtualPatient) -> float:
    brain = patient.baseline.tissue >= Tissue.CORTEX
    return min(float(brain[side >= 0.5].float().mean()) for side in patient.tract)


def _timed(work: object) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    work()  # type: ignore[operator]
    return time.perf_counter() - wall, time.process_time() - processor


def _row(name: str, value: float, cpu_s: float | None, unit: str, wanted: str = "") -> dict[str, object]:
    return {"name": name, "value": value, "unit": unit, "cpu_s": cpu_s, "wanted": wanted}


if __name__ == "__main__":
    from run import table

    print(table(main()))
