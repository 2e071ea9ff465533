"""How good a growth model is on patients it was not fitted on: discrimination, calibration, coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ichnos.clinical.expansion import DEFINITIONS
from ichnos.evidence.metrics.calibration import calibration
from ichnos.evidence.metrics.discrimination import auc, compare_paired
from ichnos.evidence.metrics.intervals import proportion
from ichnos.learning.fit.growth import fit_growth_model
from ichnos.learning.fit.growth_cases import GrowthCase
from ichnos.prognosis.growth import GrowthForecast, GrowthModel


def cross_validation(
    cases: Sequence[GrowthCase],
    *,
    folds: int,
    judged: Sequence[GrowthCase] | None = None,
    clinical: bool = True,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Evaluate each patient by a model fitted on the others (or `judged`: other futures of these patients).

    Futures of one patient stay in one fold. Intervals treat every case as a patient: with redrawn futures
    they are too narrow.
    """
    names = sorted({case.id for case in cases})
    fold_of = dict(zip(names, (rng.permutation(len(names)) % folds).tolist(), strict=True))
    models = [
        fit_growth_model(
            [c for c in cases if fold_of[c.id] != k], cohort="", simulated=True, refits=0, rng=rng
        )
        for k in range(folds)
    ]
    asked = cases if judged is None else judged
    return growth_validation([models[fold_of[c.id]] for c in asked], asked, clinical=clinical)


def growth_validation(
    models: Sequence[GrowthModel], cases: Sequence[GrowthCase], *, clinical: bool = True
) -> dict[str, float]:
    """Evaluate each case by its model, which was not fitted on it, beside the oracle and volume alone.

    Without `clinical`, the models get the image alone.
    """
    inputs = [
        c.inputs if clinical else replace(c.inputs, onset_to_ct_h=None, anticoagulated=None) for c in cases
    ]
    forecasts = [model.forecast(i) for model, i in zip(models, inputs, strict=True)]
    outside = [bool(model.outside(i)) for model, i in zip(models, inputs, strict=True)]
    expanded = [case.expanded for case in cases]
    return {
        "cases": float(len(cases)),
        "patients": float(len({case.id for case in cases})),
        "expanded": float(sum(expanded)),
        **_risk_measures(forecasts, cases),
        **_volume_measures(forecasts, cases),
        "outside_cohort_share": float(np.mean(outside)),
        **_against_oracle(forecasts, cases),
        "auc_volume_alone": auc(expanded, [c.inputs.ich_ml for c in cases]).value,
    }


def _risks(forecasts: Sequence[GrowthForecast]) -> list[float]:
    return [f.probability(DEFINITIONS["33%-or-6ml"]) for f in forecasts]


def _risk_measures(forecasts: Sequence[GrowthForecast], cases: Sequence[GrowthCase]) -> dict[str, float]:
    expanded, risk = [case.expanded for case in cases], _risks(forecasts)
    area, fit = auc(expanded, risk), calibration(expanded, risk)
    return {
        "auc": area.value,
        "auc_low": area.low,
        "auc_high": area.high,
        "calibration_slope": fit.slope.value,
        "calibration_slope_low": fit.slope.low,
        "calibration_slope_high": fit.slope.high,
        "observed_over_expected": fit.observed_over_expected,
        "brier": fit.brier,
    }


def _volume_measures(forecasts: Sequence[GrowthForecast], cases: Sequence[GrowthCase]) -> dict[str, float]:
    """Return coverage of the 80 % interval and the error of the median forecast, mL."""
    pairs = list(zip(forecasts, cases, strict=True))
    inside = [f.quantile_ml(0.1) <= c.followup_ml <= f.quantile_ml(0.9) for f, c in pairs]
    errors = np.array([f.quantile_ml(0.5) - c.followup_ml for f, c in pairs])
    return {
        "band_80_coverage": proportion(sum(inside), len(inside)).value,
        "mean_error_ml": float(np.mean(errors)),
        "mean_absolute_error_ml": float(np.mean(np.abs(errors))),
    }


def _against_oracle(forecasts: Sequence[GrowthForecast], cases: Sequence[GrowthCase]) -> dict[str, float]:
    """Compare with the simulation's own probabilities; nothing for people, who have none."""
    best = [case.oracle for case in cases]
    if not np.isfinite(best).all():
        return {}
    expanded = [case.expanded for case in cases]
    difference = compare_paired(expanded, _risks(forecasts), best)
    return {
        "auc_oracle": auc(expanded, best).value,
        "auc_minus_oracle": difference.value,
        "auc_minus_oracle_p": difference.p,
    }
