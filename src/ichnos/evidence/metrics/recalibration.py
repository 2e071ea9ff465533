"""Mending probabilities on a calibration split, and saying honestly when a case is not decided: Platt,
isotonic, temperature, conformal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.calibration import checked_probabilities, logit
from ichnos.evidence.metrics.intervals import Estimate, finite, proportion, two_classes

Method = Literal["platt", "isotonic", "temperature"]


@dataclass(frozen=True, eq=False)
class Recalibrator:
    """A monotone map from score to probability, fitted on one set and frozen for the next."""

    method: Method
    # platt: (intercept, slope) · temperature: (temperature,) · isotonic: scores then probabilities, one after
    # the other
    knots: Floats
    fitted_on: str  # name of the set; it may not be evaluated on it
    n: int

    def __call__(self, score: npt.ArrayLike) -> Floats:
        values = finite("the score", score)
        if self.method == "isotonic":
            half = self.knots.size // 2
            return np.interp(values, self.knots[:half], self.knots[half:])
        line = (
            self.knots[0] + self.knots[1] * values
            if self.method == "platt"
            else logit(values) / self.knots[0]
        )
        probability: Floats = 1 / (1 + np.exp(-line))
        return probability


def fit_recalibrator(
    outcome: npt.ArrayLike, score: npt.ArrayLike, *, method: Method, fitted_on: str
) -> Recalibrator:
    """Fit a map on a calibration split: Platt 1999 (logistic on the score), isotonic (Zadrozny & Elkan 2002),
    temperature (Guo 2017).

    Platt uses the smoothed targets of the original, so that a separable set still has a finite fit.
    Temperature needs probabilities.
    """
    if method == "isotonic":
        return _isotonic(outcome, score, fitted_on)
    if method == "temperature":
        return _temperature(outcome, score, fitted_on)
    import statsmodels.api as sm

    events, (values,) = two_classes(outcome, score)
    positive, negative = events.sum(), (~events).sum()
    target = np.where(events, (positive + 1) / (positive + 2), 1 / (negative + 2))
    if values.std() < 1e-12:
        raise InputRefused(
            "the score is the same for every case of the calibration split, so nothing can be calibrated"
        )
    centre, scale = values.mean(), values.std()
    fit = sm.GLM(target, sm.add_constant((values - centre) / scale), family=sm.families.Binomial()).fit()
    slope = fit.params[1] / scale
    return Recalibrator("platt", np.array([fit.params[0] - slope * centre, slope]), fitted_on, events.size)


def _isotonic(outcome: npt.ArrayLike, score: npt.ArrayLike, fitted_on: str) -> Recalibrator:
    from sklearn.isotonic import IsotonicRegression

    events, (values,) = two_classes(outcome, score)
    fit = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(values, events)
    return Recalibrator(
        "isotonic", np.concatenate([fit.X_thresholds_, fit.y_thresholds_]), fitted_on, events.size
    )


def _temperature(outcome: npt.ArrayLike, probability: npt.ArrayLike, fitted_on: str) -> Recalibrator:
    from scipy.optimize import minimize_scalar

    events, p = checked_probabilities(outcome, probability)
    x = logit(p)

    def loss(log_temperature: float) -> float:
        line = x / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, line) - events * line))

    best = minimize_scalar(loss, bounds=(-4, 4), method="bounded")
    return Recalibrator("temperature", np.array([np.exp(best.x)]), fitted_on, events.size)


@dataclass(frozen=True)
class Conformal:
    """Thresholds that turn a probability into a set of labels which holds the truth with the promised
    coverage, in each class.
    """

    least_probability_of_event: float  # the label 1 is in the set from here on
    least_probability_of_none: float  # the label 0 is in the set where 1 - p is at least this
    promised_coverage: float
    n: int


@dataclass(frozen=True, eq=False)
class LabelSets:
    """For each case, which labels remain possible. One label is a decision; both, or neither, is an
    abstention.
    """

    event: npt.NDArray[np.bool_]
    none: npt.NDArray[np.bool_]

    @property
    def abstain(self) -> npt.NDArray[np.bool_]:
        """Say for which cases the model does not decide.

        >>> LabelSets(np.array([True, True, False]), np.array([False, True, False])).abstain.tolist()
        [False, True, True]
        """
        undecided: npt.NDArray[np.bool_] = self.event == self.none
        return undecided


@dataclass(frozen=True)
class ConformalRates:
    """What the sets gave on other cases."""

    coverage: Estimate  # the set holds the truth
    coverage_events: Estimate
    coverage_others: Estimate
    abstained: Estimate
    accuracy_when_decided: Estimate
    promised: float


def fit_conformal(outcome: npt.ArrayLike, probability: npt.ArrayLike, *, coverage: float = 0.9) -> Conformal:
    """Fit class-conditional split conformal sets (Vovk 2005; Sadinle et al. 2019, JASA 114:223) on a
    calibration split.
    """
    events, p = checked_probabilities(outcome, probability)
    return Conformal(_least(p[events], coverage), _least(1 - p[~events], coverage), coverage, events.size)


def _least(p_of_truth: Floats, coverage: float) -> float:
    """Return the (n+1)-corrected lower quantile of the probability given to the truth; 0 where too few
    cases can promise so much.
    """
    allowed = int(np.floor((p_of_truth.size + 1) * (1 - coverage) + 1e-9))  # how many may fall below
    return float(np.sort(p_of_truth)[allowed - 1]) if allowed >= 1 else 0.0


def label_sets(conformal: Conformal, probability: npt.ArrayLike) -> LabelSets:
    """Return which labels remain possible for each case.

    >>> sets = label_sets(Conformal(0.3, 0.4, promised_coverage=0.9, n=100), [0.1, 0.5, 0.9])
    >>> sets.event.tolist(), sets.none.tolist()
    ([False, True, True], [True, True, False])
    """
    p = finite("the probability", probability)
    return LabelSets(p >= conformal.least_probability_of_event, 1 - p >= conformal.least_probability_of_none)


def conformal_rates(
    conformal: Conformal, outcome: npt.ArrayLike, probability: npt.ArrayLike
) -> ConformalRates:
    """Measure coverage and abstention on cases that were not used for the fit."""
    events, p = checked_probabilities(outcome, probability)
    sets = label_sets(conformal, p)
    held, decided = np.where(events, sets.event, sets.none), ~sets.abstain
    return ConformalRates(
        proportion(int(held.sum()), held.size),
        proportion(int(held[events].sum()), int(events.sum())),
        proportion(int(held[~events].sum()), int((~events).sum())),
        proportion(int(sets.abstain.sum()), held.size),
        proportion(int((held & decided).sum()), int(decided.sum())),
        conformal.promised_coverage,
    )
