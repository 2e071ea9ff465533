"""Warnings that a reviewer would raise: numbers that cannot both be true, too few events, a shifted
prevalence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

FlagLevel = Literal["note", "warn", "alarm"]


@dataclass(frozen=True)
class ReviewFlag:
    """One warning."""

    level: FlagLevel
    name: str  # short, stable: "dice_iou"
    text: str


def iou_of_dice(dice: float) -> float:
    """Return the only IoU that a single case with this Dice can have: D / (2 - D).

    >>> round(iou_of_dice(0.937), 3)
    0.881
    """
    return dice / (2 - dice)


def check_pair(
    dice: float, iou: float, *, of: Literal["case", "mean"], tolerance: float = 0.0015
) -> ReviewFlag | None:
    """Say whether a Dice and an IoU can both be true; None if so. `tolerance` allows for rounding to three
    digits.

    For one case (or pooled voxels) IoU = D/(2-D). For means over cases that map is convex: mean IoU lies
    between D/(2-D) of the mean Dice and the mean Dice itself, and comes near the latter only if almost every
    case is perfect or missed altogether.

    >>> case, mean = check_pair(0.937, 0.934, of="case"), check_pair(0.937, 0.934, of="mean")
    >>> case.level, mean.level, check_pair(0.9, 0.82, of="mean")
    ('alarm', 'warn', None)
    """
    least = iou_of_dice(dice)
    if of == "case":
        if abs(iou - least) <= tolerance:
            return None
        text = f"Dice {dice:.3f} and IoU {iou:.3f} cannot both be true of one mask: the IoU is {least:.3f}."
        return ReviewFlag("alarm", "dice_iou", text)
    return _check_means(dice, iou, tolerance)


def _check_means(dice: float, iou: float, tolerance: float) -> ReviewFlag | None:
    least = iou_of_dice(dice)
    if iou < least - tolerance or iou > dice + tolerance:
        text = (
            f"A mean Dice of {dice:.3f} and a mean IoU of {iou:.3f} cannot both be true: the IoU must lie in"
            f" {least:.3f} to {dice:.3f}."
        )
        return ReviewFlag("alarm", "dice_iou", text)
    gap, typical = dice - iou, dice - least
    if typical > 4 * tolerance and gap + tolerance < typical / 3:
        text = (
            f"A mean Dice of {dice:.3f} with a mean IoU of {iou:.3f} would need nearly every case to be"
            f" perfect or missed altogether; with cases near the mean the IoU is about {least:.3f}."
        )
        return ReviewFlag("warn", "dice_iou", text)
    return None


def check_events(name: str, events: int, others: int) -> ReviewFlag | None:
    """Warn of few cases in the rarer class: below 100 a validation is imprecise, below 20 close to empty
    (Vergouwe 2005; Collins 2016).

    >>> check_events("expansion", 15, 300).level, check_events("expansion", 120, 300)
    ('alarm', None)
    """
    rarer = min(events, others)
    if rarer >= 100:
        return None
    level: FlagLevel = "alarm" if rarer < 20 else "warn"
    return ReviewFlag(
        level,
        "few_events",
        f"{name}: the rarer outcome has {rarer} cases, fewer than the 100 advised: read the intervals first.",
    )


def check_prevalence(
    name: str, outcome: npt.ArrayLike, probability: npt.ArrayLike, trained_at: float | None
) -> ReviewFlag | None:
    """Warn where the predicted risk is not the observed one on average, or training (after balancing) saw
    another prevalence.
    """
    observed, predicted = (
        float(np.mean(np.asarray(outcome, float))),
        float(np.mean(np.asarray(probability, float))),
    )
    se = float(np.sqrt(observed * (1 - observed) / np.size(outcome)))
    if trained_at is not None and abs(trained_at - observed) > max(0.05, 2 * se):
        text = (
            f"{name}: the training images hold {trained_at:.0%} events, these patients {observed:.0%}:"
            " recalibrate."
        )
        return ReviewFlag("warn", "prevalence", text)
    if abs(predicted - observed) > max(0.03, 2 * se):
        text = (
            f"{name}: the mean predicted probability is {predicted:.1%}, and {observed:.1%} had the event:"
            " recalibrate."
        )
        return ReviewFlag("warn", "prevalence", text)
    return None


def check_centres(name: str, outcome: npt.ArrayLike, centres: npt.ArrayLike) -> ReviewFlag | None:
    """Note where the prevalence differs between centres (chi-squared, p < 0.05).

    >>> check_centres("expansion", [1] * 20 + [0] * 20, ["A"] * 20 + ["B"] * 20).text
    'expansion: the prevalence differs between centres (A 100%, B 0%; p 1.9e-09).'
    """
    from scipy.stats import chi2_contingency

    events, where = np.asarray(outcome, bool), np.asarray(centres)
    names = np.unique(where)
    if names.size < 2 or events.all() or not events.any():
        return None
    table = np.array([[(events & (where == c)).sum(), (~events & (where == c)).sum()] for c in names])
    p = float(chi2_contingency(table).pvalue)
    if p >= 0.05:
        return None
    shares = ", ".join(f"{c} {table[i, 0] / table[i].sum():.0%}" for i, c in enumerate(names))
    return ReviewFlag(
        "note", "centres", f"{name}: the prevalence differs between centres ({shares}; p {p:.2g})."
    )
