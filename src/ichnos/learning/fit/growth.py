"""Fit the growth law: from patients with two CTs to the plain numbers that reading forecasts with."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import ichnos
from ichnos.clinical.expansion import DEFINITIONS
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.calibration import calibration
from ichnos.evidence.metrics.discrimination import auc, compare_paired
from ichnos.evidence.metrics.intervals import proportion
from ichnos.prognosis.growth import (
    CHANNEL,
    CLINICAL,
    IMAGE,
    GrowthInputs,
    GrowthModel,
    GrowthParameters,
    GrowthVariant,
    standardised,
)
from ichnos.reading.measures.growth import growth_inputs
from ichnos.simulation.disease import oracle
from ichnos.simulation.exams.ct import plan_ct, simulate_ct
from ichnos.simulation.exams.scanners import CENTRES, centre, draw_protocol
from ichnos.simulation.exams.truth import masks_on_grid
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.simulate import PatientSpec, draws_of, simulate_patient
from ichnos.volume import volume_ml

Floats = npt.NDArray[np.float64]
_PRIOR_SD = 0.3  # of a slope per standard deviation of its feature: few patients must not make steep ones
_LN_SD, _LN_STABLE = (
    (-2.3, 1.5),
    (-4.6, 0.0),
)  # ln of the spreads of a gain and of a stable haematoma: kept away from a single point
_LEAST_EACH = 10  # patients with and without expansion below which nothing is fitted
_IMAGE_MATRIX = 256  # of the simulated CTs: their slices hold nothing finer than 0.9 mm


@dataclass(frozen=True)
class GrowthCase:
    """One patient with two CTs; cases that share an id are futures of one patient, redrawn."""

    id: str
    inputs: GrowthInputs
    followup_ml: float
    followup_ivh_ml: float
    oracle: float = math.nan  # the simulation's P(expansion); NaN for people

    @property
    def expanded(self) -> float:
        """Return 1 or 0 under the default definition."""
        return float(DEFINITIONS["33%-or-6ml"](self.inputs.ich_ml, self.followup_ml))


def simulated_case(seed: int, head: SourceHead, *, spacing_mm: float = 2.0) -> GrowthCase | None:
    """Simulate a patient, scan twice, and measure the first CT as reading does, on the masks of the truth.

    Scanner and slice thickness are those of a centre that the seed chooses. None for a haematoma that the
    thick slices hide.
    """
    patient = simulate_patient(seed, head, PatientSpec(spacing_mm=spacing_mm))
    rng = np.random.default_rng([seed, 17])
    place = centre(sorted(CENTRES)[int(rng.integers(len(CENTRES)))])
    first, second = (replace(draw_protocol(place, rng=rng), matrix=_IMAGE_MATRIX) for _ in range(2))
    ct = simulate_ct(patient, first, generator=torch.Generator().manual_seed(seed))
    masks = masks_on_grid(
        patient,
        ("ich", "ivh"),
        affine=ct.volume.affine,
        shape=ct.volume.shape,
        patient_from_exam=ct.patient_from_exam,
        thickness_mm=first.thickness_mm,
        motion=ct.motion,
    )
    plan = plan_ct(patient, second, followup=True)
    later = masks_on_grid(
        patient,
        ("ich_followup", "ivh_followup"),
        affine=plan.affine,
        shape=plan.shape,
        patient_from_exam=plan.patient_from_exam,
        thickness_mm=second.thickness_mm,
    )
    if not masks["ich"].array.any():
        return None
    latent = patient.latent
    facts = {"onset_to_ct_h": latent.onset_to_ct_h, "anticoagulation": float(latent.anticoagulated)}
    ras = {name: mask.reoriented("RAS") for name, mask in masks.items()}
    return GrowthCase(
        id=f"{head.name}-{seed}",
        inputs=growth_inputs(ras["ich"], ras["ivh"], ct.volume.reoriented("RAS"), facts=facts),
        followup_ml=volume_ml(later["ich_followup"]),
        followup_ivh_ml=volume_ml(later["ivh_followup"]),
        oracle=patient.expansion_probability,
    )


def redrawn(case: GrowthCase, seed: int, futures: int) -> list[GrowthCase]:
    """Return a simulated patient with other futures: the hidden part of the law drawn again, given all that
    the first CT shows.

    A few patients in voxels so tell as much as many. The follow-up keeps the error with which this patient's
    was measured.
    """
    draws = draws_of(seed)
    volumes = oracle.resampled_followup_ml(draws, futures, torch.Generator().manual_seed(seed))
    error = case.followup_ml / float(draws.followup_ich_ml[0])
    return [replace(case, followup_ml=float(v) * error) for v in volumes]


def fit_growth_model(
    cases: Sequence[GrowthCase],
    *,
    cohort: str,
    simulated: bool,
    command: str = "",
    refits: int = 30,
    rng: np.random.Generator,
) -> GrowthModel:
    """Fit the law with every set of inputs that all cases have; `refits` on resampled patients say how
    firmly it stands.
    """
    patients = len({case.id for case in cases})
    expanded = sum(case.expanded for case in cases) / len(cases) * patients
    if min(expanded, patients - expanded) < _LEAST_EACH:
        raise InputRefused(
            f"{patients} patients with {expanded:.0f} expansions were given; at least {_LEAST_EACH} with and"
            f" {_LEAST_EACH} without are needed to fit a growth law"
        )
    wanted = {"image": IMAGE, "image+clinical": (*IMAGE, *CLINICAL), "image+network": (*IMAGE, *CHANNEL)}
    wanted["image+clinical+network"] = (*IMAGE, *CLINICAL, *CHANNEL)
    known = {name: _features(cases, features) for name, features in wanted.items()}
    variants = tuple(
        _variant(name, wanted[name], table, cases, refits, rng)
        for name, table in known.items()
        if np.isfinite(table).all()
    )
    if not variants:
        raise InputRefused(
            "a patient lacks a measure of the haematoma, so no variant of the law can be fitted; leave that"
            " patient out"
        )
    return GrowthModel(
        cohort=cohort,
        patients=patients,
        expanded=round(expanded),
        simulated=simulated,
        code_version=ichnos.__version__,
        command=command,
        fitted=datetime.datetime.now(datetime.UTC).date().isoformat(),
        variants=variants,
    )


def _features(cases: Sequence[GrowthCase], names: Sequence[str]) -> Floats:
    return np.array([[case.inputs.feature(name) for name in names] for case in cases])


def _variant(
    name: str,
    features: tuple[str, ...],
    table: Floats,
    cases: Sequence[GrowthCase],
    refits: int,
    rng: np.random.Generator,
) -> GrowthVariant:
    scale = table.std(axis=0)
    draft = GrowthVariant(
        name=name,
        features=features,
        centre=tuple(table.mean(axis=0).tolist()),
        scale=tuple(np.where(scale > 1e-9, scale, 1.0).tolist()),
        low=tuple(table.min(axis=0).tolist()),
        high=tuple(table.max(axis=0).tolist()),
        parameters=_parameters(np.zeros(len(features) + 7), (0.0, 0.0)),
    )
    x, everyone = standardised(draft, table), np.arange(len(cases))
    fitted = _fitted(x, cases, everyone, None)
    again = tuple(_fitted(x, cases, _resampled(cases, rng), fitted) for _ in range(refits))
    return draft.model_copy(update={"parameters": fitted, "refits": again})


def _resampled(cases: Sequence[GrowthCase], rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Draw patients with replacement, each with all futures."""
    at: dict[str, list[int]] = {}
    for k, case in enumerate(cases):
        at.setdefault(case.id, []).append(k)
    names = list(at)
    return np.array(
        [k for i in rng.integers(len(names), size=len(names)) for k in at[names[int(i)]]], np.intp
    )


def _fitted(
    x: Floats, cases: Sequence[GrowthCase], at: npt.NDArray[np.intp], start: GrowthParameters | None
) -> GrowthParameters:
    """Maximise the likelihood of the observed changes, with a normal prior on the slopes."""
    from scipy.optimize import minimize

    ich = np.array([cases[i].inputs.ich_ml for i in at])
    share = np.array([cases[i].followup_ml for i in at]) / ich - 1
    chosen = x[at]
    first = _start(x.shape[1]) if start is None else _vector(start)
    data = tuple(torch.from_numpy(np.ascontiguousarray(part, np.float64)) for part in (chosen, share, ich))
    found = minimize(_loss_and_slope, first, args=data, jac=True, method="L-BFGS-B")
    return _parameters(found.x, _ventricles_alone([cases[i] for i in at]))


def _start(features: int) -> Floats:
    return np.array([-1.4, *np.zeros(features), -0.5, 0.0, np.log(0.6), 0.02, np.log(0.08), np.log(0.3)])


def _loss_and_slope(
    theta: Floats, x: torch.Tensor, share: torch.Tensor, ich_ml: torch.Tensor
) -> tuple[float, Floats]:
    """Return minus the log posterior of the mixture and its gradient."""
    at = torch.from_numpy(np.asarray(theta, np.float64)).requires_grad_(True)
    k = x.shape[1]
    gain, gain_slope, gain_ln, mean, sd_ln, sd_ml_ln = at[k + 1 :]
    gain_sd = gain_ln.clamp(_LN_SD[0], _LN_SD[1]).exp()
    log_odds = at[0] + x @ at[1 : k + 1]
    sd = torch.hypot(
        sd_ln.clamp(_LN_STABLE[0], _LN_STABLE[1]).exp(), sd_ml_ln.clamp(-5.0, 3.0).exp() / ich_ml
    )
    stable = -0.5 * ((share - mean) / sd) ** 2 - torch.log(sd)
    gained = torch.log(share.clamp(min=1e-6))
    growing = -0.5 * ((gained - gain - gain_slope * x[:, 0]) / gain_sd) ** 2 - torch.log(gain_sd) - gained
    growing = torch.where(share > 0, growing, -1e9)
    log = torch.nn.functional.logsigmoid
    slopes = torch.cat([at[1 : k + 1], gain_slope[None]])
    loss = (
        -torch.logaddexp(growing + log(log_odds), stable + log(-log_odds)).sum()
        + 0.5 * ((slopes / _PRIOR_SD) ** 2).sum()
    )
    (gradient,) = torch.autograd.grad(loss, at)
    return float(loss.detach()), np.asarray(gradient.numpy(), np.float64)


def _parameters(theta: Floats, ventricles: tuple[float, float]) -> GrowthParameters:
    k = len(theta) - 7
    gain, gain_slope, gain_sd, mean, sd, sd_ml = theta[k + 1 :]
    return GrowthParameters(
        growing=tuple(theta[: k + 1].tolist()),
        gain=(float(gain), float(gain_slope)),
        gain_sd=math.exp(np.clip(gain_sd, *_LN_SD)),
        stable_mean=float(mean),
        stable_sd=math.exp(np.clip(sd, *_LN_STABLE)),
        stable_sd_ml=math.exp(np.clip(sd_ml, -5.0, 3.0)),
        ventricles_alone=ventricles,
    )


def _vector(p: GrowthParameters) -> Floats:
    return np.array(
        [
            *p.growing,
            *p.gain,
            np.log(p.gain_sd),
            p.stable_mean,
            np.log(p.stable_sd),
            np.log(max(p.stable_sd_ml, 1e-2)),
        ]
    )


def _ventricles_alone(cases: Sequence[GrowthCase]) -> tuple[float, float]:
    """Return log odds of ventricular growth in those whose haematoma did not expand, without and with
    ventricular blood before.
    """
    odds = []
    for bled in (False, True):
        group = [c for c in cases if (c.inputs.ivh_ml >= 0.5) == bled and c.expanded == 0]
        grew = sum(
            c.followup_ivh_ml - c.inputs.ivh_ml >= 1 or (c.inputs.ivh_ml == 0 and c.followup_ivh_ml > 0)
            for c in group
        )
        odds.append(math.log((grew + 0.5) / (len(group) - grew + 0.5)))
    return odds[0], odds[1]


def cross_validation(
    cases: Sequence[GrowthCase],
    *,
    folds: int,
    judged: Sequence[GrowthCase] | None = None,
    clinical: bool = True,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Measure how laws fitted on the other patients do on each patient (or on `judged`, other futures of the
    same patients).

    Futures of one patient stay together. Intervals take each case for a patient: with redrawn futures they
    are too narrow.
    """
    names = sorted({case.id for case in cases})
    fold_of = dict(zip(names, (rng.permutation(len(names)) % folds).tolist(), strict=True))
    laws = [
        fit_growth_model(
            [c for c in cases if fold_of[c.id] != k], cohort="", simulated=True, refits=0, rng=rng
        )
        for k in range(folds)
    ]
    asked = cases if judged is None else judged
    return validation([laws[fold_of[c.id]] for c in asked], asked, clinical=clinical)


def validation(
    laws: Sequence[GrowthModel], cases: Sequence[GrowthCase], *, clinical: bool = True
) -> dict[str, float]:
    """Measure each patient's law, not fitted on that patient: discrimination, calibration, coverage of the
    band, against the oracle's.

    Without `clinical`, the laws are told the image alone.
    """
    inputs = [
        c.inputs if clinical else replace(c.inputs, onset_to_ct_h=None, anticoagulated=None) for c in cases
    ]
    outcome = [case.expanded for case in cases]
    forecasts = [law.forecast(i) for law, i in zip(laws, inputs, strict=True)]
    risk = [f.probability(DEFINITIONS["33%-or-6ml"]) for f in forecasts]
    area, fit = auc(outcome, risk), calibration(outcome, risk)
    inside = [
        f.quantile_ml(0.1) <= c.followup_ml <= f.quantile_ml(0.9)
        for f, c in zip(forecasts, cases, strict=True)
    ]
    covered = proportion(sum(inside), len(inside))
    errors = np.array([f.quantile_ml(0.5) - c.followup_ml for f, c in zip(forecasts, cases, strict=True)])
    found = {
        "cases": float(len(cases)),
        "patients": float(len({case.id for case in cases})),
        "expanded": float(sum(outcome)),
        "auc": area.value,
        "auc_low": area.low,
        "auc_high": area.high,
        "calibration_slope": fit.slope.value,
        "calibration_slope_low": fit.slope.low,
        "calibration_slope_high": fit.slope.high,
        "observed_over_expected": fit.observed_over_expected,
        "brier": fit.brier,
        "band_80_coverage": covered.value,
        "median_error_ml": float(np.mean(errors)),
        "median_absolute_error_ml": float(np.mean(np.abs(errors))),
        "outside_cohort_share": float(
            np.mean([bool(law.outside(i)) for law, i in zip(laws, inputs, strict=True)])
        ),
    }
    best = [case.oracle for case in cases]
    if np.isfinite(best).all():
        difference = compare_paired(outcome, risk, best)
        found |= {
            "auc_oracle": auc(outcome, best).value,
            "auc_minus_oracle": difference.value,
            "auc_minus_oracle_p": difference.p,
        }
    found["auc_volume_alone"] = auc(outcome, [c.inputs.ich_ml for c in cases]).value
    return found


def case_row(case: GrowthCase) -> dict[str, Any]:
    """Return a case as a flat row of plain data."""
    from dataclasses import asdict

    return {
        **asdict(case.inputs),
        "followup_ml": case.followup_ml,
        "followup_ivh_ml": case.followup_ivh_ml,
        "oracle": case.oracle,
    }


def case_of(row: Mapping[str, Any]) -> GrowthCase:
    """Return the case of a row that `case_row` made; the row also holds its "id"."""
    names = GrowthInputs.__dataclass_fields__
    inputs = GrowthInputs(**{name: row[name] for name in names})
    return GrowthCase(str(row["id"]), inputs, row["followup_ml"], row["followup_ivh_ml"], row["oracle"])
