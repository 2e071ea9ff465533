"""What outlines of a lot do for a hospital whose model reads the follow-ups itself, by the functions of live
evidence and of recalibration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from ichnos.arrays import Floats
from ichnos.audit.monitoring.judges import (
    BY_MODEL,
    BY_PEOPLE,
    CORRECTED,
    COVERAGE,
    INTERCEPT,
    SLOPE,
    followup_numbers,
)
from ichnos.audit.monitoring.selection import weighted_calibration
from ichnos.audit.recalibration import chance_of, scaling_of
from ichnos.audit.score import Judge, Score
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.calibration import logit
from ichnos.evidence.metrics.intervals import Estimate, mean_interval, proportion
from ichnos.evidence.tables import Cell, Table
from ichnos.prognosis.site import ChanceShift, IntervalScaling
from ichnos.studies.hospital.measures import covered, scores_of
from ichnos.studies.hospital.model import PROMISED
from ichnos.studies.hospital.year import HospitalYear

_VOLUME, _RISK = "followup_volume", "expansion_probability"
_ASKED = ((_VOLUME, COVERAGE), (_RISK, SLOPE), (_RISK, INTERCEPT))


@dataclass(frozen=True)
class OutlinedAgreement:
    """One number by the model alone, corrected, by people alone, and by the hidden truth of everybody."""

    model: float
    corrected: float
    people: float
    hidden: float
    held: bool  # whether the corrected number's interval held the hidden one
    pairs: int
    outlined: int


def outlined_agreements(year: HospitalYear) -> dict[str, OutlinedAgreement]:
    """Return each number as live evidence has it, beside the hidden truth."""
    numbers = {
        (one.quantity, one.number, one.means): one for one in followup_numbers(year.scores, year.everyone())
    }
    found = {}
    for (quantity, number), hidden in zip(_ASKED, _hidden(year), strict=True):
        ways = [numbers[quantity, number, means] for means in (BY_MODEL, CORRECTED, BY_PEOPLE)]
        model, corrected, people = (_estimate(one.value) for one in ways)
        held = corrected.low <= hidden <= corrected.high
        found[f"{number} of {quantity}"] = OutlinedAgreement(
            model.value, corrected.value, people.value, hidden, held, ways[1].pairs, ways[1].outlined
        )
    return found


def _hidden(year: HospitalYear) -> tuple[float, float, float]:
    coverage = float(np.mean([bool(score.held) for score in scores_of(year.hidden, _VOLUME)]))
    truth, p = _outcomes(scores_of(year.hidden, _RISK))
    intercept, slope = weighted_calibration(truth, p, np.ones(len(p)))
    return coverage, slope, intercept


def _outcomes(scores: Sequence[Score]) -> tuple[Floats, Floats]:
    return np.array([s.truth for s in scores]), np.array([s.predicted for s in scores])


def _estimate(value: Estimate | str) -> Estimate:
    if isinstance(value, str):
        raise InputRefused(f"a hospital is too small to be corrected: {value}; give it more patients")
    return value


# ---- what each judge teaches


@dataclass(frozen=True)
class TaughtHospital:
    """Hidden truth of everybody after recalibration."""

    coverage: float  # of the follow-up volume
    excess: float  # mean P(expansion) minus the share that expanded
    slope: float  # of P(expansion)
    pairs: int


def taught_each_way(year: HospitalYear) -> dict[str, TaughtHospital]:
    """Return what recalibration makes of the model: untaught, by its own judgement, by people's outlines."""
    found = {"nobody": _taught(year, None, None, 0)}
    judges: dict[str, Judge] = {BY_MODEL: "model", BY_PEOPLE: "person"}
    for name, judge in judges.items():
        volumes, risks = (
            [score for score in scores_of(year.scores, quantity) if score.judge == judge]
            for quantity in (_VOLUME, _RISK)
        )
        truth, p = _outcomes(risks)
        shift = chance_of(p.tolist(), (truth > 0).tolist())
        found[name] = _taught(year, scaling_of(volumes, level=PROMISED), shift, len(volumes))
    return found


def _taught(
    year: HospitalYear, scaling: IntervalScaling | None, shift: ChanceShift | None, pairs: int
) -> TaughtHospital:
    same = IntervalScaling(low=-1, middle=0, high=1, pairs=1, level=PROMISED)
    coverage = covered(scores_of(year.hidden, _VOLUME), scaling or same)
    truth, p = _outcomes(scores_of(year.hidden, _RISK))
    if shift is not None:
        p = np.asarray(expit(shift.intercept + shift.slope * logit(p)))
    slope = weighted_calibration(truth, p, np.ones(len(p)))[1]
    return TaughtHospital(coverage, float(p.mean() - truth.mean()), slope, pairs)


# ---- tables

_Rows = Sequence[Mapping[str, Any]]  # one per hospital


def outlined_table(rows: _Rows) -> Table:
    """Compare the model alone, corrected and people alone with the hidden truth."""
    found: list[tuple[Cell, ...]] = []
    for words in rows[0]["outlined"]:
        own = [row["outlined"][words] for row in rows]
        ways = [
            mean_interval([one[way] for one in own]) for way in ("model", "people", "corrected", "hidden")
        ]
        differences = [one["corrected"] - one["hidden"] for one in own]
        people = np.std([one["people"] - one["hidden"] for one in own])
        spread = f"{np.std(differences):.3f}; people alone {people:.3f}"
        held = proportion(sum(one["held"] for one in own), len(own))
        found.append((words, *ways, mean_interval(differences), spread, held))
    columns = (
        "number", "the model itself, alone", "people alone", "corrected", "hidden truth",
        "corrected - hidden", "SD of it", "interval held the hidden",
    )  # fmt: skip
    pairs, outlined = (np.median([row["outlined"][words][n] for row in rows]) for n in ("pairs", "outlined"))
    note = (
        f"Means over hospitals with 95 % intervals, all weighted for selection; {pairs:.0f} follow-ups, of"
        f" which people outlined {outlined:.0f} by lot (medians). Aim: slope within 0.1, coverage within 3"
        " points."
    )
    caption = "Follow-ups read by the model, one in five outlined by people"
    return Table("outlined", caption, columns, tuple(found), note)


def taught_table(rows: _Rows) -> Table:
    """Compare what the model's own judgement and people's outlines teach."""
    found: list[tuple[Cell, ...]] = []
    for judge in rows[0]["taught"]:
        own = [row["taught"][judge] for row in rows]
        means = [mean_interval([one[part] for one in own]) for part in ("coverage", "excess", "slope")]
        found.append((judge, f"{np.median([one['pairs'] for one in own]):.0f}", *means))
    columns = (
        "taught by", "pairs", "coverage of followup_volume", "mean P(expansion) - share", "calibration slope",
    )  # fmt: skip
    note = (
        "Hidden truth of everybody in hospitals where nothing changes and the model was calibrated before."
        " `ichnos adapt` uses people's outlines alone."
    )
    caption = "Recalibration where the model reads the follow-ups itself"
    return Table("taught", caption, columns, tuple(found), note)
