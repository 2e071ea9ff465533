"""Hyperintensities and tracts in the space of their own MRI, against the truth of simulated patients;
robustness of the segmenter.

    python benchmarks/transfer_targets.py [--patients N] [--anatomy FOLDER]

Each patient is simulated in memory. Without a folder of label maps every patient comes from the MNI head,
from which the atlas also comes: figures for tracts are then kinder than those on other heads.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from ichnos.simulation.exams.diffusion import draw_diffusion_protocol, simulate_diffusion
from ichnos.simulation.exams.mri import draw_mri_protocol, simulate_mri
from ichnos.simulation.exams.truth import masks_on_grid
from ichnos.simulation.heads.from_labels import head_files, labelled_head
from ichnos.simulation.heads.from_mni import mni_head
from ichnos.simulation.patient import VirtualPatient
from ichnos.simulation.simulate import PatientSpec, simulate_patient
from ichnos.transfer.flair import hyperintensities_of
from ichnos.transfer.tractography import TRACT_CUT_OFF, fsl_gradients, track
from ichnos.volume import Volume, volume_ml

FIRST_SEED = 101


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Dice coefficient of two masks; NaN if both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")


def patient_of(seed: int, anatomy: Path | None) -> VirtualPatient:
    """Simulate a patient with fibres."""
    head = (
        mni_head() if anatomy is None else labelled_head(head_files(anatomy)[seed % len(head_files(anatomy))])
    )
    return simulate_patient(seed, head, PatientSpec(fibres=True, followup=False))


def flair_row(patient: VirtualPatient, seed: int) -> dict[str, float]:
    """Segment one FLAIR plainly, with the blood known, with another look, and with its skull taken off."""
    made = simulate_mri(
        patient,
        draw_mri_protocol("flair", rng=np.random.default_rng(seed)),
        generator=torch.Generator().manual_seed(seed),
    )
    grid: dict[str, Any] = {
        "affine": made.volume.affine,
        "shape": made.volume.shape,
        "patient_from_exam": made.patient_from_exam,
    }
    names = ("leukoaraiosis", "ich", "ivh", "phe", "brain")
    truth = masks_on_grid(patient, names, thickness_mm=made.protocol.thickness_mm, **grid)
    lesions = truth["leukoaraiosis"].array > 0
    bled = ndimage.binary_dilation((truth["ich"].array + truth["ivh"].array + truth["phe"].array) > 0)
    start = time.perf_counter()
    plain = hyperintensities_of(made.volume.astype(np.float32), threads=2)
    seconds = time.perf_counter() - start
    told = hyperintensities_of(
        made.volume.astype(np.float32), exclude=made.volume.with_array(bled), threads=2
    )
    stripped = made.volume.with_array(
        np.where(truth["brain"].array > 0, made.volume.array, 0).astype(np.float32)
    )
    rng = np.random.default_rng(seed + 1)
    other = made.volume.with_array(
        0.001
        * (np.maximum(made.volume.array, 0) ** 0.8 + rng.normal(0, 1, made.volume.shape)).astype(np.float32)
    )
    return {
        "WMH Dice, exam alone": dice(plain.mask.array, lesions),
        "WMH Dice, blood excluded": dice(told.mask.array, lesions),
        "WMH Dice, brain extracted": dice(hyperintensities_of(stripped, threads=2).mask.array, lesions),
        "WMH Dice, other contrast and scale": dice(hyperintensities_of(other, threads=2).mask.array, lesions),
        "WMH volume bias, %": _bias(told.mask, truth["leukoaraiosis"]),
        "WMH volume error, mL": abs(volume_ml(told.mask) - volume_ml(truth["leukoaraiosis"])),
        "WMH time, s": seconds,
    }


def _bias(mask: Volume, truth: Volume) -> float:
    """Return by how many per cent a mask is larger than the truth; NaN without any truth."""
    true_ml = volume_ml(truth)
    return 100 * (volume_ml(mask) / true_ml - 1) if true_ml > 0 else float("nan")


def tract_row(patient: VirtualPatient, seed: int) -> dict[str, float]:
    """Track both sides of one diffusion exam."""
    made = simulate_diffusion(
        patient,
        draw_diffusion_protocol(rng=np.random.default_rng(seed)),
        generator=torch.Generator().manual_seed(seed),
    )
    fine = Volume(np.empty(made.volume.shape, np.uint8), made.volume.affine).grid_with_spacing(1.0)
    grid: dict[str, Any] = {
        "affine": fine.affine,
        "shape": fine.shape,
        "patient_from_exam": made.patient_from_exam,
    }
    truth = masks_on_grid(patient, ("tract_left", "tract_right"), thickness_mm=1.0, **grid)
    table = fsl_gradients(made.b_values, made.b_vectors, affine=made.volume.affine)
    start = time.perf_counter()
    found = track(made.volume, table, threads=2)
    seconds = time.perf_counter() - start
    on = {s: t.density.on_grid(fine).array >= TRACT_CUT_OFF for s, t in found.tracts.items()}
    same = {s: dice(on[s], truth[f"tract_{s}"].array > 0) for s in ("left", "right")}
    swapped = dice(on["left"], truth["tract_right"].array > 0) > same["left"]
    return {
        "tract Dice, left": same["left"],
        "tract Dice, right": same["right"],
        "tract swapped": float(swapped),
        "tracts interrupted": float(sum(t.interrupted for t in found.tracts.values())),
        "tract time, s": seconds,
    }


def main(patients: int = 3, anatomy: Path | None = None) -> list[dict[str, Any]]:
    """Measure, print a table, and return its rows."""
    values: dict[str, list[float]] = {}
    for seed in range(FIRST_SEED, FIRST_SEED + patients):
        patient = patient_of(seed, anatomy)
        row = flair_row(patient, seed) | tract_row(patient, seed)
        for name, value in row.items():
            values.setdefault(name, []).append(value)
        print(f"seed {seed}: " + ", ".join(f"{name} {value:.2f}" for name, value in row.items()), flush=True)
    rows = []
    for name, found in values.items():
        unit = name.rsplit(", ", 1)[1] if name.endswith((" mL", " s")) else ""
        rows.append(
            {
                "name": name,
                "value": float(np.nanmedian(found)),
                "unit": unit,
                "least": min(found),
                "most": max(found),
            }
        )
        print(f"{name:40s} median {np.nanmedian(found):7.2f}   {min(found):7.2f} … {max(found):7.2f}")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patients", type=int, default=3)
    parser.add_argument("--anatomy", type=Path, default=None)
    asked = parser.parse_args()
    main(asked.patients, asked.anatomy)
