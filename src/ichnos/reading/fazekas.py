"""Fazekas grades from volumes of leukoaraiosis: an ordinal law that lies as plain numbers beside a model's
weights.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from ichnos.prognosis.store import LawPart, load_law
from ichnos.reading.record import Measure

FAZEKAS_LAW = "fazekas.json"
NO_LAW = f"no law from volume to Fazekas grades lies beside this model's weights ({FAZEKAS_LAW})"
_PLACES = {"periventricular": "Fazekas grade, periventricular", "deep": "Fazekas grade, deep"}


class OrdinalLaw(LawPart):
    """P(grade >= k) = logistic(slope x ln(1 + mL) - cut_k), k = 1, 2, 3."""

    slope: float
    cuts: tuple[float, float, float]  # rising

    @model_validator(mode="after")
    def _rising(self) -> OrdinalLaw:
        if self.slope <= 0 or list(self.cuts) != sorted(self.cuts):
            raise ValueError(f"slope {self.slope} must be positive and cuts {self.cuts} must rise")
        return self

    def probabilities(self, volume_ml: float) -> tuple[float, float, float, float]:
        """Return the probability of the grades 0 to 3.

        >>> [round(p, 2) for p in OrdinalLaw(slope=2.0, cuts=(1.0, 3.0, 5.0)).probabilities(4.0)]
        [0.1, 0.35, 0.41, 0.14]
        """
        at_least = [
            1.0,
            *(1 / (1 + math.exp(cut - self.slope * math.log1p(volume_ml))) for cut in self.cuts),
            0.0,
        ]
        zero, one, two, three = (a - b for a, b in pairwise(at_least))
        return zero, one, two, three


class FazekasLaw(LawPart):
    """The content of fazekas.json."""

    format: Literal["ichnos-fazekas-1"] = "ichnos-fazekas-1"
    cohort: str  # on whom it was fitted, in a sentence
    periventricular: OrdinalLaw
    deep: OrdinalLaw


def load_fazekas_law(folder: Path) -> FazekasLaw | None:
    """Read fazekas.json of a model folder; None where it has none."""
    return load_law(folder / FAZEKAS_LAW, FazekasLaw)


def fazekas_measures(law: FazekasLaw | None, volumes_ml: dict[str, float] | None) -> tuple[Measure, ...]:
    """Return the likeliest grade of either place, with the probability of each; `volumes_ml` None: the two
    could not be told apart.
    """
    if law is None or volumes_ml is None:
        reason = (
            NO_LAW
            if law is None
            else "the ventricles were not found, so periventricular and deep could not be told apart"
        )
        return tuple(
            Measure(name=f"fazekas_{place}", label=label, value=None, reason=reason)
            for place, label in _PLACES.items()
        )
    found = []
    for place, label in _PLACES.items():
        chances = getattr(law, place).probabilities(volumes_ml[place])
        told = ", ".join(f"{grade}: {100 * p:.0f} %" for grade, p in enumerate(chances))
        grade = max(range(4), key=chances.__getitem__)
        found.append(
            Measure(
                name=f"fazekas_{place}",
                label=label,
                value=str(grade),
                reason=f"{told}; fitted on {law.cohort}",
            )
        )
    return tuple(found)
