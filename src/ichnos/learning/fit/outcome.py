"""Fit the outcome model: from a cohort with tract injury, volumes, a clinical row and outcomes to the
plain numbers that reading uses.
"""

from __future__ import annotations

import datetime
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import ichnos
from ichnos.clinical.injury import INJURY_GRADES, InjuryGrade, tract_injury
from ichnos.clinical.treatment import TreatmentArm
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.discrimination import auc
from ichnos.prognosis.outcome import (
    MOTOR_TERMS,
    MRS_TERMS,
    NUMBERS,
    OutcomeInputs,
    OutcomeModel,
    Regression,
    design_row,
    injury_of,
)
from ichnos.simulation.disease import law
from ichnos.simulation.disease.clinical_row import ClinicalState, clinical_row
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.patient import SITES, VirtualPatient
from ichnos.simulation.simulate import PatientSpec, simulate_patient

Floats = npt.NDArray[np.float64]
_LEAST_PER_TERM = 5


@dataclass(frozen=True)
class OutcomeCase:
    """One patient whose outcome is known."""

    id: str
    inputs: OutcomeInputs
    arm: TreatmentArm
    motor_180d: float  # NaN for the dead or where it was not asked
    mrs_365d: float  # NaN where it is not known


@dataclass(frozen=True)
class Anatomy:
    """What only voxels tell of a haematoma: where it lies to the tract, and how far it moves the midline."""

    site: str
    ich_ml: float
    injury: InjuryGrade | None
    blood_load_ml: float | None
    midline_shift_mm: float


def simulated_anatomy(seed: int, head: SourceHead, *, spacing_mm: float = 3.0) -> Anatomy:
    """Simulate a patient in voxels and measure the maps as reading does."""
    patient = simulate_patient(seed, head, PatientSpec(spacing_mm=spacing_mm, followup=False))
    injury, load_ml = _injury(patient)
    return Anatomy(patient.latent.site, patient.truth.ich_ml, injury, load_ml, patient.truth.midline_shift_mm)


def simulated_trial(patients: int, anatomies: Sequence[Anatomy], *, seed: int) -> list[OutcomeCase]:
    """Draw patients of a randomised trial of surgery from the law, without images.

    Injury, load and midline shift are those of one of the three anatomies of the same site that are nearest
    in volume.
    """
    draws = law.draw(patients, torch.Generator().manual_seed(seed))
    rng = np.random.default_rng([seed, 23])
    cases = []
    for k in range(patients):
        site, ich_ml = SITES[int(draws.site[k])], float(draws.ich_ml[k])
        alike = sorted(
            (a for a in anatomies if a.site == site), key=lambda a: abs(math.log(a.ich_ml / ich_ml))
        )[:3]
        if alike:
            cases.append(_trial_case(f"t{k}", draws, k, alike[int(rng.integers(len(alike)))], rng))
    return cases


def _trial_case(
    name: str, draws: law.Draws, k: int, anatomy: Anatomy, rng: np.random.Generator
) -> OutcomeCase:
    state = ClinicalState(
        age_years=float(draws.age_years[k]),
        sex="m" if bool(draws.male[k]) else "f",
        anticoagulated=bool(draws.anticoagulated[k]),
        onset_to_ct_h=float(draws.onset_to_ct_h[k]),
        ct_to_followup_h=float(draws.followup_interval_h[k]),
        ich_ml=float(draws.ich_ml[k]),
        ivh_ml=float(draws.ivh_ml[k]),
        followup_ich_ml=float(draws.followup_ich_ml[k]),
        followup_ivh_ml=float(draws.followup_ivh_ml[k]),
        leukoaraiosis_ml=float(draws.leukoaraiosis_ml[k]),
        infarct_ml=0.0,
        midline_shift_mm=anatomy.midline_shift_mm,
        injury=anatomy.injury or "no risk",
        site=anatomy.site,
    )
    row = clinical_row(state, trial=True, rng=rng)
    motor = row["nihss_motor_180d"]
    inputs = OutcomeInputs(
        anatomy.injury,
        state.ich_ml,
        state.ivh_ml,
        state.leukoaraiosis_ml,
        anatomy.blood_load_ml,
        state.age_years,
        float(str(row["gcs"])),
    )
    arm: TreatmentArm = "surgery" if row["arm"] == "surgery" else "medical"
    return OutcomeCase(
        name, inputs, arm, math.nan if motor is None else float(motor), float(str(row["mrs_365d"]))
    )


def _injury(patient: VirtualPatient) -> tuple[InjuryGrade | None, float | None]:
    blood = (patient.baseline.ich >= 0.5).float().numpy()
    oedema = ((patient.baseline.oedema >= 0.5) & (patient.baseline.ich < 0.5)).float().numpy()
    height = patient.world(np.column_stack([np.zeros((blood.shape[2], 2)), np.arange(blood.shape[2])]))[:, 2]
    injuries = {
        side: tract_injury(
            (tract >= 0.5).float().numpy(), blood, oedema, z_mm=height, voxel_ml=patient.voxel_ml
        )
        for side, tract in zip(("left", "right"), patient.tract, strict=True)
    }
    return injury_of(
        {side: i.grade for side, i in injuries.items()},
        {side: i.blood_load_ml for side, i in injuries.items()},
    )


def fit_outcome_model(
    cases: Sequence[OutcomeCase], *, cohort: str, simulated: bool, randomised: bool, command: str = ""
) -> OutcomeModel:
    """Fit both regressions; cases without an input or an outcome are left out of the regression that needs
    it.
    """
    known = [case for case in cases if case.inputs.injury is not None]
    if not known:
        raise InputRefused("no patient of the cohort has a graded tract, so no outcome can be related to it")
    motor = [
        c
        for c in known
        if math.isfinite(c.motor_180d) and np.isfinite(design_row(c.inputs, c.arm, MOTOR_TERMS)).all()
    ]
    mrs = [
        c
        for c in known
        if math.isfinite(c.mrs_365d) and np.isfinite(design_row(c.inputs, c.arm, MRS_TERMS)).all()
    ]
    numbers = {name: [v for c in known if math.isfinite(v := c.inputs.number(name))] for name in NUMBERS}
    empty = [name for name, values in numbers.items() if not values]
    if empty:
        raise InputRefused(
            f"no patient of the cohort has {', '.join(empty)}; add the column, the model needs it"
        )
    return OutcomeModel(
        cohort=cohort,
        simulated=simulated,
        randomised=randomised,
        code_version=ichnos.__version__,
        command=command,
        fitted=datetime.datetime.now(datetime.UTC).date().isoformat(),
        motor=_linear(motor),
        mrs=_ordinal(mrs),
        low={name: min(values) for name, values in numbers.items()},
        high={name: max(values) for name, values in numbers.items()},
        cells={
            grade: (_count(known, grade, "medical"), _count(known, grade, "surgery"))
            for grade in INJURY_GRADES
        },
    )


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


def validation(model: OutcomeModel, cases: Sequence[OutcomeCase]) -> dict[str, float]:
    """Measure a model on patients that it was not fitted on; patients whom it refuses are counted and left
    out.
    """
    motor = [c for c in cases if math.isfinite(c.motor_180d) and not model.refusal(c.inputs, "motor")]
    mrs = [c for c in cases if math.isfinite(c.mrs_365d) and not model.refusal(c.inputs, "mrs")]
    bands = [model.motor_forecast(c.inputs, c.arm) for c in motor]
    observed = np.array([c.motor_180d for c in motor])
    predicted = np.array([b.value for b in bands])
    good = [float(c.mrs_365d <= 3) for c in mrs]
    share = [model.independent(c.inputs, c.arm).value for c in mrs]
    return {
        "patients": float(len(cases)),
        "refused_share_motor": float(np.mean([bool(model.refusal(c.inputs, "motor")) for c in cases])),
        "refused_share_mrs": float(np.mean([bool(model.refusal(c.inputs, "mrs")) for c in cases])),
        "motor_mean_absolute_error": float(np.mean(np.abs(predicted - observed))),
        "motor_r": float(np.corrcoef(predicted, observed)[0, 1]),
        "motor_band_80_coverage": float(
            np.mean([b.low <= o <= b.high for b, o in zip(bands, observed, strict=True)])
        ),
        "mrs_0_3_auc": auc(good, share).value,
        "mrs_0_3_observed_over_expected": float(sum(good) / sum(share)),
    }
