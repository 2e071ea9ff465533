"""How long a simulated exam takes, against the limits that were set; one thread unless a row says
otherwise.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ichnos.anatomy import bundles
from ichnos.cohort import Exam
from ichnos.simulation.cohort.design import RenderSettings, Subject
from ichnos.simulation.cohort.write import write_patient
from ichnos.simulation.crops import CropDrawer, Recipe
from ichnos.simulation.exams.ct import simulate_ct
from ichnos.simulation.exams.scanners import SCANNERS, CtProtocol
from ichnos.simulation.exams.truth import BASELINE_MASKS, masks_on_grid
from ichnos.simulation.heads.from_mni import mni_head
from ichnos.simulation.simulate import PatientSpec, simulate_patient

CROPS = 8  # of each patient
EVERY: tuple[Exam, ...] = ("ct", "followup", "flair", "t1", "diffusion")


def timed(call: Callable[[], object], repeats: int = 2) -> tuple[float, float]:
    """Return the least wall and processor seconds of a call."""
    found = []
    for _ in range(repeats):
        wall, own = time.perf_counter(), time.process_time()
        call()
        found.append((time.perf_counter() - wall, time.process_time() - own))
    return min(w for w, _ in found), min(p for _, p in found)


def main() -> list[dict[str, object]]:
    """Measure and return one row per figure."""
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []

    def row(name: str, call: Callable[[], object], limit_s: float | None, repeats: int = 2) -> None:
        wall, own = timed(call, repeats)
        ratio = wall / limit_s if limit_s else None
        rows.append(
            {"name": name, "value": wall, "unit": "s", "processor_s": own, "limit_s": limit_s, "ratio": ratio}
        )

    began = time.perf_counter()
    head = mni_head()  # grown from nothing, as on the first call ever
    rows.append(_once("the MNI head, once per machine (then kept on disk)", began))
    began = time.perf_counter()
    bundles.bundles()
    rows.append(_once("the atlases of tracts, once per process", began))
    patient = simulate_patient(11, head, PatientSpec(followup=False))
    scanner = SCANNERS["siemens"]
    protocol = CtProtocol(scanner, scanner.brain, pose_deg=(-12, 2, 3))
    exam = simulate_ct(patient, protocol, generator=torch.Generator().manual_seed(1))
    grid: dict[str, Any] = {
        "affine": exam.volume.affine,
        "shape": exam.volume.shape,
        "patient_from_exam": exam.patient_from_exam,
    }
    shape = "x".join(map(str, exam.volume.shape))
    row(
        f"CT {shape} of a patient",
        lambda: simulate_ct(patient, protocol, generator=torch.Generator().manual_seed(1)),
        1.5,
    )
    row(
        "its truth on the CT grid",
        lambda: masks_on_grid(patient, BASELINE_MASKS, **grid, thickness_mm=5.0),
        None,
    )

    def ct_only() -> None:
        made = simulate_patient(12, head, PatientSpec(followup=False))
        simulate_ct(made, protocol, generator=torch.Generator().manual_seed(1))

    row("CT-only patient, made and scanned", ct_only, 3.0)

    def paired() -> None:
        subject = Subject("001", "A", "train", EVERY, 5, True, None, 0.0, False)
        with tempfile.TemporaryDirectory() as folder:
            write_patient(subject, Path(folder), render=RenderSettings())

    row("full paired patient on disk, oracle map included", paired, 30.0, repeats=1)
    rows.append(
        {
            "name": "peak memory so far",
            "value": _peak_gb(),
            "unit": "GB",
            "limit_s": None,
            "ratio": _peak_gb() / 3.0,
        }
    )
    return rows + _crops()


def _once(name: str, began: float) -> dict[str, object]:
    return {"name": name, "value": time.perf_counter() - began, "unit": "s", "limit_s": None, "ratio": None}


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def _crops() -> list[dict[str, object]]:
    """Measure training crops, the making of their patient included, on two threads."""
    torch.set_num_threads(2)
    rows: list[dict[str, object]] = []
    rng, head = np.random.default_rng(0), mni_head()
    for spacing in (2.0, 1.0):
        recipe = Recipe(spacing_mm=spacing)
        began = time.perf_counter()
        made = simulate_patient(13, head, PatientSpec(spacing_mm=spacing))
        drawer = CropDrawer(made, recipe, generator=torch.Generator().manual_seed(0))
        ready = time.perf_counter()
        for _ in range(CROPS):
            drawer.draw(rng=rng)
        ended = time.perf_counter()
        rate = CROPS / (ended - began)
        name = f"training crops 96^3 at {spacing:g} mm, {CROPS} per patient, 2 threads"
        rows.append(
            {
                "name": name,
                "value": rate,
                "unit": "1/s",
                "processor_s": None,
                "limit_s": None,
                "ratio": 1 / rate,
            }
        )
        alone = CROPS / (ended - ready)
        rows.append(
            {
                "name": "  the crops alone",
                "value": alone,
                "unit": "1/s",
                "processor_s": None,
                "limit_s": None,
                "ratio": 1 / alone,
            }
        )
    torch.set_num_threads(1)
    return rows


if __name__ == "__main__":
    from run import table

    print(table(main()))
