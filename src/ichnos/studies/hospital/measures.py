"""What a simulated hospital shows: partner exams against the hidden truth, alarms, recalibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ichnos.arrays import Floats
from ichnos.audit.monitoring.betting import coverage_evidence
from ichnos.audit.monitoring.change import ChangeAlarm, watch
from ichnos.audit.monitoring.inputs import input_streams
from ichnos.audit.monitoring.live import CLAIM_ALPHA, score_streams
from ichnos.audit.monitoring.selection import selection_of, weighted_calibration, weighted_mean
from ichnos.audit.recalibration import scaling_of
from ichnos.audit.score import Score
from ichnos.prognosis.site import IntervalScaling
from ichnos.studies.hospital.model import PROMISED, FactoryModel
from ichnos.studies.hospital.people import HospitalPeople, draw_people
from ichnos.studies.hospital.scanners import NEW, HospitalScanner
from ichnos.studies.hospital.year import FLAIR_SD, OUTLINE_SD, HospitalYear, patient_name

VOLUMES = ("followup_volume", "leukoaraiosis_volume")
RISK = "expansion_probability"
# What the hospital knows of its partner exams' own errors, from repeated outlines.
EXAM_SD = {"followup_volume": OUTLINE_SD, "leukoaraiosis_volume": FLAIR_SD}
_HARM_PATIENTS, _HARM_SEED = 4000, 880_001
NEVER = -1


@dataclass(frozen=True)
class HospitalAgreement:
    """One number by partner exams, plain and weighted, and by the hidden truth of everybody."""

    plain: float
    weighted: float
    hidden: float


def agreements(year: HospitalYear) -> dict[str, HospitalAgreement]:
    """Return coverage of each volume and the calibration of P(expansion), three ways each, by their name."""
    found = {}
    for quantity in (*VOLUMES, RISK):
        own, all_ = (scores_of(scores, quantity) for scores in (year.scores, year.hidden))
        _, weights = selection_of(own, year.everyone())
        w = np.array([weights[score.patient] for score in own])
        numbers = _calibration if quantity == RISK else _coverages
        ways = [numbers(own, np.ones(len(own))), numbers(own, w), numbers(all_, np.ones(len(all_)))]
        for number in ways[0]:
            found[f"{number} of {quantity}"] = HospitalAgreement(*(way[number] for way in ways))
    return found


def scores_of(scores: Sequence[Score], quantity: str) -> list[Score]:
    """Return the scores of one quantity, in order."""
    return [score for score in scores if score.quantity == quantity]


def _calibration(scores: Sequence[Score], weights: Floats) -> dict[str, float]:
    intercept, slope = weighted_calibration([s.truth for s in scores], [s.predicted for s in scores], weights)
    return {"calibration slope": slope, "calibration intercept": intercept}


def _coverages(scores: Sequence[Score], weights: Floats) -> dict[str, float]:
    return {"coverage": _coverage(scores, weights)}


def _coverage(scores: Sequence[Score], weights: Floats) -> float:
    return weighted_mean([float(bool(s.held)) for s in scores], weights)[0]


# ---- harm


def harmful(model: FactoryModel, kind: str, points: float) -> HospitalScanner:
    """Return the new scanner with just the bias, or the spread, of readings that costs so many points of the
    coverage of the follow-up volume.
    """
    people = draw_people(_HARM_PATIENTS, 1, _HARM_SEED)
    base = _hidden_coverage(model, NEW, people)
    low, high = (0.0, 1.5) if kind == "bias" else (1.0, 4.0)
    for _ in range(12):
        middle = (low + high) / 2
        lost = base - _hidden_coverage(model, _changed(kind, middle), people)
        low, high = (middle, high) if lost < points / 100 else (low, middle)
    return _changed(kind, (low + high) / 2)


def _changed(kind: str, amount: float) -> HospitalScanner:
    return replace(NEW, bias=amount) if kind == "bias" else replace(NEW, spread=amount)


def _hidden_coverage(model: FactoryModel, scanner: HospitalScanner, people: HospitalPeople) -> float:
    seen = model.read(people, [scanner] * len(people), np.random.default_rng(_HARM_SEED))
    inside = (seen.followup_limits_ml[:, 0] <= people.followup_ml) & (
        people.followup_ml <= seen.followup_limits_ml[:, 1]
    )
    return float(inside.mean())


# ---- alarms


@dataclass(frozen=True)
class AlarmTimes:
    """Follow-up pairs that had come since the change when each kind of alarm was first raised; NEVER: not."""

    any: int
    inputs: int
    scores: int
    promise: int  # the e-value against the promised coverage of the follow-up volume
    named: str  # the first stream
    before: int  # alarms before the change


def alarm_times(year: HospitalYear, changed_in: int, seed: int) -> AlarmTimes:
    """Watch a hospital whose scanner changed in a month, as the node would after every arrival."""
    first = int(np.argmax(year.people.month >= changed_in))
    alarms = [(_arrival(year, alarm), alarm) for alarm in alarms_of(year, seed)]
    inputs = [at for at, alarm in alarms if at >= first and _is_input(alarm)]
    scores = [at for at, alarm in alarms if at >= first and not _is_input(alarm)]
    after = sorted((at, alarm.stream) for at, alarm in alarms if at >= first)
    return AlarmTimes(
        any=_pairs_since(year, first, [at for at, _ in after]),
        inputs=_pairs_since(year, first, inputs),
        scores=_pairs_since(year, first, scores),
        promise=_promise(year, first),
        named=after[0][1] if after else "",
        before=sum(at < first for at, _ in alarms),
    )


def alarms_of(year: HospitalYear, seed: int) -> list[ChangeAlarm]:
    """Return every alarm of a hospital."""
    return watch([*input_streams(year.inputs), *score_streams(year.scores)], seed)


def _is_input(alarm: ChangeAlarm) -> bool:
    return "error" not in alarm.stream


def _arrival(year: HospitalYear, alarm: ChangeAlarm) -> int:
    """Return the number of the patient at whom an alarm was raised."""
    if _is_input(alarm):
        return alarm.at
    quantity = alarm.stream.rsplit(" ", 1)[-1]
    return int(scores_of(year.scores, quantity)[alarm.at].patient[1:])


def _pairs_since(year: HospitalYear, first: int, arrivals: Sequence[int]) -> int:
    return NEVER if not arrivals else int(year.followed[first : min(arrivals) + 1].sum())


def _promise(year: HospitalYear, first: int) -> int:
    """Return the new scanner's pairs until the promise of its interval is disproved."""
    scores = [s for s in scores_of(year.scores, "followup_volume") if s.patient >= patient_name(first)]
    over = np.flatnonzero(coverage_evidence([bool(s.held) for s in scores], PROMISED) >= -np.log(CLAIM_ALPHA))
    return int(over[0]) + 1 if over.size else NEVER


# ---- recalibration


@dataclass(frozen=True)
class RecalibratedCoverage:
    """Hidden coverage of an interval on the new scanner, of patients who taught nothing."""

    before: float
    plain: float  # the exams' own errors count as the model's
    after: float  # they are taken out


def recalibrated_coverage(year: HospitalYear, changed_in: int, pairs: int) -> dict[str, RecalibratedCoverage]:
    """Return what recalibration from the new scanner's first pairs does to each volume's interval."""
    first = patient_name(int(np.argmax(year.people.month >= changed_in)))
    found = {}
    for quantity in VOLUMES:
        own = [s for s in scores_of(year.scores, quantity) if s.patient >= first][:pairs]
        if len(own) < pairs:
            continue
        taught = {score.patient for score in own}
        others = [
            s for s in scores_of(year.hidden, quantity) if s.patient >= first and s.patient not in taught
        ]
        plain, after = (
            covered(others, scaling_of(own, level=PROMISED, exam_sd=sd)) for sd in (0.0, EXAM_SD[quantity])
        )
        found[quantity] = RecalibratedCoverage(_coverage(others, np.ones(len(others))), plain, after)
    return found


def covered(scores: Sequence[Score], scaling: IntervalScaling) -> float:
    """Return the share of truths that the recalibrated intervals hold."""
    held = []
    for s in scores:
        assert s.low is not None
        assert s.high is not None
        low, _, high = scaling.applied(s.predicted, s.low, s.high)
        held.append(low <= s.truth <= high)
    return float(np.mean(held))
