"""A simulated hospital judges the audit: do partner exams tell the truth, are alarms raised when something
changes and only then, does recalibration restore what was promised?
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ichnos.audit.betting import pairs_until_alarm
from ichnos.audit.change import ALPHA
from ichnos.audit.pool import pooled_table
from ichnos.audit.statistics import site_statistics
from ichnos.evidence.metrics.intervals import mean_interval, proportion
from ichnos.evidence.tables import Cell, Table
from ichnos.studies.hospital.measures import (
    NEVER,
    VOLUMES,
    Agreement,
    AlarmTimes,
    agreements,
    alarm_times,
    alarms_of,
    harmful,
    hospitals,
    recalibrated_coverage,
)
from ichnos.studies.hospital.model import LEVEL, FactoryModel, factory_model
from ichnos.studies.hospital.scanners import NEW
from ichnos.studies.hospital.year import HospitalPlan, HospitalYear, simulate_year
from ichnos.studies.shared.page import StudyPage

REPLACED_IN, PROTOCOL_IN = 4, 6
TAUGHT_PAIRS = 40
_QUIET_SEED, _CHANGED_SEED = 1000, 2000
_WORSE_POINTS = 15.0
# Bias and spread of the readings at five sites.
_SITE_SCANNERS = (
    (0.0, 1.0),
    (0.1, 1.0),
    (-0.1, 1.1),
    (0.05, 1.3),
    (0.2, 0.9),
)
_SITES_SEED = 3000


@dataclass(frozen=True)
class HospitalBudget:
    """How many hospitals, and how large."""

    count: int = 20
    patients: int = 1500
    points: float = 5.0  # of coverage that the new scanner costs


def hospital_study(budget: HospitalBudget, say: Callable[[str], None] = lambda sentence: None) -> StudyPage:
    """Run quiet and changing hospitals and return the page."""
    model, plan = factory_model(), HospitalPlan(patients=budget.patients)
    say(f"{budget.count} quiet hospitals")
    quiet = hospitals(plan, model, budget.count, _QUIET_SEED)
    tables = [_agreement_table(budget, plan, model, quiet), _quiet_table(quiet)]
    changed: dict[str, list[HospitalYear]] = {}
    for kind in ("bias", "spread"):
        for points in (budget.points, _WORSE_POINTS):
            say(f"{budget.count} hospitals with a new scanner: {points:g} points lost by {kind}")
            new = harmful(model, kind, points)
            years = hospitals(
                replace(plan, replaced_in=REPLACED_IN, new=new), model, budget.count, _CHANGED_SEED
            )
            changed[f"{points:g} points by {kind}"] = years
    tables += [_alarm_table(changed), _bound_table(budget), _recalibration_table(changed)]
    tables += [_protocol_table(plan, model), _sites_table(plan, model)]
    return StudyPage(
        "hospital",
        "A simulated hospital: what partner exams tell of a model",
        "ichnos' own design; no paper is reproduced",
        _design(budget),
        tuple(tables),
        limits=_LIMITS,
        provenance={"hospitals": budget.count, "patients each": budget.patients},
    )


def _design(budget: HospitalBudget) -> tuple[str, ...]:
    return (
        f"{budget.patients} patients with a haemorrhage arrive over {HospitalPlan().months} months, drawn"
        " from the simulation's disease law. A stand-in for the model reads volumes with the error that the"
        " shipped weights have on simulated scans (volumes.json), and forecasts expansion with the AUC of"
        " the shipped growth model. Its intervals (80 %) and probabilities were calibrated before, on 6,000"
        " other patients of the same law.",
        "55 % get a follow-up CT by indication: large haematomas, high forecasts, early arrival,"
        " anticoagulation; 25 % a FLAIR. A person outlines the blood on both CTs unless said otherwise.",
        f"In changing hospitals the scanner is replaced in month {REPLACED_IN}: noise and HU zero as the"
        " simulated scanners have them, and readings err more, by a bias or by scatter, just so much that the"
        " interval of the follow-up volume loses the stated points of coverage.",
    )


_LIMITS = (
    "Facts and numbers only: no voxel was drawn, no network ran. How a scanner changes a reading is set,"
    " not measured.",
    "Who gets a follow-up is known to the weights. The row with unseen selection shows what happens"
    " otherwise.",
    "Trained on simulated patients; nothing here is about real ones.",
)


# ---- agreement


def _agreement_table(
    budget: HospitalBudget, plan: HospitalPlan, model: FactoryModel, quiet: Sequence[HospitalYear]
) -> Table:
    """Compare partner exams with the hidden truth: as designed, and where its assumptions fail."""
    rows = _agreement_rows("as designed", quiet)
    unseen = hospitals(replace(plan, unseen=0.7), model, budget.count, _QUIET_SEED)
    rows += _agreement_rows("growth decides too, unseen", unseen)
    read = hospitals(replace(plan, outlined=False), model, budget.count, _QUIET_SEED)
    rows += _agreement_rows("follow-up read by the same model", read)
    columns = ("hospitals", "number", "partner exams", "weighted", "hidden truth", "weighted minus hidden")
    note = (
        "Means over hospitals with 95 % intervals. Aim: slope within 0.1, coverage within 3 points, weighted."
    )
    return Table("agreement", "Scores by partner exams and by the hidden truth", columns, tuple(rows), note)


def _agreement_rows(name: str, years: Sequence[HospitalYear]) -> list[tuple[Cell, ...]]:
    each = [agreements(year) for year in years]
    rows: list[tuple[Cell, ...]] = []
    for quantity in each[0]:
        words = f"coverage of {quantity}" if quantity in VOLUMES else f"calibration slope of {quantity}"
        own: list[Agreement] = [one[quantity] for one in each]
        values = [mean_interval([getattr(a, part) for a in own]) for part in ("plain", "weighted", "hidden")]
        rows.append((name, words, *values, mean_interval([a.weighted - a.hidden for a in own])))
    return rows


def _quiet_table(quiet: Sequence[HospitalYear]) -> Table:
    alarms = [alarms_of(year, k) for k, year in enumerate(quiet)]
    false = sum(bool(one) for one in alarms)
    named = Counter(alarm.stream for one in alarms for alarm in one)
    words = ", ".join(f"{stream} ({n})" for stream, n in named.items()) or "none"
    row = (len(quiet), false, proportion(false, len(quiet)), words)
    columns = ("quiet hospitals", "with a false alarm", "share", "streams")
    return Table(
        "quiet", "False alarms", columns, (row,), f"Promised: at most {100 * ALPHA:.0f} % of hospitals."
    )


# ---- alarms


def _alarm_table(changed: dict[str, list[HospitalYear]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, years in changed.items():
        times = [alarm_times(year, REPLACED_IN, k) for k, year in enumerate(years)]
        for words, part in _PARTS.items():
            rows.append((name, words, *_delay(times, part, years)))
        named = Counter(one.named for one in times if one.named)
        rows.append(
            (
                name,
                "first named",
                ", ".join(f"{stream} ({n})" for stream, n in named.items()) or "none",
                "",
                "",
            )
        )
    note = (
        "Follow-up pairs that had come since the scanner was replaced; in the last column those of the"
        " hospital's remaining months, which is what a missed alarm had."
    )
    columns = (
        "new scanner costs",
        "alarm by",
        "median pairs until alarm (range)",
        "within 50 pairs",
        "pairs in all",
    )
    return Table("alarms", "How soon a change is noticed", columns, tuple(rows), note)


_PARTS = {
    "any stream": "any",
    "inputs of all CTs": "inputs",
    "errors of pairs": "scores",
    "promised coverage alone": "promise",
}


def _delay(times: Sequence[AlarmTimes], part: str, years: Sequence[HospitalYear]) -> tuple[Cell, Cell, Cell]:
    values = [getattr(one, part) for one in times]
    raised = [value for value in values if value != NEVER]
    soon = proportion(sum(0 <= value <= 50 for value in values), len(values))
    pairs = [int(y.followed[y.people.month >= REPLACED_IN].sum()) for y in years]
    whole = f"{np.median(pairs):.0f}"
    if not raised:
        return f"raised in none of {len(values)}", soon, whole
    missed = f"; not in {len(values) - len(raised)} of {len(values)}" if len(raised) < len(values) else ""
    return f"{np.median(raised):.0f} ({min(raised)} to {max(raised)}){missed}", soon, whole


def _bound_table(budget: HospitalBudget) -> Table:
    rows = tuple(
        (f"{points:g}", pairs_until_alarm(LEVEL, LEVEL - points / 100))
        for points in (budget.points, 10.0, 15.0, 20.0)
    )
    note = (
        "ln(1 / 0.05) over the Kullback-Leibler divergence of the two coverages: what even the best bet"
        " needs on average that knows the loss and when it began, if it sees nothing but whether intervals"
        " held. Bias and scatter of the errors, and the inputs of all CTs, tell more."
    )
    columns = ("points of coverage lost", "pairs needed at least")
    return Table("bound", "The least pairs that coverage alone needs", columns, rows, note)


def _protocol_table(plan: HospitalPlan, model: FactoryModel) -> Table:
    """Make slices thinner in month six, which costs nothing: the alarm must name slices and noise."""
    years = hospitals(replace(plan, protocol_in=PROTOCOL_IN), model, 5, _CHANGED_SEED)
    alarms = [alarms_of(year, k) for k, year in enumerate(years)]
    named = Counter(alarm.stream for one in alarms for alarm in one)
    rows = tuple((stream, f"{n} of {len(years)}") for stream, n in named.items()) or (("none", "0"),)
    return Table(
        "protocol", "Slices from 5 to 2.5 mm in month six: what is named", ("stream", "hospitals"), rows
    )


def _sites_table(plan: HospitalPlan, model: FactoryModel) -> Table:
    """Pool five sites with scanners of their own from their statistics, beside the hidden truth of all."""
    statistics, hidden = [], []
    for k, (bias, spread) in enumerate(_SITE_SCANNERS):
        scanner = replace(NEW, name=f"scanner {k + 1}", bias=bias, spread=spread)
        year = simulate_year(replace(plan, replaced_in=1, new=scanner), model, _SITES_SEED + k)
        statistics += site_statistics(year.scores, site=f"site {k + 1}")
        hidden += site_statistics(year.hidden, site=f"site {k + 1}")
    truth = {row[1:3]: row[4] for row in pooled_table(hidden).rows}
    rows = tuple((*row[1:6], truth.get(row[1:3], "not pooled")) for row in pooled_table(statistics).rows)
    columns = ("quantity", "number", "sites", "partner exams", "next site", "hidden truth of all patients")
    note = "Random effects over five simulated sites, each with its own bias and scatter, from tables alone."
    return Table("sites", "Five sites pooled without moving data", columns, rows, note)


# ---- recalibration


def _recalibration_table(changed: dict[str, list[HospitalYear]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, years in changed.items():
        each = [recalibrated_coverage(year, REPLACED_IN, TAUGHT_PAIRS) for year in years]
        for quantity in VOLUMES:
            own = [one[quantity] for one in each if quantity in one]
            before, after = ([part[i] for part in own] for i in (0, 1))
            spread = float(np.std(after, ddof=1)) if len(after) > 1 else float("nan")
            rows.append((name, quantity, mean_interval(before), mean_interval(after), f"{spread:.3f}"))
    columns = ("new scanner costs", "interval", "hidden coverage before", "after", "standard deviation after")
    caption = f"Recalibration from the new scanner's first {TAUGHT_PAIRS} pairs"
    note = (
        "Hidden truth of all later patients on the new scanner; those who taught are left out. Aim: 80 ± 3 %."
    )
    return Table("recalibration", caption, columns, tuple(rows), note)
