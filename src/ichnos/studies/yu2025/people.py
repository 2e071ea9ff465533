"""The patients of part two of Yu 2025, as every method sees them; each is read once and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.cohort import Cohort, Patient, Split
from ichnos.errors import InputRefused
from ichnos.inference.crops import haematoma_region, published_crops
from ichnos.learning.expansion import slice_generator as synthesis
from ichnos.learning.expansion.examples import ImageExample, facts_of
from ichnos.learning.expansion.labels import labelled_patient
from ichnos.prognosis.growth import IMAGE, GrowthInputs
from ichnos.reading.measures.growth import growth_inputs
from ichnos.runs import apply
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.labels import truth_rows
from ichnos.studies.shared.rows import known_number
from ichnos.studies.yu2025.risks import KnownPatient, KnownPatients

EXTERNAL: tuple[Split, ...] = ("test", "external")
TOKEN_FACTS = ("onset_to_ct_h", "anticoagulation")
_EXTRACTION = 1  # changes when what is kept of a patient does


@dataclass(frozen=True, eq=False)
class Person(KnownPatient):
    """One patient whose expansion is known, as every method sees the patient."""

    slices: tuple[synthesis.Picture, ...]
    region: np.ndarray
    inputs: GrowthInputs
    followup_ml: float
    followup_ivh_ml: float
    facts: Mapping[str, object]
    oracle: float  # NaN for people

    def published(self) -> list[ImageExample]:
        """Return the published slices, channels equal."""
        return [
            ImageExample(self.patient, np.repeat(s.image[None], 3, axis=0), self.outcome, centre=self.centre)
            for s in self.slices
        ]

    def ours(self) -> list[ImageExample]:
        """Return the region with measures and clinical facts."""
        tokens = (*(self.inputs.feature(name) for name in IMAGE), *facts_of(self.facts, TOKEN_FACTS))
        return [ImageExample(self.patient, self.region, self.outcome, centre=self.centre, features=tokens)]


@dataclass(frozen=True, eq=False)
class People(KnownPatients):
    """Who trains and who is asked, with their images."""

    training: tuple[Person, ...]
    external: tuple[Person, ...]


def people_of(cohort: Cohort, out: Path, budget: StudyBudget, *, size: int) -> People:
    """Cut every patient whose expansion is known into slices and a region, and measure the haematoma.

    A patient who was cut by an earlier call is taken from `out`; compact cohorts are read like others.
    """
    if cohort.root is None:
        raise InputRefused("the cohort has no folder, so its targets cannot be found; give a cohort on disk")
    patients = list(cohort.with_exams("ct"))
    done = apply(
        partial(_cut_patient, root=str(cohort.root.resolve()), size=size),
        patients,
        out=out,
        settings={"root": str(cohort.root.resolve()), "size": size, "extraction": _EXTRACTION},
        name="people",
        workers=budget.workers,
        progress=False,
    )
    for failure in done.failures:
        budget.say(f"sub-{failure.id} is left out: {failure.why}")
    rows = {str(row["id"]): row for row in done.rows if row["outcome"] is not None}
    return _divided(patients, rows, truth_rows(cohort), out)


def _divided(
    patients: Sequence[Patient],
    rows: Mapping[str, Mapping[str, Any]],
    truths: Mapping[str, Mapping[str, str]],
    out: Path,
) -> People:
    training, external = (
        tuple(
            _person(p, rows[p.id], truths.get(p.id, {}), out)
            for p in patients
            if p.id in rows and (p.split in EXTERNAL) == outside
        )
        for outside in (False, True)
    )
    if not training or not external:
        raise InputRefused(
            f"expansion is known of {len(training)} patients to train and of {len(external)} of the splits"
            " test and external; both are needed: give the targets haematoma and expansion, and a split to"
            " every patient"
        )
    return People(training, external)


def _cut_patient(patient: Patient, folder: Path, *, root: str, size: int) -> dict[str, Any]:
    """Write one patient's slices and region, and return the outcome and the measures."""
    case = labelled_patient(Cohort((patient,), root=Path(root)), patient)
    if case is None:
        return {"id": patient.id, "outcome": None}
    crops = published_crops(case.hu, case.ich, size=size)
    np.savez_compressed(
        folder / f"{patient.id}.npz",
        images=np.stack([crop.image for crop in crops]).astype(np.float16),
        outlines=np.stack([crop.mask for crop in crops]).astype(np.float16),
        region=haematoma_region(case.hu, case.ich, case.ivh).astype(np.float16),
    )
    return {
        "id": patient.id,
        "outcome": case.expanded,
        "inputs": asdict(growth_inputs(case.ich, case.ivh, case.hu, facts=patient.facts)),
        "followup_ml": case.followup_ml,
        "followup_ivh_ml": case.followup_ivh_ml,
    }


def _person(patient: Patient, row: Mapping[str, Any], truth: Mapping[str, str], out: Path) -> Person:
    with np.load(out / f"{patient.id}.npz") as kept:
        images, outlines, region = (
            kept[name].astype(np.float32) for name in ("images", "outlines", "region")
        )
    slices = tuple(
        synthesis.Picture(f"{patient.id}-{k}", image, outline, row["outcome"], patient.id)
        for k, (image, outline) in enumerate(zip(images, outlines, strict=True))
    )
    return Person(
        patient.id,
        patient.centre,
        row["outcome"],
        slices,
        region,
        GrowthInputs(**row["inputs"]),
        row["followup_ml"],
        row["followup_ivh_ml"],
        patient.facts,
        known_number(truth.get("expansion_probability")),
    )
