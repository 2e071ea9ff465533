"""Predicted against true numbers: agreement table, Bland-Altman and scatter."""

from __future__ import annotations

from typing import Any

import numpy as np

from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.evidence.figures import Figure, bland_altman_figure, scatter_figure
from ichnos.evidence.metrics.agreement import StructuralLine, bland_altman, passing_bablok
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.metrics.resampling import (
    resampled_concordance,
    resampled_icc,
    resampled_pearson,
    resampled_spearman,
)
from ichnos.evidence.tables import Cell, Table, number

Agreement = tuple[list[Table], list[Figure], dict[str, Any]]
_LEAST = 5  # pairs, below which agreement cannot be estimated


def agreement_of(stem: str, title: str, predicted: Floats, truth: Floats, *, unit: str) -> Agreement:
    """Compare predicted and true numbers: table, Bland-Altman and scatter; too few pairs, or a constant
    column, are said in words.
    """
    name, caption = f"agreement_{stem}", f"{title}: agreement"
    if (why := _too_little(predicted, truth)) is not None:
        table = Table(name, caption, ("Measure", "Value"), (("Agreement", why),))
        return [table], [], {"n": int(predicted.size), "why": why}
    try:
        line = passing_bablok(truth, predicted)
    except InputRefused:
        line = None
    measures = _measures(predicted, truth, line, unit)
    note = (
        f"{predicted.size} cases; 95 % intervals. Differences are predicted minus true. Concordance, ICC and"
        " correlations: patients resampled (percentile bootstrap, levels calibrated by a second one)."
    )
    table = Table(name, caption, ("Measure", "Value"), tuple(measures.items()), note)
    numbers = {k: estimate_numbers(v) if isinstance(v, Estimate) else v for k, v in measures.items()}
    return [table], _figures(stem, title, predicted, truth, line, unit), numbers


def _too_little(predicted: Floats, truth: Floats) -> str | None:
    if predicted.size < _LEAST:
        return f"not estimated: {predicted.size} case(s), {_LEAST} are needed"
    for side, values in (("predicted", predicted), ("true", truth)):
        if np.ptp(values) == 0:
            return f"not estimated: every {side} value is {number(float(values[0]))}"
    return None


def _measures(predicted: Floats, truth: Floats, line: StructuralLine | None, unit: str) -> dict[str, Cell]:
    limits = bland_altman(predicted, truth)
    measures: dict[str, Cell] = {**_correlations(predicted, truth, "")}
    if unit == "mL":
        measures |= _correlations(np.log1p(predicted), np.log1p(truth), " of ln(1 + mL)")
    measures |= {
        f"Bias ({unit})": limits.bias,
        f"Lower limit of agreement ({unit})": limits.lower,
        f"Upper limit of agreement ({unit})": limits.upper,
        "Slope of difference on mean": limits.slope,
        f"Mean absolute error ({unit})": float(np.mean(np.abs(predicted - truth))),
    }
    if line is not None:
        measures |= {"Passing-Bablok slope": line.slope, f"Passing-Bablok intercept ({unit})": line.intercept}
    both = (predicted > 0) & (truth > 0)
    if both.sum() >= _LEAST:
        relative = bland_altman(predicted[both], truth[both], percent=True)
        measures |= {
            "Bias (% of mean)": relative.bias,
            "Limits (% of mean)": f"{number(relative.lower.value)} to {number(relative.upper.value)}",
        }
    return measures


def _correlations(predicted: Floats, truth: Floats, of: str) -> dict[str, Cell]:
    measures: dict[str, Cell] = {
        f"Concordance (CCC){of}": resampled_concordance(predicted, truth),
        f"ICC(2,1){of}": resampled_icc(predicted, truth),
        f"Pearson r{of}": resampled_pearson(predicted, truth),
    }
    if not of:  # ranks are the same on any scale
        measures["Spearman ρ"] = resampled_spearman(predicted, truth)
    return measures


def _figures(
    stem: str, title: str, predicted: Floats, truth: Floats, line: StructuralLine | None, unit: str
) -> list[Figure]:
    caption = f"{title}: bias and 95 % limits of agreement."
    limits = bland_altman(predicted, truth)
    return [
        bland_altman_figure(f"bland_altman_{stem}", predicted, truth, limits, unit=unit, caption=caption),
        scatter_figure(
            f"scatter_{stem}", truth, predicted, line, unit=unit, caption=f"{title}: predicted against true."
        ),
    ]


def estimate_numbers(e: Estimate) -> dict[str, Any]:
    """Return an estimate as plain numbers for evidence.json.

    >>> estimate_numbers(Estimate(0.8, 0.7, 0.9, 40))
    {'value': 0.8, 'low': 0.7, 'high': 0.9, 'n': 40}
    """
    return {"value": e.value, "low": e.low, "high": e.high, "n": e.n}
