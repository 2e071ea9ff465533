"""Numbers over all pairs by what the judged model says, corrected by a random share that people judged.

Prediction-powered inference (Angelopoulos and others 2023, Science 382:669): what the model says of all
pairs, plus the mean of person minus model over the outlined ones. The model's part is weighed so that the
variance is least (Angelopoulos, Duchi and Zrnic 2023, arXiv:2311.01453): a model that says little of use
then costs nothing. Intervals are sandwich intervals over pairs; selection weights count as known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.calibration import logit
from ichnos.evidence.metrics.intervals import Estimate

_Z = 1.959964  # of 95 %
_STEPS = 60  # Newton's; a few are enough where there is a solution
_STEEPEST = 20.0  # log odds per unit: beyond, the outcomes are separated and nothing is determined


@dataclass(frozen=True, eq=False)
class DoublyJudged:
    """One outcome of many pairs, twice: by the judged model of all, by people of some; every field (n,)."""

    by_model: Floats
    by_people: Floats  # NaN where nobody outlined it
    weights: Floats  # of each pair for selection; any scale

    @property
    def outlined(self) -> int:
        """Return how many pairs people judged."""
        return int(np.isfinite(self.by_people).sum())

    def by_model_alone(self) -> DoublyJudged:
        """Return the same as if people had said of all pairs what the model says."""
        return DoublyJudged(self.by_model, self.by_model, self.weights)


def corrected_mean(judged: DoublyJudged, *, model_share: float | None = None) -> Estimate:
    """Return the weighted mean of what people would have said of all pairs.

    `model_share` is the weight of the model's part: 0 leaves people alone, 1 is the plain correction; the
    best one without.

    >>> model, people = np.tile([1.0, 1.0, 1.0, 0.0], 100), np.full(400, np.nan)
    >>> people[:80] = np.tile([1.0, 1.0, 0.0, 0.0], 20)
    >>> round(corrected_mean(DoublyJudged(model, people, np.ones(400))).value, 2)
    0.5
    """
    (mean,) = _estimates(np.ones((1, len(judged.weights))), judged, model_share, logistic=False)
    return mean


def corrected_calibration(
    judged: DoublyJudged, probability: Floats, *, model_share: float | None = None
) -> tuple[Estimate, Estimate]:
    """Return intercept and slope of the weighted logistic regression of people's outcomes on log odds."""
    x = logit(probability)
    intercept, slope = _estimates(np.stack([np.ones_like(x), x]), judged, model_share, logistic=True)
    return intercept, slope


def _estimates(
    x: Floats, judged: DoublyJudged, model_share: float | None, *, logistic: bool
) -> list[Estimate]:
    """Return an estimate for each row of the design (rows, n)."""
    if not judged.outlined:
        raise InputRefused("no pair was outlined by people")
    if model_share is None:
        first = _Solution.of(x, judged, 0.0, logistic=logistic)
        model_share = _best_share(x, judged, first)
    solved = _Solution.of(x, judged, model_share, logistic=logistic)
    people, model = _contributions(x, judged, solved)
    errors = np.sqrt(((people + model_share * model) ** 2).sum(axis=1))
    n = len(judged.weights)
    return [
        Estimate(float(v), float(v - _Z * e), float(v + _Z * e), n)
        for v, e in zip(solved.at, errors, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Solution:
    """Where the estimating equation is zero."""

    at: Floats  # (rows,)
    mean: Floats  # (n,) expected outcome there
    information: Floats  # (rows, rows)

    @staticmethod
    def of(x: Floats, judged: DoublyJudged, model_share: float, *, logistic: bool) -> _Solution:
        """Solve mean_outlined x (e - people) + share (mean_all - mean_outlined) x (e - model) = 0.

        All means are weighted, e is the expected outcome. Share 0 is the regression of people's outcomes on
        the outlined pairs alone.
        """
        all_, outlined, people = _normalised(judged)
        mixed = model_share * all_ + (1 - model_share) * outlined
        model = model_share * judged.by_model
        wanted = x @ (all_ * model) + x @ (outlined * (people - model))
        at = np.zeros(len(x))
        for _ in range(_STEPS):
            eta = at @ x
            mean = expit(eta) if logistic else eta
            slope = mean * (1 - mean) if logistic else np.ones_like(eta)
            information = (x * (mixed * slope)) @ x.T
            step = np.linalg.solve(information + 1e-12 * np.eye(len(x)), wanted - x @ (mixed * mean))
            if np.abs(step).max() < 1e-9:
                return _Solution(at, mean, information)
            at = at + (np.clip(step, -2, 2) if logistic else step)
            if np.abs(at).max() > _STEEPEST:
                break
        raise InputRefused("the outcomes are too few or too uneven to determine it; more pairs are needed")


def _normalised(judged: DoublyJudged) -> tuple[Floats, Floats, Floats]:
    """Return weights of all pairs and of the outlined ones, each with the sum 1, and people's outcomes."""
    known = np.isfinite(judged.by_people)
    outlined = np.where(known, judged.weights, 0.0)
    people = np.where(known, judged.by_people, 0.0)
    return judged.weights / judged.weights.sum(), outlined / outlined.sum(), people


def _contributions(x: Floats, judged: DoublyJudged, at: _Solution) -> tuple[Floats, Floats]:
    """Return each pair's part in the error: of people's outcomes, and of a whole share of the model's."""
    all_, outlined, people = _normalised(judged)
    model = x * (judged.by_model - at.mean)
    by_people = _centred(x * (people - at.mean), outlined)
    by_model = _centred(model, all_) - _centred(model, outlined)
    solved = (np.linalg.solve(at.information, part) for part in (by_people, by_model))
    people_part, model_part = (np.asarray(part, np.float64) for part in solved)
    return people_part, model_part


def _centred(values: Floats, weights: Floats) -> Floats:
    return np.asarray(weights * (values - (values @ weights)[:, None]))


def _best_share(x: Floats, judged: DoublyJudged, at: _Solution) -> float:
    """Return the share of the model's part for which the last number varies least."""
    people, model = (one[-1] for one in _contributions(x, judged, at))
    return float(np.clip(-(people @ model) / max(float(model @ model), 1e-12), 0.0, 1.0))
