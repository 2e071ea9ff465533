"""Sections on numbers and grades that predictions and cohort both hold, and on the planned regressions."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ichnos.errors import InputRefused
from ichnos.evidence import figures
from ichnos.evidence.metrics.agreement import (
    concordance,
    fit_volume_calibrator,
    pearson,
    spearman,
    weighted_kappa,
)
from ichnos.evidence.metrics.pooling import fit_imputed, impute
from ichnos.evidence.metrics.regression import Fit, fit, proportional_odds_test
from ichnos.evidence.pack.flags import Flag
from ichnos.evidence.pack.plan import GradePlan, MeasurePlan, RegressionPlan
from ichnos.evidence.pack.predictions import Study
from ichnos.evidence.pack.section_masks import agreement_of
from ichnos.evidence.pack.sections import Section
from ichnos.evidence.tables import Cell, Table, p_value
from ichnos.volume import Floats


def measure_sections(study: Study) -> tuple[Section, ...]:
    """Return one section for each planned number that both sides hold."""
    return tuple(found for plan in study.plan.measures if (found := _measure(study, plan)) is not None)


def _measure(study: Study, plan: MeasurePlan) -> Section | None:
    pairs = _pairs(study.table, f"predicted_{plan.predicted}", plan.truth)
    if pairs is None:
        return None
    stem = plan.name.replace(" ", "_").lower()
    tables, drawn, numbers = agreement_of(stem, plan.name, *pairs, unit=plan.unit)
    tuning = _pairs(study.calibration_table, f"predicted_{plan.predicted}", plan.truth)
    methods: tuple[str, ...] = ()
    if tuning is not None and tuning[0].size >= 20 and tuning[0].std() > 0:
        calibrator = fit_volume_calibrator(*tuning, fitted_on="validation")
        note = (
            f"true = {calibrator.intercept_ml:.3g} + {calibrator.slope:.3g} × predicted, from {calibrator.n}"
            " validation patients."
        )
        rows: tuple[tuple[Cell, ...], ...] = (
            ("as predicted", concordance(*pairs), float(np.mean(pairs[0] - pairs[1]))),
            (
                "calibrated",
                concordance(calibrator(pairs[0]), pairs[1]),
                float(np.mean(calibrator(pairs[0]) - pairs[1])),
            ),
        )
        tables.append(
            Table(
                f"calibrated_{stem}",
                f"{plan.name}: after calibration",
                ("", "CCC", f"Bias ({plan.unit})"),
                rows,
                note,
            )
        )
        methods = (
            f"{plan.name} was also calibrated by a Passing-Bablok line fitted on the validation split.",
        )
    text = f"{pairs[0].size} patients have both values."
    return Section(
        stem, f"Measure: {plan.name}", (text,), tuple(tables), tuple(drawn), methods=methods, numbers=numbers
    )


def grade_section(study: Study) -> Section | None:
    """Compare planned grades by quadratic weighted kappa; None where no grade is on both sides."""
    rows: list[tuple[Cell, ...]] = []
    flags = []
    for plan in study.plan.grades:
        pairs = _pairs(study.table, f"predicted_{plan.predicted}", plan.truth)
        if pairs is None or pairs[0].size < 5:
            continue
        try:
            rows.append(_grades(plan, *pairs))
        except InputRefused as refusal:
            flags.append(Flag("alarm", "grades", f"{plan.name}: {refusal}."))
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


def regression_section(study: Study) -> Section | None:
    """Fit the planned regressions over facts and predictions; None without any."""
    if not study.plan.regressions:
        return None
    tables, drawn, flags, methods = [], [], [], []
    for number, plan in enumerate(study.plan.regressions, start=1):
        try:
            result, told = _regressed(study, plan)
        except InputRefused as refusal:
            flags.append(Flag("alarm", "regression", f"{plan.formula}: {refusal}."))
            continue
        rows = tuple((e.term, e.estimate, p_value(e.p)) for e in result.effects)
        caption = f"{plan.kind.capitalize()} model: {plan.formula}"
        columns = ("Term", result.effect_name.capitalize(), "p")
        tables.append(Table(f"regression_{number}", caption, columns, rows, told))
        drawn.append(_forest(f"forest_regression_{number}", result, caption))
        methods.append(
            f"A {plan.kind} model ({plan.formula}) was fitted to {result.n}"
            f" patients{', missing values imputed' if plan.impute else ''}."
        )
    return Section(
        "regressions", "Adjusted effects", (), tuple(tables), tuple(drawn), tuple(flags), tuple(methods)
    )


def _regressed(study: Study, plan: RegressionPlan) -> tuple[Fit, str]:
    one = partial(fit, plan.kind, plan.formula, time=plan.time)
    table = study.table
    if plan.impute:
        used = [
            c
            for c in table.columns
            if c in plan.formula and table[c].dropna().map(lambda v: isinstance(v, float)).all()
        ]
        result = fit_imputed(
            one, impute(table, used, imputations=20, rng=np.random.default_rng(study.plan.seed))
        )
        told = [f"{result.n} patients, 20 imputations pooled by Rubin's rules."]
    else:
        result = one(table)
        told = [f"{result.n} patients; {result.dropped} left out because a value is missing."]
    if plan.kind == "ordinal" and not plan.impute:
        test = proportional_odds_test(plan.formula, table)
        told.append(
            f"Brant's test of proportional odds: χ² {test.chi2:.2f}, {test.freedom} df, p {p_value(test.p)}."
        )
    return result, " ".join([*told, *(f"Note: {w}." for w in result.warnings)])


def _forest(name: str, result: Fit, caption: str) -> figures.Figure:
    ratio = result.kind != "linear"
    labels = [(e.term, e.estimate) for e in result.effects]
    axis = result.effect_name.capitalize()
    return figures.forest_figure(
        name, labels, axis=axis, reference=1.0 if ratio else 0.0, ratio=ratio, caption=caption
    )


def _pairs(table: Any, predicted: str, truth: str) -> tuple[Floats, Floats] | None:
    import pandas as pd

    if predicted not in table.columns or truth not in table.columns:
        return None
    both = table[[predicted, truth]].apply(pd.to_numeric, errors="coerce").dropna()
    return (both[predicted].to_numpy(float), both[truth].to_numpy(float)) if len(both) else None
