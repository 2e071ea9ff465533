"""Fit the growth model: from patients with two CTs to the plain numbers that reading forecasts with."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

import ichnos
from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.learning.fit.growth_cases import GrowthCase
from ichnos.prognosis.growth import (
    CHANNEL,
    CLINICAL,
    IMAGE,
    GrowthModel,
    GrowthParameters,
    GrowthVariant,
    standardised,
)

_PRIOR_SD = 0.3  # of a slope per standard deviation of its feature: few patients must not give steep ones
# ln of the spreads of a gain and of a stable haematoma: kept away from a single point
_LN_SD, _LN_STABLE = (-2.3, 1.5), (-4.6, 0.0)
_VARIANTS = {
    "image": IMAGE,
    "image+clinical": (*IMAGE, *CLINICAL),
    "image+network": (*IMAGE, *CHANNEL),
    "image+clinical+network": (*IMAGE, *CLINICAL, *CHANNEL),
}
_LEAST_EACH = 10  # patients with and without expansion below which nothing is fitted


def fit_growth_model(
    cases: Sequence[GrowthCase],
    *,
    cohort: str,
    simulated: bool,
    command: str = "",
    refits: int = 30,
    rng: np.random.Generator,
) -> GrowthModel:
    """Fit a variant per set of inputs that all cases have; `refits` on resampled patients give its spread."""
    patients, expanded = _checked_counts(cases)
    variants = _variants(cases, refits, rng)
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


def _variants(
    cases: Sequence[GrowthCase], refits: int, rng: np.random.Generator
) -> tuple[GrowthVariant, ...]:
    tables = {name: _features(cases, features) for name, features in _VARIANTS.items()}
    variants = tuple(
        _variant(name, _VARIANTS[name], table, cases, refits, rng)
        for name, table in tables.items()
        if np.isfinite(table).all()
    )
    if not variants:
        raise InputRefused(
            "a patient lacks a measure of the haematoma, so no variant can be fitted; leave that patient out"
        )
    return variants


def _checked_counts(cases: Sequence[GrowthCase]) -> tuple[int, float]:
    """Return the patients and, of them, those with expansion; refuse too few of either kind."""
    patients = len({case.id for case in cases})
    expanded = sum(case.expanded for case in cases) / max(len(cases), 1) * patients
    if min(expanded, patients - expanded) < _LEAST_EACH:
        raise InputRefused(
            f"{patients} patients with {expanded:.0f} expansions were given; at least {_LEAST_EACH} with and"
            f" {_LEAST_EACH} without are needed to fit a growth model"
        )
    return patients, expanded


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
