"""The section on the planned regressions over facts and predictions."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ichnos.errors import InputRefused
from ichnos.evidence.figures import Figure, forest_figure
from ichnos.evidence.metrics.imputation import impute
from ichnos.evidence.metrics.pooling import fit_imputed
from ichnos.evidence.metrics.proportional_odds import proportional_odds_test
from ichnos.evidence.metrics.regression import Fit, fit
from ichnos.evidence.pack.evaluation import Evaluation
from ichnos.evidence.pack.flags import ReviewFlag
from ichnos.evidence.pack.plan import RegressionPlan
from ichnos.evidence.pack.section import Section
from ichnos.evidence.tables import Table, p_value


def regression_section(evaluation: Evaluation) -> Section | None:
    """Fit the planned regressions over facts and predictions; None without any."""
    if not evaluation.plan.regressions:
        return None
    tables, forests, flags, methods = [], [], [], []
    for number, plan in enumerate(evaluation.plan.regressions, start=1):
        try:
            result, note = _regressed(evaluation, plan)
        except InputRefused as refusal:
            flags.append(ReviewFlag("alarm", "regression", f"{plan.formula}: {refusal}."))
            continue
        rows = tuple((e.term, e.estimate, p_value(e.p)) for e in result.effects)
        caption = f"{plan.kind.capitalize()} model: {plan.formula}"
        columns = ("Term", result.effect_name.capitalize(), "p")
        tables.append(Table(f"regression_{number}", caption, columns, rows, note))
        forests.append(_forest(f"forest_regression_{number}", result, caption))
        methods.append(
            f"A {plan.kind} model ({plan.formula}) was fitted to {result.n}"
            f" patients{', missing values imputed' if plan.impute else ''}."
        )
    return Section(
        "regressions", "Adjusted effects", (), tuple(tables), tuple(forests), tuple(flags), tuple(methods)
    )


def _regressed(evaluation: Evaluation, plan: RegressionPlan) -> tuple[Fit, str]:
    one = partial(fit, plan.kind, plan.formula, time=plan.time)
    table = evaluation.table
    if plan.impute:
        used = [
            c
            for c in table.columns
            if c in plan.formula and table[c].dropna().map(lambda v: isinstance(v, float)).all()
        ]
        result = fit_imputed(
            one, impute(table, used, imputations=20, rng=np.random.default_rng(evaluation.plan.seed))
        )
        notes = [f"{result.n} patients, 20 imputations pooled by Rubin's rules."]
    else:
        result = one(table)
        notes = [f"{result.n} patients; {result.dropped} left out because a value is missing."]
    if plan.kind == "ordinal" and not plan.impute:
        notes.append(f"Brant's test of proportional odds: {_brant(plan.formula, table)}.")
    return result, " ".join([*notes, *(f"Note: {w}." for w in result.warnings)])


def _brant(formula: str, table: Any) -> str:
    try:
        test = proportional_odds_test(formula, table)
    except InputRefused as refusal:
        return str(refusal)
    return f"χ² {test.chi2:.2f}, {test.freedom} df, p {p_value(test.p)}"


def _forest(name: str, result: Fit, caption: str) -> Figure:
    ratio = result.kind != "linear"
    labels = [(e.term, e.estimate) for e in result.effects]
    axis = result.effect_name.capitalize()
    return forest_figure(
        name, labels, axis=axis, reference=1.0 if ratio else 0.0, ratio=ratio, caption=caption
    )
