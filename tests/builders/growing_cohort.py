"""Heads with a clot each, of which every second one has doubled a day later; and a classifier for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from builders.readable_head import head
from ichnos.cohort import Cohort, Patient
from ichnos.formats import bids
from ichnos.learning.expansion.chain import FEATURES
from ichnos.learning.expansion.settings import ClassifierSettings
from ichnos.learning.loop.settings import changed
from ichnos.models import NetworkSpec

_TINY = {
    "num_classes": 2,
    "image_size": [16, 16, 8],
    "patch_size": [8, 8, 4],
    "input_channels": 4,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "clinical_features": len(FEATURES),
}


def small_classifier() -> ClassifierSettings:
    """Return a classifier that trains in a second."""
    network = NetworkSpec(name="vit", arguments=_TINY)
    return changed(ClassifierSettings(network=network), {"steps": 4, "batch": 4, "precision": "fp32"})


def write_growing_cohort(root: Path, splits: Sequence[str] = ("train",) * 8) -> Cohort:
    """Write a patient per split given; the second, fourth, … haematoma has doubled a day later."""
    scan = head()
    hu, people = scan.volume, []
    for number, split in enumerate(splits):
        patient = Patient(f"{number}", "A", split, facts={"onset_to_ct_h": 2.0 + number})  # type: ignore[arg-type]
        noisy = hu.array + np.random.default_rng(number).normal(0, 1, hu.shape)
        ct = hu.with_array(noisy.astype(np.int16))
        clot = (hu.array > 50) & (hu.array < 80)
        more = np.zeros_like(clot)
        more[1:], more[:-1] = clot[:-1], clot[1:]
        later = clot | (more | np.roll(clot, 2, 1) | np.roll(clot, -2, 1)) if number % 2 else clot
        bids.write_exam(root, patient.id, "ct", ct)
        for label, mask in (("haematoma", clot), ("expansion", later)):
            volume = ct.with_array(mask.astype(np.uint8))
            bids.write_derivative(root, patient.id, volume, pipeline="manual", label=label, kind="dseg")
        people.append(patient)
    bids.write_cohort(people, root, name="growing")
    return bids.read_cohort(root)
