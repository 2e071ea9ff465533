"""The outcome model: from tract injury, volumes, white-matter disease and a clinical row to motor NIHSS and
mRS, by treatment.

Two regressions as plain numbers in `outcome.json`: a linear one for motor NIHSS at 180 days and proportional
odds for mRS at 365 days, each with the effect of surgery by injury grade. `ichnos.learning.fit.outcome` fits
them. The grade of complete interruption is the reference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator
from scipy.special import expit, ndtri

from ichnos.arrays import Floats
from ichnos.clinical.injury import INJURY_GRADES, InjuryGrade
from ichnos.clinical.treatment import TreatmentArm
from ichnos.prognosis.store import PlainModel, load_plain

OUTCOME_FILE = "outcome.json"
REFERENCE: InjuryGrade = "complete interruption"

LEAST_PER_CELL = 8  # patients of one grade in one arm below which surgery is not judged for that grade
NUMBERS = ("age_years", "ich_ml", "ivh_ml", "leukoaraiosis_ml", "blood_load_ml", "gcs")
_WORDS = {
    "age_years": "the age in years",
    "ich_ml": "the haematoma's volume in mL",
    "ivh_ml": "the ventricular blood in mL",
    "leukoaraiosis_ml": "the leukoaraiosis in mL",
    "blood_load_ml": "the tract's load of blood in mL",
    "gcs": "the Glasgow Coma Scale",
}


@dataclass(frozen=True)
class OutcomeInputs:
    """What the model may know of a patient; None where it is not known."""

    injury: InjuryGrade | None  # of the worse tract
    ich_ml: float
    ivh_ml: float
    leukoaraiosis_ml: float | None
    blood_load_ml: float | None  # of the worse tract
    age_years: float | None = None
    gcs: float | None = None

    def number(self, name: str) -> float:
        """Return one number; NaN where it is not known."""
        value = asdict(self)[name]
        return math.nan if value is None else float(value)


def design_row(inputs: OutcomeInputs, arm: TreatmentArm, terms: Sequence[str]) -> Floats:
    """Return the regression's row of a patient in an arm; NaN where an input is not known.

    >>> x = OutcomeInputs("no risk", 20.0, 0.0, 3.0, 0.0, 65.0, 14.0)
    >>> terms = ("intercept", "injury: no risk", "surgery", "surgery, no risk", "age")
    >>> design_row(x, "surgery", terms).tolist()
    [1.0, 1.0, 1.0, 1.0, 0.0]
    """
    return np.array([_term(inputs, arm, term) for term in terms], np.float64)


def _term(inputs: OutcomeInputs, arm: TreatmentArm, term: str) -> float:
    operated = float(arm == "surgery")
    if term.startswith("injury: "):
        return math.nan if inputs.injury is None else float(inputs.injury == term.removeprefix("injury: "))
    if term.startswith("surgery, "):
        return (
            math.nan
            if inputs.injury is None
            else operated * (inputs.injury == term.removeprefix("surgery, "))
        )
    return {
        "intercept": 1.0,
        "surgery": operated,
        "age": (inputs.number("age_years") - 65) / 10,
        "ich": (min(inputs.ich_ml, 80) - 20) / 10,
        "ivh": float(inputs.ivh_ml >= 0.5),
        "leukoaraiosis": math.log1p(inputs.number("leukoaraiosis_ml")) - math.log1p(3.0),
        "blood load": inputs.number("blood_load_ml"),
        "gcs": 14 - inputs.number("gcs"),
    }[term]


GRADE_TERMS = tuple(f"injury: {grade}" for grade in INJURY_GRADES if grade != REFERENCE)
SURGERY_TERMS = ("surgery", *(f"surgery, {grade}" for grade in INJURY_GRADES if grade != REFERENCE))
MOTOR_TERMS = ("intercept", *GRADE_TERMS, *SURGERY_TERMS, "age", "ich", "blood load")
MRS_TERMS = (*GRADE_TERMS, *SURGERY_TERMS, "age", "ich", "ivh", "leukoaraiosis", "gcs")
NEEDED = {
    "motor": ("age_years", "ich_ml", "blood_load_ml"),
    "mrs": ("age_years", "ich_ml", "ivh_ml", "leukoaraiosis_ml", "gcs"),
}


class Regression(PlainModel):
    """Coefficients in the order of `terms`, then whatever else was estimated with them; their covariance."""

    terms: tuple[str, ...]
    # ordinal: slopes, then the first cut, then logarithms of the steps between cuts
    values: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    residual_sd: float = Field(default=0.0, ge=0)  # linear only
    patients: int = Field(gt=0)

    @model_validator(mode="after")
    def _square(self) -> Regression:
        n = len(self.values)
        if n < len(self.terms) or len(self.covariance) != n or any(len(row) != n for row in self.covariance):
            raise ValueError(
                f"{len(self.terms)} terms, {n} values and a covariance of {len(self.covariance)} rows do not"
                " fit together"
            )
        return self


class OutcomeModel(PlainModel):
    """The content of outcome.json."""

    format: Literal["ichnos-outcome-1"] = "ichnos-outcome-1"
    cohort: str
    simulated: bool
    randomised: (
        bool  # was the arm drawn by a coin? Without, a difference between arms is no effect of surgery
    )
    code_version: str
    command: str
    fitted: str
    motor: Regression  # motor NIHSS at 180 days, 0 to 16, of the survivors
    mrs: Regression  # modified Rankin Scale at 365 days, 0 to 6
    low: dict[str, float]  # least and greatest value of each number in the cohort
    high: dict[str, float]
    cells: dict[str, tuple[int, int]]  # grade -> patients in the medical and in the surgical arm
    validation: dict[str, float] = Field(default_factory=dict)

    def refusal(self, inputs: OutcomeInputs, which: Literal["motor", "mrs"]) -> str:
        """Return why an outcome cannot be forecast for this patient, or "" where it can."""
        if inputs.injury is None:
            return "the injury of the corticospinal tract is not graded"
        if min(self.cells.get(inputs.injury, (0, 0))) < LEAST_PER_CELL:
            return f"too few patients of the fitting cohort had the grade {inputs.injury!r}"
        for name in NEEDED[which]:
            value = inputs.number(name)
            if math.isnan(value):
                return f"{_WORDS[name]} is not known"
            if not self.low[name] <= value <= self.high[name]:
                return (
                    f"{_WORDS[name]} is {value:.3g}; the fitting cohort has {self.low[name]:.3g} to"
                    f" {self.high[name]:.3g}"
                )
        return ""

    def motor_forecast(self, inputs: OutcomeInputs, arm: TreatmentArm, *, level: float = 0.8) -> Interval:
        """Return motor NIHSS at 180 days with a band for one patient (not for the mean), cut to the scale."""
        fit = self.motor
        x = design_row(inputs, arm, fit.terms)
        mean = float(x @ np.array(fit.values))
        spread = math.sqrt(float(x @ np.array(fit.covariance) @ x) + fit.residual_sd**2)
        half = float(ndtri(0.5 + level / 2)) * spread
        return Interval(*(float(np.clip(v, 0, 16)) for v in (mean, mean - half, mean + half)))

    def motor_gain(self, inputs: OutcomeInputs, *, level: float = 0.95) -> Interval:
        """Return by how many points surgery is expected to lower motor NIHSS (> 0: gain), with the
        interval of that mean effect.
        """
        fit = self.motor
        x = design_row(inputs, "medical", fit.terms) - design_row(inputs, "surgery", fit.terms)
        value = float(x @ np.array(fit.values))
        half = float(ndtri(0.5 + level / 2)) * math.sqrt(float(x @ np.array(fit.covariance) @ x))
        return Interval(value, value - half, value + half)

    def independent(
        self, inputs: OutcomeInputs, arm: TreatmentArm, *, at_most: int = 3, level: float = 0.95
    ) -> Interval:
        """Return P(mRS at 365 days <= `at_most`) with the interval of that probability."""
        return _summary(self._share(inputs, arm, at_most), level)

    def independence_gain(self, inputs: OutcomeInputs, *, at_most: int = 3, level: float = 0.95) -> Interval:
        """Return by how much surgery is expected to raise P(mRS <= `at_most`) (> 0: gain), with its
        interval.
        """
        return _summary(
            self._share(inputs, "surgery", at_most) - self._share(inputs, "medical", at_most), level
        )

    def _share(self, inputs: OutcomeInputs, arm: TreatmentArm, at_most: int) -> Floats:
        """Return the probability under the estimate (first) and under draws from its covariance, the same
        draws in every call.
        """
        fit = self.mrs
        values, k = np.array(fit.values), len(fit.terms)
        draws = np.random.default_rng(0).multivariate_normal(
            values, np.array(fit.covariance), 400, method="eigh"
        )
        every = np.vstack([values, draws])
        cuts = np.cumsum(np.hstack([every[:, k : k + 1], np.exp(every[:, k + 1 :])]), axis=1)
        shares: Floats = expit(cuts[:, at_most] - every[:, :k] @ design_row(inputs, arm, fit.terms))
        return shares


@dataclass(frozen=True)
class Interval:
    """A value with its bounds."""

    value: float
    low: float
    high: float


def _summary(shares: Floats, level: float) -> Interval:
    low, high = np.quantile(shares[1:], ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(shares[0]), min(float(low), float(shares[0])), max(float(high), float(shares[0])))


def injury_of(
    grades: Mapping[str, str | None], loads_ml: Mapping[str, float]
) -> tuple[InjuryGrade | None, float | None]:
    """Return the worse side's grade and load of blood; None where a side is not graded.

    >>> injury_of({"left": "no risk", "right": "PHE infiltration"}, {"left": 0.0, "right": 0.0})
    ('PHE infiltration', 0.0)
    """
    known = {side: grade for side, grade in grades.items() if grade in INJURY_GRADES}
    if len(known) < len(grades) or not known:
        return None, None
    worst = max(known, key=lambda side: (INJURY_GRADES.index(known[side]), loads_ml[side]))
    return known[worst], loads_ml[worst]


def load_outcome_model(folder: str | Path) -> OutcomeModel:
    """Read outcome.json of a model folder, or say what is wrong with it."""
    return load_plain(Path(folder) / OUTCOME_FILE, OutcomeModel)
