"""Missing values filled in several ways, so that later estimates carry the uncertainty (chained equations).

Each column is imputed by a model of its kind on all others: continuous ones by Bayesian linear regression,
yes/no ones by Bayesian logistic regression, whole numbers (grades, counts) by predictive-mean matching, which
gives only values that were seen (van Buuren 2018, Flexible Imputation of Missing Data, chapters 3 and 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ichnos.arrays import Array, Floats
from ichnos.errors import InputRefused

ColumnKind = Literal["continuous", "binary", "whole"]
_ROUNDS = 10  # of the chain, before its values are taken
_DONORS = 5  # nearest patients, one of whom lends the value
_RIDGE = 1e-3  # of the standardised design: keeps a separated logistic fit finite


def column_kind(values: Floats) -> ColumnKind:
    """Return the kind of a column from its known values.

    >>> [column_kind(np.array(v)) for v in ([0, 1, 1.0], [0, 1, 2, 3.0], [0.5, 2.2, 3.1])]
    ['binary', 'whole', 'continuous']
    """
    known = np.unique(values[~np.isnan(values)])
    if known.size == 2:
        return "binary"
    return "whole" if np.array_equal(known, np.round(known)) else "continuous"


def impute(
    table: Any, columns: Sequence[str], *, imputations: int = 10, rng: np.random.Generator
) -> list[Any]:
    """Return completed copies of a pandas table: the missing numbers of `columns` are drawn by chained
    equations on all of them.

    Include the outcome among the columns (Moons 2006, J Clin Epidemiol 59:1092).
    """
    chosen = list(columns)
    _check(table, chosen, imputations)
    values = table[chosen].to_numpy(float)
    kinds = [column_kind(values[:, k]) for k in range(values.shape[1])]
    return [
        table.assign(**dict(zip(chosen, _completed(values, kinds, rng).T, strict=True)))
        for _ in range(imputations)
    ]


def _check(table: Any, chosen: Sequence[str], imputations: int) -> None:
    if imputations < 2:
        raise InputRefused(
            f"{imputations} imputation(s) cannot show the uncertainty of missing values; ask for at least 2"
        )
    unknown = [c for c in chosen if c not in table.columns]
    if unknown:
        raise InputRefused(
            f"the table has no column {', '.join(unknown)}; it has {', '.join(map(str, table.columns))}"
        )
    empty = [c for c in chosen if table[c].notna().sum() < 2]
    if empty:
        raise InputRefused(
            f"{', '.join(empty)} is missing in (nearly) every row, so there is nothing to impute it from;"
            " take it out"
        )


def _completed(values: Floats, kinds: Sequence[ColumnKind], rng: np.random.Generator) -> Floats:
    """Return one completed copy of the values (patients, columns)."""
    missing = np.isnan(values)
    filled = values.copy()
    for k in range(values.shape[1]):
        known = values[~missing[:, k], k]
        filled[missing[:, k], k] = rng.choice(known, int(missing[:, k].sum()))
    order = [int(k) for k in np.argsort(missing.sum(axis=0), kind="stable") if missing[:, k].any()]
    for _ in range(_ROUNDS if len(order) > 1 else 1):
        for k in order:
            gaps = missing[:, k]
            design = _design(np.delete(filled, k, axis=1))
            filled[gaps, k] = _drawn(kinds[k], design[~gaps], values[~gaps, k], design[gaps], rng)
    return filled


def _design(others: Floats) -> Floats:
    """Return the other columns, standardised, with an intercept; constant ones fall to zero."""
    spread = others.std(axis=0)
    scaled = (others - others.mean(axis=0)) / np.where(spread > 0, spread, 1)
    return np.column_stack([np.ones(len(others)), scaled])


def _drawn(kind: ColumnKind, x: Floats, y: Floats, x_missing: Floats, rng: np.random.Generator) -> Floats:
    if kind == "binary":
        return _logistic_draw(x, y, x_missing, rng)
    mean, drawn, sigma = _linear_posterior(x, y, rng)
    if kind == "continuous":
        return np.asarray(x_missing @ drawn + rng.normal(0, sigma, len(x_missing)))
    return _matched(x @ mean, y, x_missing @ drawn, rng)


def _linear_posterior(x: Floats, y: Floats, rng: np.random.Generator) -> tuple[Floats, Floats, float]:
    """Return the least-squares coefficients, a draw from their posterior, and the drawn residual SD."""
    precision = x.T @ x + _RIDGE * np.eye(x.shape[1])
    covariance = np.linalg.inv(precision)
    mean = covariance @ x.T @ y
    residual, freedom = y - x @ mean, max(1, len(y) - x.shape[1])
    sigma = float(np.sqrt(residual @ residual / rng.chisquare(freedom)))
    drawn = mean + sigma * np.linalg.cholesky(covariance) @ rng.normal(size=len(mean))
    return mean, drawn, sigma


def _matched(predicted: Floats, y: Floats, wanted: Floats, rng: np.random.Generator) -> Floats:
    """Return for each wanted prediction the value of one of the nearest known patients."""
    order = np.argsort(predicted, kind="stable")
    ranked, values = predicted[order], y[order]
    donors = min(_DONORS, len(y))
    middle = np.searchsorted(ranked, wanted)
    width = min(2 * donors, len(y))  # at either end the window moves inwards, so that nobody is in it twice
    window = np.clip(middle - donors, 0, len(y) - width)[:, None] + np.arange(width)
    gap = np.abs(ranked[window] - wanted[:, None])
    nearest = np.argsort(gap, axis=1, kind="stable")[:, :donors]
    pick = nearest[np.arange(len(wanted)), rng.integers(0, donors, len(wanted))]
    return np.asarray(values[window[np.arange(len(wanted)), pick]])


def _logistic_draw(x: Floats, y: Floats, x_missing: Floats, rng: np.random.Generator) -> Floats:
    """Draw a two-valued column from a logistic regression whose coefficients are drawn, too."""
    low, high = np.unique(y)
    coefficients, information = _logistic_fit(x, y == high)
    drawn = coefficients + np.linalg.solve(np.linalg.cholesky(information).T, rng.normal(size=x.shape[1]))
    probability = 1 / (1 + np.exp(-np.clip(x_missing @ drawn, -30, 30)))
    values: Floats = np.where(rng.random(len(x_missing)) < probability, high, low)
    return values


def _logistic_fit(x: Floats, event: Array) -> tuple[Floats, Floats]:
    """Fit a logistic regression by Newton's steps with a little ridge; return it and its information."""
    penalty = _RIDGE * len(x) * np.eye(x.shape[1])
    penalty[0, 0] = 1e-9
    beta = np.zeros(x.shape[1])
    information = penalty
    for _ in range(25):
        p = 1 / (1 + np.exp(-np.clip(x @ beta, -30, 30)))
        information = (x.T * (p * (1 - p))) @ x + penalty
        step = np.linalg.solve(information, x.T @ (event - p) - penalty @ beta)
        beta = beta + step
        if np.abs(step).max() < 1e-8:
            break
    return beta, information
