"""A small cohort that can be learnt in seconds: round heads with a bright clot on one side, a dim tract on
each, dark lesions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ichnos.cohort import Cohort, Patient, Split
from ichnos.formats import bids
from ichnos.volume import Volume

STEP_MM = 4.0
SHAPE = (24, 26, 20)
CLOT_HU, TRACT_HU, BRAIN_HU = 65.0, 20.0, 32.0
PIPELINE = "manual"


def write_trainable_cohort(
    root: Path,
    splits: Sequence[Split] = ("train", "train", "train", "validation", "test"),
    *,
    without_tract: Sequence[int] = (),
    targets: bool = True,
) -> Cohort:
    """Write one patient per split, with haematoma and tract drawn; `without_tract` are patients whose
    tract is not known.
    """
    people = []
    for number, split in enumerate(splits):
        patient = Patient(f"{number:02d}", "AB"[number % 2], split)
        ct, blood, tract = head(number)
        bids.write_exam(root, patient.id, "ct", ct)
        if targets:
            bids.write_derivative(root, patient.id, blood, pipeline=PIPELINE, label="haematoma", kind="dseg")
            if number not in without_tract:
                bids.write_derivative(root, patient.id, tract, pipeline=PIPELINE, label="tract", kind="dseg")
        people.append(patient)
    bids.write_cohort(people, root, name="made heads")
    return bids.read_cohort(root)


def head(number: int) -> tuple[Volume, Volume, Volume]:
    """Return CT, haematoma labels and tract labels of a made head."""
    rng = np.random.default_rng(100 + number)
    axes = [(np.arange(n) - (n - 1) / 2) * STEP_MM for n in SHAPE]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt((x / 40) ** 2 + (y / 44) ** 2 + (z / 34) ** 2)
    side = -1 if number % 2 else 1
    centre = np.array([side * rng.uniform(14, 20), rng.uniform(-8, 8), rng.uniform(-6, 6)])
    clot = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < rng.uniform(15, 18) ** 2
    right = ((x - 12) ** 2 + (y + 20) ** 2 < 9**2) & (np.abs(z) < 24)
    left = ((x + 12) ** 2 + (y + 20) ** 2 < 9**2) & (np.abs(z) < 24)
    hu = np.where(radius < 1, BRAIN_HU, -1000.0)
    hu[(radius >= 1) & (radius < 1.12)] = 900
    hu[left | right] = TRACT_HU
    hu[clot] = CLOT_HU
    hu = hu + rng.normal(0, 3, SHAPE)
    affine = np.diag([STEP_MM] * 3 + [1.0])
    affine[:3, 3] = -STEP_MM * (np.array(SHAPE) - 1) / 2
    tract = np.where(left & ~clot, 1, np.where(right & ~clot, 2, 0)).astype(np.uint8)
    return Volume(hu.astype(np.int16), affine), Volume(clot.astype(np.uint8), affine), Volume(tract, affine)
