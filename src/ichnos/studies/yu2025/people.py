"""The patients of part two of Yu 2025, as every method sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ichnos.cohort import Cohort, Split
from ichnos.errors import InputRefused
from ichnos.inference.crops import haematoma_region, published_crops
from ichnos.learning.expansion import slice_generator as synthesis
from ichnos.learning.expansion.examples import ImageExample, facts_of
from ichnos.learning.expansion.labels import Labelled, labelled
from ichnos.prognosis.growth import IMAGE, GrowthInputs
from ichnos.reading.measures.growth import growth_inputs
from ichnos.studies.shared.labels import truth_rows
from ichnos.studies.shared.rows import known_number

EXTERNAL: tuple[Split, ...] = ("test", "external")
TOKEN_FACTS = ("onset_to_ct_h", "anticoagulation")


@dataclass(frozen=True, eq=False)
class Person:
    """One patient whose expansion is known, as every method sees the patient."""

    patient: str
    centre: str
    outcome: float
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
class People:
    """Who trains and who is asked."""

    training: tuple[Person, ...]
    external: tuple[Person, ...]

    @property
    def centres(self) -> tuple[str, ...]:
        """Return the external centres."""
        return tuple(sorted({p.centre for p in self.external}))


def people_of(cohort: Cohort, *, size: int) -> People:
    """Cut every patient whose expansion is known into slices and a region, and measure the haematoma."""
    truths = truth_rows(cohort)
    people = [
        (case.patient.split, _person(case, size, truths.get(case.patient.id, {})))
        for case in labelled(cohort)
    ]
    training, external = (
        tuple(p for split, p in people if (split in EXTERNAL) == outside) for outside in (False, True)
    )
    if not training or not external:
        raise InputRefused(
            f"expansion is known of {len(training)} patients to train and of {len(external)} of the splits"
            " test and external; both are needed: give the targets haematoma and expansion, and a split to"
            " every patient"
        )
    return People(training, external)


def _person(case: Labelled, size: int, truth: Mapping[str, str]) -> Person:
    name = case.patient.id
    slices = tuple(
        synthesis.Picture(f"{name}-{k}", crop.image, crop.mask, case.expanded, name)
        for k, crop in enumerate(published_crops(case.hu, case.ich, size=size))
    )
    return Person(
        patient=name,
        centre=case.patient.centre,
        outcome=case.expanded,
        slices=slices,
        region=haematoma_region(case.hu, case.ich, case.ivh),
        inputs=growth_inputs(case.ich, case.ivh, case.hu, facts=case.patient.facts),
        followup_ml=case.followup_ml,
        followup_ivh_ml=case.followup_ivh_ml,
        facts=case.patient.facts,
        oracle=known_number(truth.get("expansion_probability")),
    )
