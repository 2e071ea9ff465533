"""The tables of Murray 2024: overlap, injury, outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from ichnos.anatomy.tract import SIDES
from ichnos.clinical.injury import INJURY_GRADES
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.agreement import weighted_kappa
from ichnos.evidence.metrics.regression import ModelKind
from ichnos.evidence.metrics.resampling import resampled_pearson
from ichnos.evidence.tables import Cell, Table
from ichnos.studies.murray2024.design import AGAINST_TRUTH
from ichnos.studies.murray2024.effects import LIMIT, outcome_frame
from ichnos.studies.shared.grid_limit import AT_VOXELS, LABEL_AT_VOXELS
from ichnos.studies.shared.page import cell, comparison
from ichnos.studies.shared.rows import (
    PatientRow,
    adjusted_effect,
    column_mean,
    known_number,
    paired_columns,
    table_row,
)

_LEAST_GRADED = 8  # patients, below which no regression is tried


def grade_rank(text: object) -> float:
    return float(INJURY_GRADES.index(str(text))) if text in INJURY_GRADES else float("nan")


def overlap_table(rows: Sequence[PatientRow], ways: Mapping[str, str]) -> Table:
    healthy = [row for row in rows if not row.get("ich_ml")]
    asked: tuple[tuple[str, Cell, Callable[[str], Cell]], ...] = (
        ("Dice, both sides", 0.57, partial(_dice, rows)),
        ("Dice, left", "not reported", partial(_dice, rows, sides=("left",))),
        ("Dice, right", "not reported", partial(_dice, rows, sides=("right",))),
        ("Dice, side of the haematoma", "not reported", partial(_dice, rows, bleeding=True)),
        ("Dice, other side", "not reported", partial(_dice, rows, bleeding=False)),
        ("Dice, patients without haematoma", "not reported", partial(_dice, healthy)),
    )
    out = [table_row(measure, paper, ways, compare, compare("label")) for measure, paper, compare in asked]
    if any(f"{way}{AGAINST_TRUTH}_{side}_dice" in row for row in rows for way in ways for side in SIDES):
        unknown, same = "unknown outside a simulation", partial(_dice_with_truth, rows)
        out.append(table_row("Dice with the true tract", unknown, ways, same, _dice(rows, "label")))
    if any(f"{way}{AT_VOXELS}_{side}_dice" in row for row in rows for way in ways for side in SIDES):
        at_voxels = partial(_dice_at_voxels, rows)
        out.append(table_row(LABEL_AT_VOXELS, "not reported", ways, at_voxels, "1 by definition"))
    return comparison(
        "murray2024",
        "The paper's table, and ours: overlap with the tract label",
        out,
        note="Held-out pairs. limit: the label against the simulation's own tract.",
    )


def _dice_at_voxels(rows: Sequence[PatientRow], way: str) -> Cell:
    known = any(f"{way}{AT_VOXELS}_{side}_dice" in row for row in rows for side in SIDES)
    return _dice(rows, f"{way}{AT_VOXELS}") if known else "no network"


def _dice_with_truth(rows: Sequence[PatientRow], way: str) -> Cell:
    return _dice(rows, f"{way}{AGAINST_TRUTH}")


def _dice(
    rows: Sequence[PatientRow], way: str, *, sides: Sequence[str] = SIDES, bleeding: bool | None = None
) -> Cell:
    """Return the mean Dice over patients, each the mean of its sides; with `bleeding`, of the side that
    bleeds or the other.
    """
    chosen = []
    for row in rows:
        asked = [
            known_number(row.get(f"{way}_{side}_dice"))
            for side in sides
            if bleeding is None or (row.get("side") is not None and (side == row["side"]) == bleeding)
        ]
        known = [dice for dice in asked if np.isfinite(dice)]
        chosen.append({"dice": float(np.mean(known)) if known else None})
    return column_mean(chosen, "dice", of="such a side and a tract to compare with")


def injury_table(rows: Sequence[PatientRow], ways: Mapping[str, str]) -> Table:
    """Return how each way's grades, loads and losses agree with those of the true tract."""
    unknown, certain = "unknown outside a simulation", "1 by definition"
    kappa = partial(_kappa, rows)
    out = [table_row("weighted kappa, grade against the truth's", unknown, ways, kappa, kappa("truth"))]
    for title, name in (
        ("lesion load", "load_ml"),
        ("weighted load", "weighted_load_ml"),
        ("largest loss of cross-section", "loss"),
        ("expected grade", "soft"),
    ):
        if not any(f"{way}_{name}" in row for way in (*ways, "truth") for row in rows):
            continue  # a trial without tracts at hand has no expected grade
        same = partial(_load, rows, name)
        out.append(table_row(f"r, {title} against the truth's", unknown, ways, same, certain))
    for code, grade in enumerate(INJURY_GRADES):
        count = partial(_count, rows, code)
        out.append(table_row(f"patients graded {grade}", "not reported", ways, count, count("truth")))
    return comparison("injury", f"Injury of the tract in {len(rows)} trial patients", out)


def _kappa(rows: Sequence[PatientRow], way: str) -> Cell:
    return cell(lambda: weighted_kappa(*paired_columns(rows, f"{way}_grade", "true_grade"), grades=4))


def _load(rows: Sequence[PatientRow], name: str, way: str) -> Cell:
    return cell(lambda: resampled_pearson(*paired_columns(rows, f"{way}_{name}", f"truth_{name}")))


def _count(rows: Sequence[PatientRow], code: int, way: str) -> Cell:
    graded = [known_number(row.get(f"{way}_grade")) for row in rows]
    return f"{sum(grade == code for grade in graded)} of {sum(np.isfinite(graded))} who could be graded"


_WANTED: tuple[tuple[str, str, ModelKind, str], ...] = (  # measure, paper, model, grade
    (
        "motor NIHSS at 180 days: no risk against interruption",
        "b -3.77 (-5.8 to -1.70)",
        "linear",
        "no risk",
    ),
    (
        "motor NIHSS: PHE infiltration against interruption",
        "b -2.3 (-3.5 to -1.1)",
        "linear",
        "PHE infiltration",
    ),
    ("mRS at 365 days: no risk against interruption", "aOR 0.27 (0.10 to 0.74)", "ordinal", "no risk"),
    (
        "mRS at 365 days: PHE infiltration against interruption",
        "aOR 0.41 (0.23 to 0.74)",
        "ordinal",
        "PHE infiltration",
    ),
)
_SURGERY = ("motor NIHSS: surgery where the haematoma infiltrates", "b -2.07 (-3.8 to -0.4)")
_COVARIATES = "age_years + ich_ml"  # as the published effects are adjusted


def outcome_table(rows: Sequence[PatientRow], ways: Mapping[str, str]) -> Table:
    """Return effects on motor NIHSS (points) and mRS (odds), each way's grades in turn."""
    asked = {**ways, **LIMIT}
    out: list[dict[str, Cell]] = [
        {
            "measure": measure,
            "paper": paper,
            **{t: cell(partial(_grade_effect, rows, way, kind, grade)) for way, t in asked.items()},
        }
        for measure, paper, kind, grade in _WANTED
    ]
    surgery: dict[str, Cell] = {t: cell(partial(_surgery_effect, rows, way)) for way, t in asked.items()}
    out.insert(2, {"measure": _SURGERY[0], "paper": _SURGERY[1], **surgery})
    return comparison(
        "outcome",
        "Outcome by grade of injury, adjusted for age and volume",
        out,
        note="limit: the grade by the true tract.",
    )


def _graded(rows: Sequence[PatientRow], way: str) -> pd.DataFrame:
    table = outcome_frame(rows, way).dropna(subset=["grade"])
    if len(table) < _LEAST_GRADED:
        raise InputRefused(f"{len(table)} patient(s) are too few for a regression")
    return table.assign(grade=[INJURY_GRADES[int(g)].replace(" ", "_") for g in table["grade"]])


def _surgery_effect(rows: Sequence[PatientRow], way: str) -> Cell:
    """Return the effect of surgery within haematoma infiltration, as the published one."""
    table = _graded(rows, way)
    table = table[table["grade"] == "haematoma_infiltration"]
    if len(table) < _LEAST_GRADED:
        raise InputRefused(f"{len(table)} patient(s) are too few for a regression")
    formula = f"nihss_motor_180d ~ surgery + {_COVARIATES}"
    return adjusted_effect("linear", formula, table, "surgery", of="patients of the grade")


def _grade_effect(rows: Sequence[PatientRow], way: str, kind: ModelKind, grade: str) -> Cell:
    table = _graded(rows, way)
    here, reference = grade.replace(" ", "_"), INJURY_GRADES[-1].replace(" ", "_")
    if not {here, reference} <= set(table["grade"]):
        absent = grade if here not in set(table["grade"]) else INJURY_GRADES[-1]
        raise InputRefused(f"no patient was graded {absent}, so there is nothing to compare")
    outcome, joined = ("nihss_motor_180d", "*") if kind == "linear" else ("mrs_365d", "+")
    formula = f"{outcome} ~ C(grade, Treatment('{reference}')) {joined} surgery + {_COVARIATES}"
    term = f"C(grade, Treatment('{reference}'))[T.{here}]"
    return adjusted_effect(kind, formula, table, term, of="graded patients")
