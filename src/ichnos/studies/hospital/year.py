"""Months of a simulated hospital: arrivals are read, partner exams come, scores are kept in their order."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ichnos.arrays import Floats
from ichnos.audit.monitoring.inputs import ReadInput
from ichnos.audit.score import Score, ScoreKind
from ichnos.clinical.expansion import DEFAULT_DEFINITION, DEFINITIONS
from ichnos.studies.hospital.model import PROMISED, FactoryModel, HospitalReadings, expanded
from ichnos.studies.hospital.people import HospitalPeople, draw_people, flair_chance, followup_chance
from ichnos.studies.hospital.scanners import NEW, OLD, HospitalScanner, with_protocol

MODEL = "simulated hospital"
# Standard deviation of ln of a volume that a person outlines: that of repeated measurements of a stable clot,
# 4.7 % of a difference (BMC Med Imaging 2022, s12880-022-00735-3), over the root of two.
OUTLINE_SD = 0.033
FLAIR_SD = 0.10  # of ln(1 + mL) that transfer finds on a FLAIR; our choice
SHARED = 0.7  # correlation of a model's errors on two CTs of one patient; our choice


@dataclass(frozen=True)
class HospitalPlan:
    """What happens in the hospital."""

    patients: int = 1500
    months: int = 8
    replaced_in: int = 0  # month in which the scanner is replaced; 0 never
    new: HospitalScanner = NEW
    protocol_in: int = 0  # month in which slices become thinner; 0 never
    outlined: bool = True  # a person outlines blood on both CTs; else the model that is judged
    unseen: float = 0.0  # log odds of a follow-up per standard deviation of hidden growth

    def scanner(self, month: int) -> HospitalScanner:
        """Return the scanner of a month.

        >>> HospitalPlan(replaced_in=4).scanner(3).name, HospitalPlan(replaced_in=4).scanner(4).name
        ('siemens', 'ge')
        """
        scanner = self.new if 0 < self.replaced_in <= month else OLD
        return with_protocol(scanner, 2.5) if 0 < self.protocol_in <= month else scanner


@dataclass(frozen=True, eq=False)
class HospitalYear:
    """Everything that happened; arrays are per patient, in order of arrival."""

    plan: HospitalPlan
    people: HospitalPeople
    readings: HospitalReadings
    scanners: tuple[HospitalScanner, ...]
    inputs: tuple[ReadInput, ...]
    followed: npt.NDArray[np.bool_]  # a follow-up CT came
    imaged: npt.NDArray[np.bool_]  # a FLAIR came
    scores: tuple[Score, ...]  # by partner exams, in order of arrival
    hidden: tuple[Score, ...]  # of everybody, by the hidden truth

    def everyone(self) -> dict[str, dict[str, float]]:
        """Return what is known of everybody on arrival, which may decide on a partner exam."""
        p, r = self.people, self.readings
        columns = {
            "ln_ich_volume": np.log(r.ich_ml),
            "expansion_log_odds": np.log(r.probability / (1 - r.probability)),
            "ln_onset_to_ct_h": np.log(p.onset_to_ct_h),
            "anticoagulation": p.anticoagulated.astype(float),
            "age_years": p.age_years,
        }
        return {
            patient_name(k): {name: float(values[k]) for name, values in columns.items()}
            for k in range(len(p))
        }


def patient_name(number: int) -> str:
    """Return a patient's name.

    >>> patient_name(7)
    'p00007'
    """
    return f"p{number:05d}"


def simulate_year(plan: HospitalPlan, model: FactoryModel, seed: int) -> HospitalYear:
    """Let a hospital run for all its months."""
    people, rng = draw_people(plan.patients, plan.months, seed), np.random.default_rng([seed, 1])
    scanners = [plan.scanner(int(month)) for month in people.month]
    readings = model.read(people, scanners, rng)
    inputs = [
        scanner.input_of(rng, int(month)) for scanner, month in zip(scanners, people.month, strict=True)
    ]
    chance = followup_chance(people, readings.ich_ml, readings.probability, unseen=plan.unseen)
    followed = rng.uniform(size=len(people)) < chance
    imaged = rng.uniform(size=len(people)) < flair_chance(people, readings.ich_ml)
    year = HospitalYear(plan, people, readings, tuple(scanners), tuple(inputs), followed, imaged, (), ())
    truth = _measured(year, model, rng)
    everybody = np.ones(len(people), bool)
    hidden = _Truth(people.followup_ml, expanded(people), people.leukoaraiosis_ml)
    return replace(
        year,
        scores=tuple(_scores(year, truth, followed, imaged)),
        hidden=tuple(_scores(year, hidden, everybody, everybody)),
    )


@dataclass(frozen=True, eq=False)
class _Truth:
    followup_ml: Floats
    expanded: Floats
    leukoaraiosis_ml: Floats


def _measured(year: HospitalYear, model: FactoryModel, rng: np.random.Generator) -> _Truth:
    """Return what partner exams would show of everybody."""
    people, n = year.people, len(year.people)
    if year.plan.outlined:
        before = people.ich_ml * np.exp(OUTLINE_SD * rng.normal(size=n))
        after = people.followup_ml * np.exp(OUTLINE_SD * rng.normal(size=n))
    else:
        before = year.readings.ich_ml
        shared = SHARED * (np.log1p(before) - np.log1p(people.ich_ml) - _of(year, "bias"))
        own = model.ich_spread * _of(year, "spread") * (1 - SHARED**2) ** 0.5 * rng.normal(size=n)
        after = np.maximum(np.expm1(np.log1p(people.followup_ml) + _of(year, "bias") + shared + own), 0.05)
    label = DEFINITIONS[DEFAULT_DEFINITION](before, after)
    flair = np.maximum(np.expm1(np.log1p(people.leukoaraiosis_ml) + FLAIR_SD * rng.normal(size=n)), 0)
    return _Truth(after, label, flair)


def _of(year: HospitalYear, name: str) -> Floats:
    return np.array([getattr(scanner, name) for scanner in year.scanners])


def _scores(
    year: HospitalYear, truth: _Truth, followed: npt.NDArray[np.bool_], imaged: npt.NDArray[np.bool_]
) -> list[Score]:
    scores, r = [], year.readings
    for k in range(len(year.people)):
        if followed[k]:
            limits = r.followup_limits_ml[k]
            scores.append(
                _score(year, k, "followup_volume", "volume", r.followup_ml[k], truth.followup_ml[k], limits)
            )
            label = truth.expanded[k]
            scores.append(_score(year, k, "expansion_probability", "probability", r.probability[k], label))
        if imaged[k]:
            limits, true = r.leukoaraiosis_limits_ml[k], truth.leukoaraiosis_ml[k]
            scores.append(
                _score(year, k, "leukoaraiosis_volume", "volume", r.leukoaraiosis_ml[k], true, limits)
            )
    return scores


def _score(
    year: HospitalYear,
    k: int,
    quantity: str,
    kind: ScoreKind,
    predicted: float,
    truth: float,
    limits: Floats | None = None,
) -> Score:
    partner = "flair" if quantity.startswith("leuko") else "followup"
    name, scanner = patient_name(k), year.scanners[k]
    low, high = (None, None) if limits is None else (float(limits[0]), float(limits[1]))
    return Score(
        f"{name}-{partner}", name, partner, quantity, kind, MODEL, float(predicted), float(truth),
        low=low, high=high, level=None if limits is None else PROMISED,
        scanner=scanner.name, thickness_mm=scanner.step_mm, month=f"month {int(year.people.month[k]):02d}",
    )  # fmt: skip
