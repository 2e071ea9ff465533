"""What happens when a score becomes a decision: operating points, their rates, and prevalence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.discrimination import roc_curve
from ichnos.evidence.metrics.intervals import LEVEL, Estimate, finite, proportion, two_classes


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold with the set on which it was chosen; a case is positive from the threshold on."""

    threshold: float
    rule: str  # how it was chosen: "youden", "sensitivity 0.9", "given"
    chosen_on: str  # the name of that set; the same set as the evaluated one makes the rates optimistic


@dataclass(frozen=True)
class Rates:
    """What a threshold gives on a set of cases, with Wilson intervals."""

    point: OperatingPoint
    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate  # at the prevalence of this set
    npv: Estimate
    accuracy: Estimate


def youden_point(outcome: npt.ArrayLike, score: npt.ArrayLike, *, chosen_on: str) -> OperatingPoint:
    """Choose the threshold with the greatest sensitivity + specificity.

    >>> youden_point([0, 0, 1, 1], [0.1, 0.4, 0.5, 0.9], chosen_on="train").threshold
    0.5
    """
    curve = roc_curve(outcome, score)
    best = int(np.argmax(curve.true_positive_rate - curve.false_positive_rate))
    return OperatingPoint(float(curve.threshold[max(best, 1)]), "youden", chosen_on)


def sensitivity_point(
    outcome: npt.ArrayLike, score: npt.ArrayLike, *, sensitivity: float, chosen_on: str
) -> OperatingPoint:
    """Choose the highest threshold that reaches a sensitivity.

    >>> sensitivity_point([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.9], sensitivity=1.0, chosen_on="train").threshold
    0.3
    """
    curve = roc_curve(outcome, score)
    at = int(np.argmax(curve.true_positive_rate >= sensitivity - 1e-12))
    return OperatingPoint(float(curve.threshold[max(at, 1)]), f"sensitivity {sensitivity:g}", chosen_on)


def rates(
    outcome: npt.ArrayLike, score: npt.ArrayLike, point: OperatingPoint, *, level: float = LEVEL
) -> Rates:
    """Count and rate the decisions of an operating point.

    >>> result = rates([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.9], OperatingPoint(0.35, "given", "train"))
    >>> result.true_positive, result.false_positive, result.sensitivity.value
    (1, 1, 0.5)
    """
    events, (values,) = two_classes(outcome, score)
    positive = values >= point.threshold
    tp, fp = int((positive & events).sum()), int((positive & ~events).sum())
    tn, fn = int((~positive & ~events).sum()), int((~positive & events).sum())
    shares = [(tp, tp + fn), (tn, tn + fp), (tp, tp + fp), (tn, tn + fn), (tp + tn, events.size)]
    return Rates(point, tp, fp, tn, fn, *(proportion(k, n, level=level) for k, n in shares))


def predictive_values(*, sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """Return PPV and NPV at another prevalence, by Bayes' theorem.

    >>> [round(v, 3) for v in predictive_values(sensitivity=0.679, specificity=0.793, prevalence=0.198)]
    [0.447, 0.909]
    """
    positive = sensitivity * prevalence + (1 - specificity) * (1 - prevalence)
    negative = specificity * (1 - prevalence) + (1 - sensitivity) * prevalence
    ppv = sensitivity * prevalence / positive if positive else float("nan")
    return ppv, specificity * (1 - prevalence) / negative if negative else float("nan")


def at_prevalence(probability: npt.ArrayLike, *, trained_at: float, true_prevalence: float) -> Floats:
    """Return probabilities of a model trained at one prevalence (after balancing, say) as they are at
    another.

    The odds are multiplied by the ratio of prior odds (Saerens et al. 2002, Neural Comput 14:21); ranks,
    hence the AUC, do not change.

    >>> at_prevalence([0.5], trained_at=0.5, true_prevalence=0.2).tolist()
    [0.2]
    """
    p = finite("the probability", probability)
    if ((p < 0) | (p > 1)).any() or not 0 < trained_at < 1 or not 0 < true_prevalence < 1:
        raise InputRefused(
            "probabilities must lie in 0 to 1 and both prevalences strictly between; scores need calibrating"
            " first"
        )
    ratio = true_prevalence / (1 - true_prevalence) * (1 - trained_at) / trained_at
    shifted: Floats = p * ratio / (p * ratio + 1 - p)
    return shifted
