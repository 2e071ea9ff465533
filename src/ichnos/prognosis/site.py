"""What a site has learned from its own pairs: intervals moved and rescaled, probabilities shifted."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from ichnos.prognosis.store import PlainModel, load_plain_if_there

SITE_FILE = "site.json"


class IntervalScaling(PlainModel):
    """New limits of an interval in units of the old one: -1 is its lower end, 0 its median, 1 its upper end.

    >>> wider = IntervalScaling(low=-2.0, middle=0.0, high=1.0, pairs=40, level=0.8)
    >>> [round(ml, 1) for ml in wider.applied(20.0, 15.0, 25.0)]
    [11.2, 20.0, 25.0]
    """

    low: float
    middle: float
    high: float
    pairs: int = Field(gt=0)
    level: float = Field(gt=0, lt=1)
    exam_sd: float = Field(default=0.0, ge=0)  # of ln(1 + mL): the partner exam's own error, taken out

    @model_validator(mode="after")
    def _rising(self) -> IntervalScaling:
        if not self.low <= self.middle <= self.high:
            raise ValueError(f"low {self.low}, middle {self.middle} and high {self.high} must rise")
        return self

    def applied(self, median: float, low: float, high: float) -> tuple[float, float, float]:
        """Return the new low, median and high of a volume in mL."""
        at = [from_scaled(s, median, low, high) for s in (self.low, self.middle, self.high)]
        return at[0], at[1], at[2]


def scaled_error(truth: float, median: float, low: float, high: float) -> float:
    """Return where a truth lies in units of an interval: -1 at its lower end, 1 at its upper end.

    >>> round(scaled_error(25.0, 20.0, 15.0, 25.0), 3), round(scaled_error(15.0, 20.0, 15.0, 25.0), 3)
    (1.0, -1.0)
    """
    middle = math.log1p(max(median, 0.0))
    return (math.log1p(max(truth, 0.0)) - middle) / half_width(truth, median, low, high)


def half_width(truth: float, median: float, low: float, high: float) -> float:
    """Return the width in ln(1 + mL) of that half of an interval on whose side a truth lies.

    >>> round(half_width(30.0, 20.0, 15.0, 25.0), 3)
    0.214
    """
    middle = math.log1p(max(median, 0.0))
    return _half(middle, low, high, above=math.log1p(max(truth, 0.0)) > middle)


def from_scaled(scaled: float, median: float, low: float, high: float) -> float:
    """Return the truth, in mL, that lies at a place in an interval's units; never below zero."""
    middle = math.log1p(max(median, 0.0))
    return max(0.0, math.expm1(middle + scaled * _half(middle, low, high, above=scaled > 0)))


def _half(middle: float, low: float, high: float, *, above: bool) -> float:
    half = math.log1p(max(high, 0.0)) - middle if above else middle - math.log1p(max(low, 0.0))
    return max(half, 1e-3)


class ChanceShift(PlainModel):
    """New log odds of a probability: intercept + slope x old log odds.

    >>> round(ChanceShift(intercept=0.0, slope=1.0, pairs=20).applied(0.3), 3)
    0.3
    """

    intercept: float
    slope: float = Field(gt=0)
    pairs: int = Field(gt=0)

    def applied(self, probability: float) -> float:
        """Return the new probability."""
        p = min(max(probability, 1e-6), 1 - 1e-6)
        return 1 / (1 + math.exp(-(self.intercept + self.slope * math.log(p / (1 - p)))))


class SiteRecalibration(PlainModel):
    """The content of site.json: what a model folder has been recalibrated with, by measure."""

    format: Literal["ichnos-site-1"] = "ichnos-site-1"
    site: str
    pairs: int = Field(gt=0)
    intervals: dict[str, IntervalScaling] = Field(default_factory=dict)  # "followup_volume", "ich_volume", …
    chances: dict[str, ChanceShift] = Field(default_factory=dict)  # "expansion_probability"

    def interval(self, name: str, value: float, low: float, high: float) -> tuple[float, float, float] | None:
        """Return the recalibrated low, value and high of a measure; None where it was not recalibrated."""
        scaling = self.intervals.get(name)
        return None if scaling is None else scaling.applied(value, low, high)


def recalibration_digest(folder: Path) -> str:
    """Return the SHA-256 of a model folder's recalibration; "" where it has none."""
    file = folder / SITE_FILE
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def load_site_recalibration(folder: Path) -> SiteRecalibration | None:
    """Read site.json of a model folder; None where it has none."""
    return load_plain_if_there(folder / SITE_FILE, SiteRecalibration)
