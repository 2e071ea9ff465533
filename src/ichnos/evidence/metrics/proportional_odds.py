"""Brant's test of the assumption behind an ordinal model: one odds ratio for every cut of the grades."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.regression import complete_rows, design_matrices

EVENTS_PER_EFFECT = 5  # the least on either side of a cut, for each effect of its binary model


@dataclass(frozen=True)
class ProportionalOdds:
    """Brant's test: a small p speaks against one common odds ratio for every cut of the grades."""

    chi2: float
    freedom: int
    p: float


def proportional_odds_test(formula: str, table: Any) -> ProportionalOdds:
    """Test whether the effects are the same at every cut of an ordinal outcome (Brant 1990, Biometrics
    46:1171).

    Cuts at which the binary model has no finite fit, or too few cases on one side, are left out.
    """
    import statsmodels.api as sm
    from scipy.stats import chi2 as chi2_distribution

    data, _ = complete_rows(formula, table, None)
    outcome, design = design_matrices(formula, data)
    x = sm.add_constant(design.drop(columns="Intercept", errors="ignore").to_numpy(float))
    cuts = np.unique(outcome)[:-1]
    k = x.shape[1] - 1
    fits = [f for f in (_binary(outcome > cut, x) for cut in cuts) if f is not None]
    if len(fits) < 2:
        raise InputRefused(
            f"fewer than two cuts of the outcome have {EVENTS_PER_EFFECT} cases for each of {k} effects on"
            " either side and a finite fit, so proportional odds cannot be tested"
        )
    slopes = np.concatenate([beta[1:] for beta, _, _ in fits])
    contrast = np.hstack([np.tile(np.eye(k), (len(fits) - 1, 1)), -np.eye(k * (len(fits) - 1))])
    difference = contrast @ slopes
    spread = contrast @ _joint_variance(fits, x) @ contrast.T
    if np.linalg.eigvalsh(spread)[0] <= 0:  # cuts fitted apart need not be in order
        raise InputRefused("the cuts' effects vary too much together for a test of proportional odds")
    chi2, freedom = float(difference @ np.linalg.solve(spread, difference)), contrast.shape[0]
    return ProportionalOdds(chi2, freedom, float(chi2_distribution.sf(chi2, freedom)))


def _joint_variance(fits: list[tuple[Floats, Floats, Floats]], x: Floats) -> Floats:
    """Return the variance of the slopes of all cuts together, which are of the same cases."""
    k = x.shape[1] - 1
    variance = np.zeros((len(fits) * k, len(fits) * k))
    for a, (_, p_a, inverse_a) in enumerate(fits):
        for b, (_, p_b, inverse_b) in enumerate(fits):
            # cov of the two indicators; P(y > cut) falls with the cut
            weight = p_b * (1 - p_a) if b >= a else p_a * (1 - p_b)
            block = inverse_a @ (x.T * weight) @ x @ inverse_b
            variance[a * k : (a + 1) * k, b * k : (b + 1) * k] = block[1:, 1:]
    return variance


def _binary(events: Any, x: Floats) -> tuple[Floats, Floats, Floats] | None:
    import statsmodels.api as sm

    if min(events.sum(), (~events).sum()) < EVENTS_PER_EFFECT * (x.shape[1] - 1):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = sm.Logit(events.astype(float), x).fit(disp=0, maxiter=100)
            p = np.asarray(result.predict())
        except Exception:  # separated or singular at this cut
            return None
    if not result.mle_retvals["converged"] or np.abs(result.params).max() > 50:
        return None
    return np.asarray(result.params), p, np.linalg.inv((x.T * (p * (1 - p))) @ x)
