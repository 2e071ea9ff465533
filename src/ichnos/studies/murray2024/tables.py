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
from ichnos.evidence.metrics.nested import compare_nested
from ichnos.evidence.metrics.regression import ModelKind
from ichnos.evidence.metrics.resampling import resampled_pearson
from ichnos.evidence.tables import Cell, Table, p_value
from ichnos.studies.shared.page import cell, comparison
from ichnos.studies.shared.rows import (
    PatientRow,
    adjusted_effect,
    column_mean,
    known_number,
    paired_columns,
    table_row,
)

_LEAST_NESTED = 20  # patients, below which nested models are not compared


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
    return comparison(
        "murray2024", "The paper's table, and ours: overlap with the tract label", out, note="Held-out pairs."
    )


def _dice(
    rows: Sequence[PatientRow], way: str, *, sides: Sequence[str] = SIDES, bleeding: bool | None = None
) -> Cell:
    """Return the mean Dice over sides; with `bleeding`, over the sides that bleed or those that do not."""
    chosen = [
        {"dice": row.get(f"{way}_{side}_dice")}
        for row in rows
        for side in sides
        if bleeding is None or (row.get("side") is not None and (side == row["side"]) == bleeding)
    ]
    return column_mean(chosen, "dice", of="such a side and a tract to compare with")


def injury_table(rows: Sequence[PatientRow], ways: Mapping[str, str]) -> Table:
    unknown, certain = "unknown outside a simulation", "1 by definition"
    kappa, load, weighted = (
        partial(_kappa, rows),
        partial(_load, rows, "load_ml"),
        partial(_load, rows, "weighted_load_ml"),
    )
    out = [
        table_row("weighted kappa, grade against the truth's", unknown, ways, kappa, kappa("truth")),
        table_row("r, lesion load against the truth's", unknown, ways, load, certain),
        table_row("r, weighted load against the truth's", unknown, ways, weighted, certain),
    ]
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


def outcome_table(rows: Sequence[PatientRow], ways: Mapping[str, str]) -> Table:
    """Return effects on motor NIHSS (points) and mRS (odds), each way's grades in turn."""
    wanted = (
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
        (
            "motor NIHSS: surgery where the haematoma infiltrates",
            "b -2.07 (-3.8 to -0.4)",
            "surgery",
            "haematoma infiltration",
        ),
        ("mRS at 365 days: no risk against interruption", "aOR 0.27 (0.10 to 0.74)", "ordinal", "no risk"),
        (
            "mRS at 365 days: PHE infiltration against interruption",
            "aOR 0.41 (0.23 to 0.74)",
            "ordinal",
            "PHE infiltration",
        ),
    )
    asked = {**ways, "truth": "limit"}
    out: list[dict[str, Cell]] = []
    for measure, paper, kind, grade in wanted:
        out.append(
            {
                "measure": measure,
                "paper": paper,
                **{title: _effect(rows, way, kind, grade) for way, title in asked.items()},
            }
        )
    return comparison(
        "outcome",
        "Outcome by grade of injury, adjusted for age and volume",
        out,
        note="limit: the grade by the true tract.",
    )


def _effect(rows: Sequence[PatientRow], way: str, kind: str, grade: str) -> Cell:
    def compute() -> Cell:
        known = [row for row in rows if np.isfinite(known_number(row.get(f"{way}_grade")))]
        if kind == "surgery":  # within the grade, as the published effect
            known = [row for row in known if INJURY_GRADES[int(row[f"{way}_grade"])] == grade]
        if len(known) < 8:
            raise InputRefused(f"{len(known)} patient(s) are too few for a regression")
        table = pd.DataFrame(
            {
                "grade": [INJURY_GRADES[int(row[f"{way}_grade"])].replace(" ", "_") for row in known],
                "surgery": [float(row["arm"] == "surgery") for row in known],
                **{
                    name: [known_number(row.get(name)) for row in known]
                    for name in ("age_years", "ich_ml", "nihss_motor_180d", "mrs_365d")
                },
            }
        )
        if kind == "surgery":
            return adjusted_effect(
                "linear",
                "nihss_motor_180d ~ surgery + age_years + ich_ml",
                table,
                "surgery",
                of="patients of the grade",
            )
        here, reference = grade.replace(" ", "_"), INJURY_GRADES[-1].replace(" ", "_")
        if not {here, reference} <= set(table["grade"]):
            absent = grade if here not in set(table["grade"]) else INJURY_GRADES[-1]
            raise InputRefused(f"no patient was graded {absent}, so there is nothing to compare")
        outcome = "nihss_motor_180d" if kind == "linear" else "mrs_365d"
        formula = f"{outcome} ~ C(grade, Treatment('{reference}')) * surgery + age_years + ich_ml"
        if kind == "ordinal":
            formula = formula.replace(" * surgery", " + surgery")
        term = f"C(grade, Treatment('{reference}'))[T.{here}]"
        return adjusted_effect(
            "linear" if kind == "linear" else "ordinal", formula, table, term, of="graded patients"
        )

    return cell(compute)


def added_value_table(rows: Sequence[PatientRow], ways: Mapping[str, str]) -> Table:
    """What load and grade of each way add to age and volume, and whether surgery acts by grade."""
    asked = (
        ("motor NIHSS at 180 days: lesion load", "linear", "nihss_motor_180d ~ age_years + ich_ml", "+ load"),
        ("motor NIHSS at 180 days: grade", "linear", "nihss_motor_180d ~ age_years + ich_ml", "+ grade"),
        ("mRS 0 to 3 at 365 days: lesion load", "logistic", "good ~ age_years + ich_ml", "+ load"),
        (
            "motor NIHSS: surgery x grade (interaction)",
            "linear",
            "nihss_motor_180d ~ age_years + ich_ml + grade + surgery",
            "+ grade:surgery",
        ),
    )
    lines: list[dict[str, Cell]] = [
        {
            "measure": measure,
            **{
                title: cell(partial(_added_value, rows, way, kind, formula, term))  # type: ignore[arg-type]
                for way, title in {**ways, "truth": "limit"}.items()
            },
        }
        for measure, kind, formula, term in asked
    ]
    note = (
        "Likelihood-ratio test of the added term on the same patients; explained variance that it adds (R²,"
        " Nagelkerke's for mRS), and for mRS the difference of AUC with its interval. Grade from 0 to 3."
    )
    return comparison("added_value", "What the tract adds to age and volume", lines, note=note)


def _added_value(rows: Sequence[PatientRow], way: str, kind: ModelKind, formula: str, term: str) -> str:
    table = pd.DataFrame(
        [
            {
                "grade": known_number(row.get(f"{way}_grade")),
                "load": known_number(row.get(f"{way}_load_ml")),
                "surgery": float(row["arm"] == "surgery"),
                "good": _good_outcome(known_number(row.get("mrs_365d"))),
                **{n: known_number(row.get(n)) for n in ("age_years", "ich_ml", "nihss_motor_180d")},
            }
            for row in rows
        ]
    )
    if len(table) < _LEAST_NESTED:
        raise InputRefused(f"{len(table)} patients are too few; {_LEAST_NESTED} are the least")
    found = compare_nested(kind, formula, term, table)
    gain = found.auc_gain
    area = "" if gain is None else f", ΔAUC {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
    return f"p {p_value(found.p)}, R² {found.r2:.2f} {found.r2_added:+.3f}{area}"


def _good_outcome(mrs: float) -> float:
    return float("nan") if np.isnan(mrs) else float(mrs <= 3)
