"""What the tract's injury says of outcome in Murray 2024: nested models, surgery by grade, benefit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from ichnos.clinical.injury import INJURY_GRADES, POSITION_SD_MM
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.intervals import Estimate, bootstrap
from ichnos.evidence.metrics.nested import NestedComparison, compare_nested
from ichnos.evidence.metrics.regression import ModelKind, fit
from ichnos.evidence.tables import Cell, Table, p_value
from ichnos.studies.shared.page import cell, comparison
from ichnos.studies.shared.rows import PatientRow, adjusted_effect, known_number

LIMIT = {"truth": "limit"}
_LEAST_NESTED = 20  # patients, below which nested models are not compared
_LEAST_GRADE = 8  # patients of a grade, below which it has no effect of its own
_BASE = "age_years + gcs + ich_ml + ivh"
_MOTOR, _MRS, _GOOD = "nihss_motor_180d", "mrs_365d", "good"
_PREDICTORS = {
    "lesion load": "+ load",
    "weighted load": "+ weighted",
    "largest loss of cross-section": "+ loss",
    "grade": "+ C(grade)",
    "expected grade": "+ soft",  # known where the tract itself is at hand
}
_OUTCOMES: Mapping[str, tuple[ModelKind, str]] = {
    "motor NIHSS at 180 days": ("linear", _MOTOR),
    "mRS at 365 days": ("ordinal", _MRS),
    "mRS 0 to 3 at 365 days": ("logistic", _GOOD),
}
_BY_GRADE = ("motor NIHSS at 180 days", "mRS at 365 days")  # what surgery's effect is given on
_INTERACTIONS = {
    "surgery x grade": ("C(grade)", "+ C(grade):surgery"),
    "surgery x loss": ("loss", "+ loss:surgery"),
}
_EXPECTED: tuple[tuple[str, ModelKind, str], ...] = (
    ("motor NIHSS", "linear", _MOTOR),
    ("share with mRS 0 to 3", "logistic", _GOOD),
)
_ARMS = {"medical": "0", "surgery": "1", "difference": "1-0"}
_NOT_ADVICE = (
    "A research result about groups of this cohort under its own randomisation; no conclusion about a patient"
    " can be drawn from it."
)


def outcome_frame(rows: Sequence[PatientRow], way: str) -> pd.DataFrame:
    """Return what one way to find the tract says of each trial patient, with facts and outcomes."""
    names = {"grade": "grade", "load": "load_ml", "weighted": "weighted_load_ml", "loss": "loss"}
    names["soft"] = "soft"
    table = pd.DataFrame(
        [
            {
                **{short: known_number(row.get(f"{way}_{long}")) for short, long in names.items()},
                **{n: known_number(row.get(n)) for n in ("age_years", "gcs", "ich_ml", _MOTOR, _MRS)},
                "ivh": float(known_number(row.get("ivh_ml")) > 0),
                "surgery": float(row.get("arm") == "surgery"),
            }
            for row in rows
        ]
    )
    return table.assign(**{_GOOD: (table[_MRS] <= 3).astype(float).where(table[_MRS].notna())})


def added_value_table(rows: Sequence[PatientRow], ways: Mapping[str, str]) -> Table:
    """What each measure of injury adds to age, GCS, volume and ventricular blood."""
    asked = {**ways, **LIMIT}
    soft = any(f"{way}_soft" in row for way in asked for row in rows)  # not where no tract was at hand
    lines: list[dict[str, Cell]] = [
        {
            "measure": f"{outcome}: {predictor}",
            **{
                title: cell(partial(_added, rows, way, kind, f"{column} ~ {_BASE}", term))
                for way, title in asked.items()
            },
        }
        for outcome, (kind, column) in _OUTCOMES.items()
        for predictor, term in _PREDICTORS.items()
        if soft or term != "+ soft"
    ]
    note = (
        "Beside age, GCS, haematoma volume and ventricular blood. Likelihood-ratio test of the added term on"
        " the same patients; explained variance that it adds (R²; Nagelkerke's for mRS), and for mRS 0 to 3"
        " the paired difference of AUC with its interval."
    )
    if soft:
        note += (
            f" Expected grade: the mean grade over a normal error of {POSITION_SD_MM:g} mm of the tract's"
            " place in the axial plane."
        )
    return comparison("added_value", "What the tract adds to age, GCS, volume and IVH", lines, note=note)


def _added(rows: Sequence[PatientRow], way: str, kind: ModelKind, formula: str, term: str) -> str:
    return _comparison_words(_compared(outcome_frame(rows, way), kind, formula, term))


def _compared(table: pd.DataFrame, kind: ModelKind, formula: str, term: str) -> NestedComparison:
    if len(table) < _LEAST_NESTED:
        raise InputRefused(f"{len(table)} patients are too few; {_LEAST_NESTED} are the least")
    return compare_nested(kind, formula, term, table)


def _comparison_words(found: NestedComparison) -> str:
    gain = found.auc_gain
    area = "" if gain is None else f", ΔAUC {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
    test = f"χ² {found.chi2:.1f} ({found.freedom}), p {p_value(found.p)}"
    return f"{test}, R² {found.r2:.2f} {found.r2_added:+.3f}{area}, n {found.n}"


def interaction_table(rows: Sequence[PatientRow], ways: Mapping[str, str]) -> Table:
    """Whether surgery acts by injury, and its effect in each grade."""
    lines: list[dict[str, Cell]] = []
    for outcome, (kind, column) in _OUTCOMES.items():
        for name, (alone, term) in _INTERACTIONS.items():
            formula = f"{column} ~ {_BASE} + surgery + {alone}"
            lines.append(_line(f"{outcome}: {name}", rows, ways, partial(_interacts, kind, formula, term)))
    for grade in range(len(INJURY_GRADES)):
        for outcome in _BY_GRADE:
            kind, column = _OUTCOMES[outcome]
            unit = "points" if kind == "linear" else "common odds ratio of a worse grade"
            measure = f"{outcome}: surgery where graded {INJURY_GRADES[grade]}, {unit}"
            lines.append(_line(measure, rows, ways, partial(_within_grade, kind, column, grade)))
    note = (
        "Likelihood-ratio test of the interaction, then the effect of surgery in each grade from the model"
        " with the interaction, adjusted for age, GCS, volume and ventricular blood. Published, haematoma"
        " infiltration: b -2.07 (-3.8 to -0.4). " + _NOT_ADVICE
    )
    return comparison("interaction", "Surgery and injury of the tract", lines, note=note)


def _line(
    measure: str,
    rows: Sequence[PatientRow],
    ways: Mapping[str, str],
    compute: Callable[[pd.DataFrame], Cell],
) -> dict[str, Cell]:
    return {
        "measure": measure,
        **{
            title: cell(lambda way=way: compute(outcome_frame(rows, way)))  # type: ignore[misc]
            for way, title in {**ways, **LIMIT}.items()
        },
    }


def _interacts(kind: ModelKind, formula: str, term: str, table: pd.DataFrame) -> str:
    return _comparison_words(_compared(table, kind, formula, term))


def _within_grade(kind: ModelKind, column: str, grade: int, table: pd.DataFrame) -> Estimate:
    """Return the effect of surgery in one grade, from the model that lets it differ between grades."""
    data = _of_grades(table, grade, column)
    formula = f"{column} ~ C(grade, Treatment({float(grade)})) * surgery + {_BASE}"
    return adjusted_effect(kind, formula, data, "surgery", of="graded patients")


def _of_grades(table: pd.DataFrame, grade: int, column: str) -> pd.DataFrame:
    """Return the patients with the outcome, of grades that hold enough of both arms; refuse a small grade."""
    known = table.dropna(subset=[column, "grade", "gcs", "age_years", "ich_ml"])
    arms = known.groupby("grade")["surgery"].agg(["size", "nunique"])
    enough = set(arms.index[(arms["size"] >= _LEAST_GRADE) & (arms["nunique"] == 2)])
    if grade not in enough:
        here = int((known["grade"] == grade).sum())
        raise InputRefused(
            f"{here} patients of this grade; {_LEAST_GRADE}, in both arms, are the least for an effect"
        )
    return known[known["grade"].isin(enough)]


def benefit_by_grade_table(rows: Sequence[PatientRow], ways: Mapping[str, str]) -> Table:
    """What outcome is expected of each grade under either arm, standardised to the grade's own patients."""
    way = "truth" if any("truth_grade" in row for row in rows) else next(iter(ways))
    table = outcome_frame(rows, way)
    lines: list[dict[str, Cell]] = []
    for grade, name in enumerate(INJURY_GRADES):
        lines.append(
            {
                "grade": name,
                "patients": int((table["grade"] == grade).sum()),
                **{
                    f"{what}: {title}": cell(partial(_expected, table, kind, column, grade, arm))
                    for what, kind, column in _EXPECTED
                    for title, arm in _ARMS.items()
                },
            }
        )
    graded = "the true tract" if way == "truth" else ways[way]
    note = (
        f"Graded by {graded}. Means over the grade's patients of what the model with the interaction predicts"
        f" under each arm; 95 % by resampling patients. {_NOT_ADVICE}"
    )
    return comparison("expected_benefit", "Expected outcome by grade and arm", lines, note=note)


def _expected(table: pd.DataFrame, kind: ModelKind, column: str, grade: int, arm: str) -> Estimate:
    data = _of_grades(table, grade, column).reset_index(drop=True)
    design, outcome = _design(data), data[column].to_numpy(float)
    fit(kind, f"{column} ~ C(grade) * surgery + {_BASE}", data)  # refuses what the data do not determine
    here = (data["grade"] == grade).to_numpy()
    arms = [_design(data[here].assign(surgery=float(a)), like=data) for a in arm.split("-")]

    def statistic(at: np.ndarray) -> float:
        weights = _solved(kind, design[at], outcome[at])
        means = [float(_mean(kind, part @ weights).mean()) for part in arms]
        return means[0] - means[1] if len(means) == 2 else means[0]

    return bootstrap(statistic, data["grade"].to_numpy(float), rng=np.random.default_rng(0), repeats=300)


def _design(data: pd.DataFrame, *, like: pd.DataFrame | None = None) -> np.ndarray:
    """Return intercept, covariates, grades, surgery, and surgery in each grade, as columns."""
    grades = sorted((data if like is None else like)["grade"].unique())
    of_grade = np.column_stack([(data["grade"] == g).to_numpy(float) for g in grades])
    surgery = data["surgery"].to_numpy(float)[:, None]
    covariates = data[["age_years", "gcs", "ich_ml", "ivh"]].to_numpy(float)
    return np.hstack([of_grade, covariates, of_grade * surgery])


def _solved(kind: ModelKind, design: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Fit by least squares, or by Newton's steps with a touch of ridge that keeps a resample finite."""
    if kind == "linear":
        return np.asarray(np.linalg.lstsq(design, outcome, rcond=None)[0])
    scale = np.abs(design).max(axis=0).clip(1e-9)
    x, weights = design / scale, np.zeros(design.shape[1])
    for _ in range(12):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        hessian = (x.T * (p * (1 - p))) @ x + 1e-3 * np.eye(x.shape[1])
        weights = weights + np.linalg.solve(hessian, x.T @ (outcome - p) - 1e-3 * weights)
    return np.asarray(weights / scale)


def _mean(kind: ModelKind, linear: np.ndarray) -> np.ndarray:
    return linear if kind == "linear" else 1 / (1 + np.exp(-np.clip(linear, -30, 30)))
