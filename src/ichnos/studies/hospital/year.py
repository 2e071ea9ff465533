"""Months of a simulated hospital: arrivals are read, partner exams come, scores are kept in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ichnos.arrays import Floats
from ichnos.audit.lot import in_lot
from ichnos.audit.monitoring.inputs import ReadInput
from ichnos.audit.score import Judge, Score, ScoreKind
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
    outlined: float = 1.0  # share of follow-ups, by lot, whose blood people outline on both CTs
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
    seen = _followups_as_seen(year, model, rng)
    flair = np.expm1(np.log1p(people.leukoaraiosis_ml) + FLAIR_SD * rng.normal(size=len(people)))
    everybody = np.ones(len(people), bool)
    hidden: dict[Judge, _Followups] = {"exam": _Followups(people.followup_ml, expanded(people))}
    return replace(
        year,
        scores=tuple(_scores(year, seen, np.maximum(flair, 0), followed, imaged)),
        hidden=tuple(_scores(year, hidden, people.leukoaraiosis_ml, everybody, everybody)),
    )


@dataclass(frozen=True, eq=False)
class _Followups:
    """Everybody's follow-up as somebody sees it."""

    followup_ml: Floats
    expanded: Floats


def _followups_as_seen(
    year: HospitalYear, model: FactoryModel, rng: np.random.Generator
) -> dict[Judge, _Followups]:
    """Return what the model itself, where people do not outline all, and people would see on follow-ups."""
    found: dict[Judge, tuple[Floats, Floats]] = {}
    people, n = year.people, len(year.people)
    if year.plan.outlined:
        before, after = (
            ml * np.exp(OUTLINE_SD * rng.normal(size=n)) for ml in (people.ich_ml, people.followup_ml)
        )
        found["person"] = before, after
    if year.plan.outlined < 1:
        before = year.readings.ich_ml
        shared = SHARED * (np.log1p(before) - np.log1p(people.ich_ml) - _of(year, "bias"))
        own = model.ich_spread * _of(year, "spread") * (1 - SHARED**2) ** 0.5 * rng.normal(size=n)
        after = np.maximum(np.expm1(np.log1p(people.followup_ml) + _of(year, "bias") + shared + own), 0.05)
        found = {"model": (before, after), **found}  # the model judges first
    define = DEFINITIONS[DEFAULT_DEFINITION]
    return {judge: _Followups(after, define(before, after)) for judge, (before, after) in found.items()}


def _of(year: HospitalYear, name: str) -> Floats:
    return np.array([getattr(scanner, name) for scanner in year.scanners])


def _scores(
    year: HospitalYear,
    seen: Mapping[Judge, _Followups],
    flair_ml: Floats,
    followed: npt.NDArray[np.bool_],
    imaged: npt.NDArray[np.bool_],
) -> list[Score]:
    scores, r = [], year.readings
    for k in range(len(year.people)):
        for judge, truth in seen.items() if followed[k] else ():
            if judge == "person" and not in_lot(f"{patient_name(k)}-followup", share=year.plan.outlined):
                continue
            limits, true = r.followup_limits_ml[k], truth.followup_ml[k]
            volume = _score(year, k, "followup_volume", "volume", r.followup_ml[k], true, limits)
            label, p = truth.expanded[k], r.probability[k]
            chance = _score(year, k, "expansion_probability", "probability", p, label)
            scores += [replace(score, judge=judge) for score in (volume, chance)]
        if imaged[k]:
            limits, read_ml = r.leukoaraiosis_limits_ml[k], r.leukoaraiosis_ml[k]
            scores.append(_score(year, k, "leukoaraiosis_volume", "volume", read_ml, flair_ml[k], limits))
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
