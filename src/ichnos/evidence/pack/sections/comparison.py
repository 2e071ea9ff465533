"""What was compared in how many patients, and what could not be compared and why."""

from __future__ import annotations

from collections.abc import Sequence

from ichnos.evidence.pack.cases import CaseRows
from ichnos.evidence.pack.evaluation import Evaluation
from ichnos.evidence.pack.outcomes.data import outcome_columns
from ichnos.evidence.pack.predictions import layer_name
from ichnos.evidence.pack.section import Section
from ichnos.evidence.tables import Cell, Table

_COMPARED = "compared"


def comparison_section(evaluation: Evaluation, rows: CaseRows) -> Section:
    """List every mask, measure, grade and outcome of the plan with its patients, or why there are none."""
    lines = [*_masks(evaluation, rows), *_columns(evaluation)]
    table = Table(
        "compared",
        "What could be compared",
        ("What", "Patients", "Remark"),
        tuple(lines),
        "One row per item of the plan.",
    )
    text = [*evaluation.predictions.notes]
    if refused := _refused(evaluation):
        text.append(refused)
    numbers = {str(what): {"patients": count, "remark": remark} for what, count, remark in lines}
    return Section(_COMPARED, "What could be compared", tuple(text), (table,), numbers=numbers)


def _refused(evaluation: Evaluation) -> str:
    """Name the scans of evaluated patients that were not read, with the first reasons."""
    refused = evaluation.predictions.refused
    scans = [patient for patient in evaluation.without_prediction if patient in refused]
    if not scans:
        return ""
    reasons = "; ".join(f"{patient}: {refused[patient]}" for patient in scans[:3])
    more = f"; and {len(scans) - 3} more" if len(scans) > 3 else ""
    return f"{len(scans)} scan(s) were not read and count for nothing here. {reasons}{more}."


def _masks(evaluation: Evaluation, rows: CaseRows) -> list[tuple[Cell, Cell, Cell]]:
    lines: list[tuple[Cell, Cell, Cell]] = []
    for target in evaluation.plan.targets:
        for label in evaluation.plan.labels_of(target):
            name = layer_name(target, label)
            truths = sum(name in case.truth for case in evaluation.cases)
            predicted = sum(name in case.predicted for case in evaluation.cases)
            measured = sum(bool(row.get(name)) for row in rows)
            lacking = _lacking(truths, predicted, evaluation.predictions.reasons.get(target, ""))
            lines.append((f"mask: {name}", measured, "compared" if measured else lacking))
    return lines


def _columns(evaluation: Evaluation) -> list[tuple[Cell, Cell, Cell]]:
    plan = evaluation.plan
    asked = [
        *((f"measure: {m.name}", m.predicted, (m.truth,)) for m in plan.measures),
        *((f"grade: {g.name}", g.predicted, (g.truth,)) for g in plan.grades),
        *((f"outcome: {o.name}", o.probability, outcome_columns(plan, o)) for o in plan.outcomes),
    ]
    return [(what, *_column(evaluation, predicted, truth)) for what, predicted, truth in asked]


def _column(evaluation: Evaluation, predicted: str, truth: Sequence[str]) -> tuple[Cell, Cell]:
    table = evaluation.table
    absent = [name for name in truth if name not in table.columns]
    if absent:
        return 0, f"the cohort has no column {', '.join(absent)}"
    name = f"predicted_{predicted}"
    reason = _reason(evaluation, predicted)
    if name not in table.columns:
        return 0, f"the predictions hold no {predicted}{reason}"
    known = table[list(truth)].notna().all(axis=1)
    both = int((known & table[name].notna()).sum())
    if both:
        return both, "compared"
    which = "no patient has the true value" if not known.any() else f"no patient has {predicted}{reason}"
    return 0, which


def _reason(evaluation: Evaluation, column: str) -> str:
    """Return why a measure has no value, as the readings say it."""
    reasons = evaluation.predictions.reasons
    near = (key for key in reasons if key == column or key.startswith(f"{column}_"))
    key = next(near, None)
    return f": {reasons[key]}" if key else ""


def _lacking(truths: int, predicted: int, reason: str) -> str:
    because = f": {reason}" if reason else ""
    if not truths:
        return "the cohort holds no such ground truth" + ("" if predicted else ", nor do the predictions")
    if not predicted:
        return f"the predictions hold no such mask{because}"
    return "no patient has both"
