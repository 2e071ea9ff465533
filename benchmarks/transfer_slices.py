"""What thick slices leave of a true FLAIR mask on the CT when the transform is the true one: no registration
can do better.

    python benchmarks/transfer_slices.py [--heads FOLDER] [--seeds 701 702 …]

Even seeds take a label map as their head where a folder of them is given or lies in ../shared/data/heads; odd
ones take the MNI head.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ichnos.registration import Transform
from ichnos.simulation.exams.ct import CtExam, simulate_ct
from ichnos.simulation.exams.mri import MriExam, draw_mri_protocol, simulate_mri
from ichnos.simulation.exams.scanners import centre, draw_protocol
from ichnos.simulation.exams.truth import masks_on_grid
from ichnos.simulation.heads.from_labels import head_files, labelled_head
from ichnos.simulation.heads.from_mni import mni_head
from ichnos.simulation.simulate import PatientSpec, simulate_patient
from ichnos.transfer.flair import given_hyperintensities, leukoaraiosis_on_ct
from ichnos.volume import Volume, volume_ml

SEEDS = (701, 702, 703, 704, 705, 707)
HEADS = Path(__file__).resolve().parents[2] / "shared" / "data" / "heads"


def main(heads: Path | None = None, seeds: Sequence[int] = SEEDS) -> list[dict[str, Any]]:
    """Simulate, carry each mask in both ways, and return a row per patient."""
    torch.set_num_threads(1)
    heads = heads or (HEADS if HEADS.is_dir() else None)
    rows = []
    for seed in seeds:
        rows.append(_row(seed, heads))
        print(f"seed {seed}: {rows[-1]['Dice']:.2f}", file=sys.stderr, flush=True)
    return rows


def _row(seed: int, heads: Path | None) -> dict[str, Any]:
    head = (
        mni_head()
        if seed % 2 or heads is None
        else labelled_head(head_files(heads)[seed % len(head_files(heads))])
    )
    patient = simulate_patient(seed, head, PatientSpec(followup=False))
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    ct = simulate_ct(patient, draw_protocol(centre("ABCDE"[seed % 5]), rng=rng), generator=generator)
    flair = simulate_mri(patient, draw_mri_protocol("flair", rng=rng), generator=generator)

    def truth(exam: CtExam | MriExam) -> Volume:
        grid: dict[str, Any] = {
            "affine": exam.volume.affine,
            "shape": exam.volume.shape,
            "patient_from_exam": exam.patient_from_exam,
        }
        grid["motion"] = exam.motion if isinstance(exam, CtExam) else None
        return masks_on_grid(patient, ("leukoaraiosis",), thickness_mm=exam.protocol.thickness_mm, **grid)[
            "leukoaraiosis"
        ]

    flair_from_ct = Transform.of(~flair.patient_from_exam @ ct.patient_from_exam)
    drawn, wanted = truth(flair), truth(ct)
    linear = flair_from_ct.pull(drawn.astype(np.float32), ct.volume).array >= 0.5
    given = given_hyperintensities(drawn, flair.volume.astype(np.float32))
    found = leukoaraiosis_on_ct(given, flair_from_ct=flair_from_ct, ct=ct.volume)
    return {
        "seed": seed,
        "CT mm": ct.protocol.thickness_mm,
        "FLAIR mm": flair.protocol.thickness_mm,
        "gap mm": flair.protocol.gap_mm,
        "mL on CT": volume_ml(wanted),
        "Dice, linear": _dice(linear, wanted.array > 0),
        "Dice": _dice(found.mask.array, wanted.array > 0),
    }


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * int((a & b).sum()) / max(1, int(a.sum()) + int(b.sum()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--heads", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    given = parser.parse_args()
    from run import table

    print(table(main(given.heads, given.seeds)))
