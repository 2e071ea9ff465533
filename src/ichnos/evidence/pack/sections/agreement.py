"""Predicted against true numbers: agreement table, Bland-Altman and scatter."""

from __future__ import annotations

from typing import Any

import numpy as np

from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.evidence.figures import Figure, bland_altman_figure, scatter_figure
from ichnos.evidence.metrics.agreement import (
    bland_altman,
    concordance,
    intraclass,
    passing_bablok,
    pearson,
    spearman,
)
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.tables import Cell, Table, number

Agreement = tuple[list[Table], list[Figure], dict[str, Any]]


def agreement_of(stem: str, title: str, predicted: Floats, truth: Floats, *, unit: str) -> Agreement:
    """Compare predicted and true numbers: table, Bland-Altman and scatter. Nothing with fewer than five
    pairs or a constant column.
    """
    if predicted.size < 5 or np.ptp(predicted) == 0 or np.ptp(truth) == 0:
        return [], [], {"n": int(predicted.size)}
    limits = bland_altman(predicted, truth)
    try:
        line = passing_bablok(truth, predicted)
    except InputRefused:
        line = None
    measures: dict[str, Cell] = {
        "Concordance (CCC)": concordance(predicted, truth),
        "ICC(2,1)": intraclass(np.column_stack([predicted, truth])),
        "Pearson r": pearson(predicted, truth),
        "Spearman ρ": spearman(predicted, truth),
        f"Bias ({unit})": limits.bias,
        f"Lower limit of agreement ({unit})": limits.lower,
        f"Upper limit of agreement ({unit})": limits.upper,
        "Slope of difference on mean": limits.slope,
        f"Mean absolute error ({unit})": float(np.mean(np.abs(predicted - truth))),
    }
    if line is not None:
        measures |= {"Passing-Bablok slope": line.slope, f"Passing-Bablok intercept ({unit})": line.intercept}
    both = (predicted > 0) & (truth > 0)
    if both.sum() >= 5:
        relative = bland_altman(predicted[both], truth[both], percent=True)
        measures |= {
            "Bias (% of mean)": relative.bias,
            "Limits (% of mean)": f"{number(relative.lower.value)} to {number(relative.upper.value)}",
        }
    note = (
        f"{predicted.size} cases in which either is above zero; 95 % intervals. Differences are predicted"
        " minus true."
    )
    table = Table(
        f"agreement_{stem}", f"{title}: agreement", ("Measure", "Value"), tuple(measures.items()), note
    )
    drawn = [
        bland_altman_figure(
            f"bland_altman_{stem}",
            predicted,
            truth,
            limits,
            unit=unit,
            caption=f"{title}: bias and 95 % limits of agreement.",
        ),
        scatter_figure(
            f"scatter_{stem}", truth, predicted, line, unit=unit, caption=f"{title}: predicted against true."
        ),
    ]
    numbers = {k: estimate_numbers(v) if isinstance(v, Estimate) else v for k, v in measures.items()}
    return [table], drawn, numbers


def estimate_numbers(e: Estimate) -> dict[str, Any]:
    """Return an estimate as plain numbers for evidence.json."""
    return {"value": e.value, "low": e.low, "high": e.high, "n": e.n}
