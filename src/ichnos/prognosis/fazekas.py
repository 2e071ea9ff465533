"""Fazekas grades from volumes of leukoaraiosis: an ordinal model in plain numbers."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from ichnos.prognosis.store import PlainModel, load_plain_if_there

FAZEKAS_FILE = "fazekas.json"


class OrdinalModel(PlainModel):
    """P(grade >= k) = logistic(slope x ln(1 + mL) - cut_k), k = 1, 2, 3."""

    slope: float
    cuts: tuple[float, float, float]  # rising

    @model_validator(mode="after")
    def _rising(self) -> OrdinalModel:
        if self.slope <= 0 or list(self.cuts) != sorted(self.cuts):
            raise ValueError(f"slope {self.slope} must be positive and cuts {self.cuts} must rise")
        return self

    def probabilities(self, volume_ml: float) -> tuple[float, float, float, float]:
        """Return the probability of the grades 0 to 3.

        >>> [round(p, 2) for p in OrdinalModel(slope=2.0, cuts=(1.0, 3.0, 5.0)).probabilities(4.0)]
        [0.1, 0.35, 0.41, 0.14]
        """
        at_least = [
            1.0,
            *(1 / (1 + math.exp(cut - self.slope * math.log1p(volume_ml))) for cut in self.cuts),
            0.0,
        ]
        zero, one, two, three = (a - b for a, b in pairwise(at_least))
        return zero, one, two, three


class FazekasModel(PlainModel):
    """The content of fazekas.json."""

    format: Literal["ichnos-fazekas-1"] = "ichnos-fazekas-1"
    cohort: str  # on whom it was fitted, in a sentence
    periventricular: OrdinalModel
    deep: OrdinalModel


def load_fazekas_model(folder: Path) -> FazekasModel | None:
    """Read fazekas.json of a model folder; None where it has none."""
    return load_plain_if_there(folder / FAZEKAS_FILE, FazekasModel)
