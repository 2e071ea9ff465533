"""Sections on numbers, their intervals, and grades that predictions and cohort both hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.agreement import (
    VolumeCalibrator,
    concordance,
    fit_volume_calibrator,
    pearson,
    spearman,
    weighted_kappa,
)
from ichnos.evidence.metrics.intervals import proportion
from ichnos.evidence.pack.evaluation import Evaluation
from ichnos.evidence.pack.flags import ReviewFlag
from ichnos.evidence.pack.outcomes.data import stem_of
from ichnos.evidence.pack.plan import GradePlan, MeasurePlan
from ichnos.evidence.pack.section import Section
from ichnos.evidence.pack.sections.agreement import agreement_of
from ichnos.evidence.tables import Cell, Table

_LEAST_TO_CALIBRATE = 20  # validation patients with both values


def measure_sections(evaluation: Evaluation) -> tuple[Section, ...]:
    """Return one section for each planned number that both sides hold."""
    sections = (_measure(evaluation, plan) for plan in evaluation.plan.measures)
    return tuple(section for section in sections if section is not None)


def _measure(evaluation: Evaluation, plan: MeasurePlan) -> Section | None:
    pairs = value_pairs(evaluation.table, f"predicted_{plan.predicted}", plan.truth)
    if pairs is None:
        return None
    stem = stem_of(plan.name)
    tables, figures, numbers = agreement_of(stem, plan.name, *pairs, unit=plan.unit)
    tuning = value_pairs(evaluation.calibration_table, f"predicted_{plan.predicted}", plan.truth)
    methods: tuple[str, ...] = ()
    if tuning is not None and tuning[0].size >= _LEAST_TO_CALIBRATE and tuning[0].std() > 0:
        calibrator = fit_volume_calibrator(*tuning, fitted_on="validation")
        tables.append(_calibrated_table(plan, calibrator, *pairs))
        methods = (
            f"{plan.name} was also calibrated by a Passing-Bablok line fitted on the validation split.",
        )
    return Section(
        stem,
        f"Measure: {plan.name}",
        (f"{pairs[0].size} patients have both values.",),
        tuple(tables),
        tuple(figures),
        methods=methods,
        numbers=numbers,
    )


def _calibrated_table(
    plan: MeasurePlan, calibrator: VolumeCalibrator, predicted: Floats, truth: Floats
) -> Table:
    """Lay out concordance and bias before and after calibration."""
    sides = {"as predicted": predicted, "calibrated": calibrator(predicted)}
    note = (
        f"true = {calibrator.intercept_ml:.3g} + {calibrator.slope:.3g} × predicted, from {calibrator.n}"
        " validation patients."
    )
    return Table(
        f"calibrated_{stem_of(plan.name)}",
        f"{plan.name}: after calibration",
        ("", "CCC", f"Bias ({plan.unit})"),
        tuple((label, concordance(a, truth), float(np.mean(a - truth))) for label, a in sides.items()),
        note,
    )


def grade_section(evaluation: Evaluation) -> Section | None:
    """Compare planned grades by quadratic weighted kappa; None where no grade is on both sides."""
    rows: list[tuple[Cell, ...]] = []
    flags = []
    for plan in evaluation.plan.grades:
        pairs = value_pairs(evaluation.table, f"predicted_{plan.predicted}", plan.truth, words=plan.words)
        if pairs is None or pairs[0].size < 5:
            continue
        try:
            rows.append(_grades(plan, *pairs))
        except InputRefused as refusal:
            flags.append(ReviewFlag("alarm", "grades", f"{plan.name}: {refusal}."))
    if not rows and not flags:
        return None
    columns = ("Grade", "n", "κ (quadratic)", "Equal", "Within one", "Spearman ρ", "Pearson r")
    table = Table(
        "grades",
        "Grades: agreement",
        columns,
        tuple(rows),
        "Weighted kappa with the large-sample interval of Fleiss, Cohen and Everitt.",
    )
    methods = ("Grades were compared by Cohen's kappa with quadratic weights.",)
    return Section("grades", "Grades", tables=(table,), flags=tuple(flags), methods=methods)


def _grades(plan: GradePlan, predicted: Floats, truth: Floats) -> tuple[Cell, ...]:
    kappa = weighted_kappa(predicted, truth, grades=plan.grades)
    gap = np.abs(predicted - truth)
    equal, near = f"{np.mean(gap == 0):.0%}", f"{np.mean(gap <= 1):.0%}"
    return (
        plan.name,
        predicted.size,
        kappa,
        equal,
        near,
        spearman(predicted, truth),
        pearson(predicted, truth),
    )


def interval_section(evaluation: Evaluation) -> Section | None:
    """Count how often the truth lies in the interval that the model gives with a measure."""
    rows = [row for plan in evaluation.plan.measures if (row := _interval_row(evaluation.table, plan))]
    if not rows:
        return None
    columns = ("Measure", "n", "Truth inside", "Median width", "Unit", "The interval is")
    note = "Share of patients whose true value lies in the interval given, with Wilson's interval."
    table = Table("intervals", "Intervals given by the model", columns, tuple(rows), note)
    methods = ("The coverage of intervals given by the model was counted against the true values.",)
    return Section("intervals", "Intervals given by the model", tables=(table,), methods=methods)


def _interval_row(table: Any, plan: MeasurePlan) -> tuple[Cell, ...] | None:
    import pandas as pd

    columns = [f"predicted_{plan.predicted}_low", f"predicted_{plan.predicted}_high", plan.truth]
    if any(name not in table.columns for name in columns):
        return None
    known = table[columns].apply(pd.to_numeric, errors="coerce").dropna()
    if not len(known):
        return None
    low, high, truth = (known[name].to_numpy(float) for name in columns)
    inside = int(((low <= truth) & (truth <= high)).sum())
    said = table.get(f"predicted_{plan.predicted}_interval")
    words = said.dropna().iloc[0] if said is not None and said.notna().any() else "not stated"
    width = float(np.median(high - low))
    return plan.name, len(known), proportion(inside, len(known)), width, plan.unit, str(words)


def value_pairs(
    table: Any, predicted: str, truth: str, *, words: tuple[str, ...] = ()
) -> tuple[Floats, Floats] | None:
    """Return predicted and true values of the patients who have both; `words` are turned into their rank.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"side": ["left", "right"], "true_side": ["left", "left"]})
    >>> [column.tolist() for column in value_pairs(table, "side", "true_side", words=("left", "right"))]
    [[0.0, 1.0], [0.0, 0.0]]
    """
    import pandas as pd

    if predicted not in table.columns or truth not in table.columns:
        return None
    both = table[[predicted, truth]]
    if words:
        both = both.map(lambda value: words.index(value) if value in words else value)
    both = both.apply(pd.to_numeric, errors="coerce").dropna()
    return (both[predicted].to_numpy(float), both[truth].to_numpy(float)) if len(both) else None
