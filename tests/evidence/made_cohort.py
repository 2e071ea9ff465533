"""Makes a small cohort with truth, and predictions that err in known ways, for tests and for looking at
the pack.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ichnos.cohort import Patient
from ichnos.evidence.leakage import TrainingImage, write_training
from ichnos.formats import bids, nifti
from ichnos.volume import Volume

CENTRES = ("Almere", "Brno", "Cork")


@dataclass(frozen=True)
class Made:
    """Where the cohort and the predictions lie."""

    cohort: Path
    predictions: Path
    ids: tuple[str, ...]


def make(
    root: Path,
    *,
    patients: int = 36,
    masks: bool = True,
    seed: int = 0,
    shape: tuple[int, int, int] = (64, 64, 12),
    shift: int = 1,
) -> Made:
    """Make a cohort in three centres, two in five validation; the predicted bleed is shifted by `shift`
    voxels and a little small.
    """
    rng = np.random.default_rng(seed)
    cohort, predictions = root / "cohort", root / "predictions"
    ids = tuple(f"P{i:04d}" for i in range(patients))
    people, rows = [], []
    for i, name in enumerate(ids):
        split = "validation" if i % 5 >= 3 else "test"
        facts, row = _facts(rng)
        row |= {"patient": name, "split": split, "model_hash": "ab" * 32}
        if masks and split == "test":
            row |= _write_masks(
                cohort, predictions, name, rng, shape=shape, shift=shift, ml=float(facts["ich_ml"])
            )
        people.append(Patient(name, CENTRES[i % len(CENTRES)], split, facts=facts))
        rows.append(row)
    bids.write_cohort(people, cohort, name="made")
    write_predictions(predictions, rows)
    synthetic = TrainingImage("S1", sources=("T1",))
    write_training(
        [*(TrainingImage(f"T{i}", f"T{i}") for i in range(20)), synthetic], predictions / "training.csv"
    )
    return Made(cohort, predictions, ids)


def write_predictions(folder: Path, rows: list[dict[str, object]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, ["patient", *(c for c in columns if c != "patient")], restval="")
        table.writeheader()
        table.writerows(rows)


def read_rows(folder: Path) -> list[dict[str, object]]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        return [dict(row) for row in csv.DictReader(stream)]


def _facts(rng: np.random.Generator) -> tuple[dict[str, float | str], dict[str, object]]:
    volume, hours = float(np.round(rng.gamma(2.0, 10.0), 2)), float(np.round(rng.gamma(2.0, 1.5), 2))
    risk = 1 / (1 + np.exp(-(-2.2 + 0.03 * volume - 0.25 * (hours - 3) + rng.normal(0, 1.2))))
    grows = rng.random() < risk
    fazekas = int(rng.integers(0, 4))
    facts: dict[str, float | str] = {
        "age_years": float(np.round(rng.normal(64, 12), 1)),
        "sex": "f" if rng.random() < 0.4 else "m",
        "onset_to_ct_h": hours,
        "ich_ml": volume,
        "ich_followup_ml": float(np.round(volume * (1.6 if grows else 1.02) + (2 if grows else 0), 2)),
        "blend_sign": int(rng.random() < 0.15 + 0.2 * grows),
        "hypodensity": int(rng.random() < 0.25 + 0.2 * grows),
        "ivh": int(rng.random() < 0.4),
        "anticoagulation": int(rng.random() < 0.12),
        "recurrent_ich": int(rng.random() < 0.05),
        "fazekas_deep": fazekas,
    }
    predicted = {
        "expansion_probability": float(
            np.round(1 / (1 + np.exp(-1.5 * np.log(risk / (1 - risk)) - rng.normal(0, 0.6))), 5)
        ),
        "fazekas_deep": int(np.clip(fazekas + rng.integers(-1, 2), 0, 3)),
    }
    return facts, predicted


def _write_masks(
    cohort: Path,
    predictions: Path,
    name: str,
    rng: np.random.Generator,
    *,
    shape: tuple[int, int, int],
    shift: int,
    ml: float,
) -> dict[str, object]:
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1) * np.array(
        [2.0, 2.0, 5.0]
    )
    middle = np.array(shape) * [1.0, 1.0, 2.5] + rng.uniform(-12, 12, 3) * [1, 1, 0.3]
    radius = (3000 * min(ml, 60) / (4 * np.pi)) ** (1 / 3)
    distance = np.linalg.norm(grid - middle, axis=-1)
    truth = (distance <= radius).astype(np.uint8)
    truth[(distance > radius) & (distance <= radius + 4)] = 3
    guess = np.roll(truth, shift, axis=0)
    guess[(distance > radius - 1.0) & (guess == 1) & (rng.random(shape) < 0.3)] = 0
    brain = np.linalg.norm((grid - np.array(shape) * [1.0, 1.0, 2.5]) / [60, 60, 40], axis=-1) < 1
    hu = (
        np.where(brain, 32.0, -900.0)
        + np.where(truth == 1, 30.0, 0)
        + np.where(truth == 3, -12.0, 0)
        + rng.normal(0, 3, shape)
    )
    bids.write_exam(cohort, name, "ct", Volume(hu.astype(np.int16), affine))
    bids.write_derivative(
        cohort, name, Volume(truth, affine), pipeline="truth", label="haematoma", kind="dseg"
    )
    tract = np.zeros(shape, np.uint8)
    tract[20:23, 30:33, 1:-1], tract[42:45, 30:33, 1:-1] = 1, 2
    bids.write_derivative(cohort, name, Volume(tract, affine), pipeline="truth", label="tract", kind="dseg")
    followup = (distance <= radius * 1.15).astype(np.uint8)
    bids.write_derivative(
        cohort, name, Volume(followup, affine), pipeline="truth", label="expansion", kind="dseg"
    )
    files: dict[str, object] = {}
    for target, array in (
        ("haematoma", guess),
        ("tract", np.roll(tract, 1, axis=0)),
        ("expansion", (distance <= radius * rng.uniform(1.0, 1.3)).astype(np.uint8)),
    ):
        files[f"mask_{target}"] = f"masks/{name}_{target}.nii.gz"
        nifti.save(Volume(array.astype(np.uint8), affine), predictions / "masks" / f"{name}_{target}.nii.gz")
    return files
