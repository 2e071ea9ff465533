"""A stand-in for the shipped model: it reads volumes with the shipped weights' measured error, forecasts, and
was calibrated before it came, on other patients of the same law and the old scanner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from ichnos.arrays import Floats
from ichnos.audit.monitoring.selection import weighted_calibration
from ichnos.evidence.metrics.calibration import logit
from ichnos.studies.hospital.people import HospitalPeople, draw_people
from ichnos.studies.hospital.scanners import OLD, HospitalScanner, reading_spread

PROMISED = 0.8  # of every interval
# Standard deviation of the noise on the best possible log odds: set so that the AUC is the shipped growth
# model's (0.77, docs/models.md) instead of the oracle's.
_RISK_NOISE = 0.7
_RISK_GROUPS = 5  # the forecast's interval is calibrated within fifths of P(expansion)
_FACTORY_PATIENTS, _FACTORY_SEED = 6000, 990_001


@dataclass(frozen=True, eq=False)
class HospitalReadings:
    """What the model said of everybody at the time; every field (n,), limits (n, 2)."""

    ich_ml: Floats
    leukoaraiosis_ml: Floats
    leukoaraiosis_limits_ml: Floats
    probability: Floats  # of expansion
    followup_ml: Floats  # median
    followup_limits_ml: Floats


@dataclass(frozen=True, eq=False)
class FactoryModel:
    """The model as it was shipped."""

    ich_spread: float
    leukoaraiosis_spread: float
    risk: tuple[float, float]  # intercept and slope on the noisy log odds
    edges: Floats  # between the groups of risk
    growth: Floats  # (groups, 3): low, median, high of ln(1 + later) - ln(1 + read)
    leukoaraiosis: tuple[float, float]  # low and high of ln(1 + true) - ln(1 + read)

    def read(
        self, people: HospitalPeople, scanners: list[HospitalScanner], rng: np.random.Generator
    ) -> HospitalReadings:
        """Read everybody, each on the scanner of the day."""
        bias, spread = (np.array([getattr(s, name) for s in scanners]) for name in ("bias", "spread"))
        ich = _misread(people.ich_ml, bias, spread * self.ich_spread, rng)
        leuko = _misread(people.leukoaraiosis_ml, bias, spread * self.leukoaraiosis_spread, rng)
        probability = expit(self.risk[0] + self.risk[1] * _noisy_odds(people, ich, rng))
        growth = self.growth[np.searchsorted(self.edges, probability)]
        followup = np.expm1(np.log1p(ich)[:, None] + growth)
        limits = np.expm1(np.log1p(leuko)[:, None] + np.array(self.leukoaraiosis))
        return HospitalReadings(
            ich, leuko, np.maximum(limits, 0), probability, followup[:, 1], np.maximum(followup[:, ::2], 0)
        )


def _misread(true_ml: Floats, bias: Floats, spread: Floats, rng: np.random.Generator) -> Floats:
    return np.asarray(
        np.maximum(np.expm1(np.log1p(true_ml) + bias + spread * rng.normal(size=true_ml.size)), 0.05)
    )


def _noisy_odds(people: HospitalPeople, read_ml: Floats, rng: np.random.Generator) -> Floats:
    """Return log odds of expansion as the model sees them: with noise, and from the volume as read."""
    misread = np.log(np.maximum(read_ml, 0.05) / people.ich_ml)
    return np.asarray(logit(people.risk) + misread + _RISK_NOISE * rng.normal(size=len(people)))


def factory_model() -> FactoryModel:
    """Calibrate the model before it is shipped, on patients of its own."""
    people, rng = draw_people(_FACTORY_PATIENTS, 1, _FACTORY_SEED), np.random.default_rng(_FACTORY_SEED)
    spreads = reading_spread("ICH"), reading_spread("leukoaraiosis")
    draft = FactoryModel(*spreads, (0.0, 1.0), np.zeros(0), np.zeros((1, 3)), (0.0, 0.0))
    seen = draft.read(people, [OLD] * len(people), rng)
    risk = weighted_calibration(expanded(people), seen.probability, np.ones(len(people)))
    p = expit(risk[0] + risk[1] * logit(seen.probability))
    edges = np.quantile(p, np.arange(1, _RISK_GROUPS) / _RISK_GROUPS)
    group = np.searchsorted(edges, p)
    tails = ((1 - PROMISED) / 2, 0.5, (1 + PROMISED) / 2)
    change = np.log1p(people.followup_ml) - np.log1p(seen.ich_ml)
    growth = np.array([np.quantile(change[group == g], tails) for g in range(_RISK_GROUPS)])
    error = np.log1p(people.leukoaraiosis_ml) - np.log1p(seen.leukoaraiosis_ml)
    low, high = np.quantile(error, (tails[0], tails[2]))
    return FactoryModel(*spreads, risk, edges, growth, (float(low), float(high)))


def expanded(people: HospitalPeople) -> Floats:
    """Return 1 for those whose haematoma has expanded in truth, 0 for the others."""
    from ichnos.clinical.expansion import DEFAULT_DEFINITION, DEFINITIONS

    return DEFINITIONS[DEFAULT_DEFINITION](people.ich_ml, people.followup_ml)
