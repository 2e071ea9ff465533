"""Fit the outcome model: from a cohort with tract injury, volumes, a clinical row and outcomes to the
plain numbers that reading uses.
"""

from __future__ import annotations

import datetime
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

import ichnos
from ichnos.arrays import Floats
from ichnos.clinical.injury import INJURY_GRADES
from ichnos.clinical.treatment import TreatmentArm
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.discrimination import auc
from ichnos.learning.fit.outcome_cases import OutcomeCase
from ichnos.prognosis.outcome import (
    MOTOR_TERMS,
    MRS_TERMS,
    NUMBERS,
    OutcomeModel,
    Regression,
    design_row,
)

_LEAST_PER_TERM = 5


def fit_outcome_model(
    cases: Sequence[OutcomeCase], *, cohort: str, simulated: bool, randomised: bool, command: str = ""
) -> OutcomeModel:
    """Fit both regressions; each leaves out the cases that lack one of its inputs or its outcome."""
    known = [case for case in cases if case.inputs.injury is not None]
    if not known:
        raise InputRefused("no patient of the cohort has a graded tract, so no outcome can be related to it")
    numbers = _numbers_of(known)
    return OutcomeModel(
        cohort=cohort,
        simulated=simulated,
        randomised=randomised,
        code_version=ichnos.__version__,
        command=command,
        fitted=datetime.datetime.now(datetime.UTC).date().isoformat(),
        motor=_linear([c for c in known if math.isfinite(c.motor_180d) and _complete(c, MOTOR_TERMS)]),
        mrs=_ordinal([c for c in known if math.isfinite(c.mrs_365d) and _complete(c, MRS_TERMS)]),
        low={name: min(values) for name, values in numbers.items()},
        high={name: max(values) for name, values in numbers.items()},
        cells={
            grade: (_count(known, grade, "medical"), _count(known, grade, "surgery"))
            for grade in INJURY_GRADES
        },
    )


def _complete(case: OutcomeCase, terms: Sequence[str]) -> bool:
    return bool(np.isfinite(design_row(case.inputs, case.arm, terms)).all())


def _numbers_of(cases: Sequence[OutcomeCase]) -> dict[str, list[float]]:
    numbers = {name: [v for c in cases if math.isfinite(v := c.inputs.number(name))] for name in NUMBERS}
    if empty := [name for name, values in numbers.items() if not values]:
        raise InputRefused(
            f"no patient of the cohort has {', '.join(empty)}; add the column, the model needs it"
        )
    return numbers


def _count(cases: Sequence[OutcomeCase], grade: str, arm: TreatmentArm) -> int:
    return sum(case.inputs.injury == grade and case.arm == arm for case in cases)


def _design(cases: Sequence[OutcomeCase], terms: Sequence[str], what: str) -> Floats:
    if len(cases) < _LEAST_PER_TERM * len(terms):
        raise InputRefused(
            f"{len(cases)} patients have all that {what} needs; {_LEAST_PER_TERM * len(terms)} are the least"
            f" for {len(terms)} terms"
        )
    x = np.array([design_row(case.inputs, case.arm, terms) for case in cases])
    dependent = [
        term
        for i, term in enumerate(terms)
        if np.linalg.matrix_rank(x) == np.linalg.matrix_rank(np.delete(x, i, axis=1))
    ]
    if dependent:
        raise InputRefused(
            f"{what}: {', '.join(dependent)} cannot be told apart in this cohort; a grade or an arm may be"
            " missing"
        )
    return x


def _linear(cases: Sequence[OutcomeCase]) -> Regression:
    import statsmodels.api as sm

    fit = sm.OLS(np.array([c.motor_180d for c in cases]), _design(cases, MOTOR_TERMS, "motor NIHSS")).fit()
    return _regression(
        MOTOR_TERMS, fit.params, fit.cov_params(), len(cases), residual_sd=float(np.sqrt(fit.scale))
    )


def _ordinal(cases: Sequence[OutcomeCase]) -> Regression:
    from statsmodels.miscmodels.ordinal_model import OrderedModel

    x, grades = _design(cases, MRS_TERMS, "mRS"), np.array([c.mrs_365d for c in cases]).astype(int)
    absent = sorted(set(range(7)) - set(grades.tolist()))
    if absent:
        raise InputRefused(
            f"no patient has mRS {', '.join(map(str, absent))}; proportional odds need every grade at least"
            " once"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = OrderedModel(grades, x, distr="logit").fit(method="bfgs", disp=0, maxiter=500)
    if not np.isfinite(np.asarray(fit.cov_params())).all():
        raise InputRefused(
            "mRS: an effect has no finite estimate, because a grade or arm decides the outcome in this cohort"
        )
    return _regression(MRS_TERMS, fit.params, fit.cov_params(), len(cases))


def _regression(
    terms: Sequence[str], values: Any, covariance: Any, patients: int, *, residual_sd: float = 0.0
) -> Regression:
    def rounded(numbers: Any) -> tuple[float, ...]:
        return tuple(float(f"{v:.6g}") for v in np.asarray(numbers, float))

    rows = tuple(rounded(row) for row in np.asarray(covariance))
    return Regression(
        terms=tuple(terms),
        values=rounded(values),
        covariance=rows,
        residual_sd=float(f"{residual_sd:.6g}"),
        patients=patients,
    )


def outcome_validation(model: OutcomeModel, cases: Sequence[OutcomeCase]) -> dict[str, float]:
    """Evaluate a model on patients it was not fitted on; those it refuses are counted and left out."""
    refused = {what: [bool(model.refusal(c.inputs, what)) for c in cases] for what in ("motor", "mrs")}
    return {
        "patients": float(len(cases)),
        "refused_share_motor": float(np.mean(refused["motor"])),
        "refused_share_mrs": float(np.mean(refused["mrs"])),
        **_motor_measures(model, cases),
        **_mrs_measures(model, cases),
    }


def _motor_measures(model: OutcomeModel, cases: Sequence[OutcomeCase]) -> dict[str, float]:
    known = [c for c in cases if math.isfinite(c.motor_180d) and not model.refusal(c.inputs, "motor")]
    bands = [model.motor_forecast(c.inputs, c.arm) for c in known]
    observed, predicted = np.array([c.motor_180d for c in known]), np.array([b.value for b in bands])
    inside = [b.low <= o <= b.high for b, o in zip(bands, observed, strict=True)]
    return {
        "motor_mean_absolute_error": float(np.mean(np.abs(predicted - observed))),
        "motor_r": float(np.corrcoef(predicted, observed)[0, 1]),
        "motor_band_80_coverage": float(np.mean(inside)),
    }


def _mrs_measures(model: OutcomeModel, cases: Sequence[OutcomeCase]) -> dict[str, float]:
    known = [c for c in cases if math.isfinite(c.mrs_365d) and not model.refusal(c.inputs, "mrs")]
    good = [float(c.mrs_365d <= 3) for c in known]
    predicted = [model.independent(c.inputs, c.arm).value for c in known]
    return {
        "mrs_0_3_auc": auc(good, predicted).value,
        "mrs_0_3_observed_over_expected": float(sum(good) / sum(predicted)),
    }
