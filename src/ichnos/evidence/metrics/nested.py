"""What a predictor adds to others: likelihood-ratio test, explained variance, and difference of AUC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ichnos.errors import InputRefused
from ichnos.evidence.metrics.discrimination import AucDifference, compare_paired
from ichnos.evidence.metrics.regression import Fit, ModelKind, complete_rows, design_matrices, fit


@dataclass(frozen=True)
class NestedComparison:
    """A model beside the same model with further terms, on the same patients."""

    chi2: float  # twice the gain in log-likelihood
    freedom: int  # terms added
    p: float
    r2: float  # of the smaller model: R² (linear), or Nagelkerke's
    r2_added: float
    auc_gain: AucDifference | None  # of a yes/no outcome, on the patients the models were fitted on
    n: int


def compare_nested(kind: ModelKind, formula: str, added: str, table: Any) -> NestedComparison:
    """Compare `formula` with the same formula and `added` terms, as "+ load" or "+ C(grade):surgery".

    Both are fitted to the rows that are complete for the larger one.
    """
    from scipy.stats import chi2 as chi2_distribution

    larger = f"{formula} {added}"
    rows, _ = complete_rows(larger, table, None)
    small, large = fit(kind, formula, rows), fit(kind, larger, rows)
    freedom = len(large.effects) - len(small.effects)
    if freedom < 1:
        raise InputRefused(f"{added!r} adds no term to {formula!r}; name a column that is not in it")
    chi2 = max(0.0, 2 * (large.log_likelihood - small.log_likelihood))
    outcome = design_matrices(formula, rows)[0]
    before, after = (_explained(kind, model, outcome) for model in (small, large))
    gain = None
    if kind == "logistic":
        gain = compare_paired(outcome, _scores(large, rows), _scores(small, rows))
    p = float(chi2_distribution.sf(chi2, freedom))
    return NestedComparison(chi2, freedom, p, before, after - before, gain, small.n)


def _explained(kind: ModelKind, model: Fit, outcome: Any) -> float:
    """Return R² from the log-likelihoods of the model and of one without predictors."""
    n = outcome.size
    if kind == "linear":
        null = -n / 2 * (np.log(2 * np.pi * outcome.var()) + 1)
    else:
        shares = np.unique(outcome, return_counts=True)[1] / n
        null = float(n * (shares * np.log(shares)).sum())
    raw = 1 - np.exp(2 * (null - model.log_likelihood) / n)
    return float(raw if kind == "linear" else raw / (1 - np.exp(2 * null / n)))


def _scores(model: Fit, rows: Any) -> Any:
    design = design_matrices(model.formula, rows)[1].drop(columns="Intercept", errors="ignore")
    return design.to_numpy(float) @ np.array([effect.coefficient for effect in model.effects])
