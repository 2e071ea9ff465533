"""Putting estimates together: over imputed tables (Rubin) and over centres (random effects with a
prediction interval).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.intervals import LEVEL, Estimate, paired
from ichnos.evidence.metrics.regression import Effect, Fit


@dataclass(frozen=True)
class RubinPooled:
    """One coefficient over m imputed tables."""

    value: float
    se: float
    freedom: float
    missing_information: float  # share of the variance that the missing values cause


def rubin(values: npt.ArrayLike, standard_errors: npt.ArrayLike) -> RubinPooled:
    """Pool a coefficient over imputations (Rubin 1987): total variance = within + (1 + 1/m) between.

    >>> pooled = rubin([1.0, 1.2, 0.8], [0.5, 0.5, 0.5])
    >>> round(pooled.value, 3), round(pooled.se, 4)
    (1.0, 0.5508)
    """
    q, se = paired("the coefficients", values, "their standard errors", standard_errors)
    within, between, m = float(np.mean(se**2)), float(q.var(ddof=1)), q.size
    total = within + (1 + 1 / m) * between
    share = (1 + 1 / m) * between / total if total else 0.0
    return RubinPooled(
        float(q.mean()), float(np.sqrt(total)), (m - 1) / share**2 if share else float("inf"), share
    )


def _freedom(pooled: RubinPooled, complete: float | None) -> float:
    """Return the degrees of freedom of a pooled coefficient: no more than the complete table leaves (Barnard
    & Rubin 1999, Biometrika 86:948), which only linear models have.
    """
    if complete is None:
        return pooled.freedom
    observed = (complete + 1) / (complete + 3) * complete * (1 - pooled.missing_information)
    return 1 / (1 / pooled.freedom + 1 / observed)


def fit_imputed(fit_one: Callable[[Any], Fit], tables: Sequence[Any], *, level: float = LEVEL) -> Fit:
    """Fit the same model to every completed table and pool each effect by Rubin's rules."""
    from scipy import stats

    fits = [fit_one(table) for table in tables]
    first = fits[0]
    complete = first.n - len(first.effects) - 1 if first.kind == "linear" else None
    effects = []
    for i, effect in enumerate(first.effects):
        pooled = rubin([f.effects[i].coefficient for f in fits], [f.effects[i].se for f in fits])
        freedom = _freedom(pooled, complete)
        half = float(stats.t.ppf(0.5 + level / 2, freedom)) * pooled.se
        bounds = np.array([pooled.value, pooled.value - half, pooled.value + half])
        value, low, high = (float(v) for v in (bounds if first.kind == "linear" else np.exp(bounds)))
        p = float(2 * stats.t.sf(abs(pooled.value / pooled.se), freedom))
        effects.append(
            Effect(effect.term, pooled.value, pooled.se, p, Estimate(value, low, high, first.n, level))
        )
    told = tuple(dict.fromkeys(w for f in fits for w in f.warnings))
    covariance = np.diag([e.se**2 for e in effects])
    return replace(
        first, effects=tuple(effects), covariance=covariance, warnings=told, log_likelihood=float("nan")
    )


@dataclass(frozen=True)
class RandomEffects:
    """An estimate over centres."""

    pooled: Estimate  # mean over centres, Hartung-Knapp interval
    prediction_low: float  # where the next centre is expected; NaN with fewer than three
    prediction_high: float
    tau2: float  # variance between centres
    i2: float  # share of the spread that is not chance, 0 to 1
    q: float
    q_p: float
    centres: int


def random_effects(
    values: npt.ArrayLike, standard_errors: npt.ArrayLike, *, level: float = LEVEL
) -> RandomEffects:
    """Pool one estimate per centre, near normal as log odds ratios and logit AUCs are (DerSimonian & Laird
    1986; Hartung & Knapp 2001; prediction interval of Higgins 2009).
    """
    from scipy import stats

    y, se = paired("the centres' estimates", values, "their standard errors", standard_errors)
    if (se <= 0).any():
        raise InputRefused(
            "a centre's standard error is zero, which would give it all the weight; leave out centres without"
            " spread"
        )
    k = y.size
    q, tau2 = _between_centres(y, se)
    w = 1 / (se**2 + tau2)
    mean = float((w @ y) / w.sum())
    spread = float(w @ (y - mean) ** 2) / (k - 1)
    # never narrower than the plain interval (Rover 2015)
    se_mean = float(np.sqrt(max(1.0, spread) / w.sum()))
    half = float(stats.t.ppf(0.5 + level / 2, k - 1)) * se_mean
    reach = float(stats.t.ppf(0.5 + level / 2, k - 2) * np.sqrt(tau2 + se_mean**2)) if k >= 3 else np.nan
    i2 = max(0.0, (q - (k - 1)) / q) if q > 0 else 0.0
    pooled, p = Estimate(mean, mean - half, mean + half, k, level), float(stats.chi2.sf(q, k - 1))
    return RandomEffects(pooled, mean - reach, mean + reach, tau2, i2, q, p, k)


def _between_centres(values: Floats, standard_errors: Floats) -> tuple[float, float]:
    """Return Cochran's Q and the variance between centres."""
    w, freedom = standard_errors**-2, values.size - 1
    fixed = float((w @ values) / w.sum())
    q = float(w @ (values - fixed) ** 2)
    return q, max(0.0, (q - freedom) / float(w.sum() - (w @ w) / w.sum()))
