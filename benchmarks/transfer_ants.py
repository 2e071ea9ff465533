"""Our deformable step beside ANTs SyN, on the same heads from the same rigid start: accuracy, time, and their
ratio.

    python -m venv build/ants && build/ants/bin/pip install antspyx
    python benchmarks/transfer_ants.py [--ants build/ants] [--patients 4]

ANTs stays in an environment of its own and is borrowed from there; without it our own step is measured alone.
It takes patients that `benchmarks/transfer.py` has made. Their FLAIR shows the head as the CT does, so that a
deformable step can only add error; hence each FLAIR is also bent by a smooth displacement of up to 4 mm,
which is to be found again.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from _transfer_measures import derivative, errors, true_transform
from ichnos.formats import bids, nifti
from ichnos.registration import Displacement, Transform, register
from ichnos.volume import Volume

REPOSITORY = Path(__file__).resolve().parents[1]
BEND_MM, WIDTH_MM = 4.0, 25.0
Step = Literal["rigid", "greedy", "ants"]
STEPS: tuple[Step, ...] = ("rigid", "greedy", "ants")


def main(
    patients: int = 2, ants: Path = REPOSITORY / "build" / "ants", cohort: Path | None = None
) -> list[dict[str, Any]]:
    """Return a row per patient, bending and back end, and their medians."""
    os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
    sys.path += [
        str(folder) for folder in ants.glob("lib/python*/site-packages")
    ]  # last: everything else is our own
    steps = STEPS if importlib.util.find_spec("ants") else STEPS[:2]
    root = cohort or REPOSITORY / "build" / "bench-transfer"
    ids = sorted(folder.name.removeprefix("sub-") for folder in root.glob("sub-*"))[:patients]
    if not ids:
        raise SystemExit(f"{root} holds no patient; run benchmarks/transfer.py first")
    rows = []
    for patient_id in ids:
        for bent in (False, True):
            rows += _compared(root, patient_id, steps, bent=bent)
            print(f"{patient_id}{', bent' if bent else ''}: done", file=sys.stderr, flush=True)
    return rows + _summary(rows, steps)


def _compared(root: Path, patient_id: str, steps: Sequence[Step], *, bent: bool) -> list[dict[str, Any]]:
    ct, flair = (nifti.load(bids.exam_path(root, patient_id, exam)) for exam in ("ct", "flair"))
    truth, brain = true_transform(root, patient_id, "flair"), derivative(root, patient_id, "brain", "dseg")
    blood = derivative(root, patient_id, "haematoma", "dseg")
    if bent:
        bend = Transform.of(smooth_displacement(flair, np.random.default_rng(7)))
        flair, truth = bend.pull(flair.astype(np.float32), flair), ~bend @ truth
    start = register(ct, flair)
    rows = []
    for name in steps:
        began = time.process_time()
        found = start
        if name != "rigid":
            excluded = blood.with_array(blood.array > 0)
            found = register(
                ct, flair, kind="deformable", start=start.transform, exclude=excluded, backend=name
            )
        told = errors(found, truth, brain, "x")
        row = {"patient": patient_id, "bent": bent, "step": name}
        row |= {key.removeprefix("x_"): value for key, value in told.items()}
        rows.append(row | {"cpu_s": time.process_time() - began if name != "rigid" else None})
    return rows


def smooth_displacement(grid: Volume, rng: np.random.Generator) -> Displacement:
    """Return a random smooth displacement whose largest step is BEND_MM."""
    coarse = grid.grid_with_spacing(6.0)
    noise = rng.normal(size=(*coarse.shape, 3))
    field = ndimage.gaussian_filter(noise, (WIDTH_MM / 6, WIDTH_MM / 6, WIDTH_MM / 6, 0))
    return Displacement(
        Volume((field * BEND_MM / np.linalg.norm(field, axis=-1).max()).astype(np.float32), coarse.affine)
    )


def _summary(rows: list[dict[str, Any]], steps: Sequence[Step]) -> list[dict[str, Any]]:
    numbers = [key for key in rows[0] if key not in ("patient", "bent", "step")]
    out = []
    for bent in (False, True):
        for step in steps:
            part = [row for row in rows if (row["bent"], row["step"]) == (bent, step)]
            medians = {
                key: float(np.median([row[key] for row in part]))
                for key in numbers
                if part[0][key] is not None
            }
            out.append({"patient": "median", "bent": bent, "step": step, **medians})
    if "ants" not in steps:
        return out
    seconds = {step: sum(row["cpu_s"] for row in rows if row["step"] == step) for step in ("greedy", "ants")}
    return [
        *out,
        {"patient": "ratio", "step": "greedy to ants", "cpu_s": seconds["greedy"] / seconds["ants"]},
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--patients", type=int, default=4)
    parser.add_argument("--ants", type=Path, default=REPOSITORY / "build" / "ants")
    given = parser.parse_args()
    from run import table

    print(table(main(given.patients, given.ants)))
