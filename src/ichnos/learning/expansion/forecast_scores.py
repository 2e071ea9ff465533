"""How well a follow-up lesion was forecast, and the even dilation that every forecast is compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichnos.arrays import Floats32
from ichnos.learning.expansion.pairs import LesionPair
from ichnos.reading.expansion import signed_distance_mm


def uniform_dilation(pair: LesionPair, factor: float) -> Floats32:
    """Return the lesion dilated evenly to `factor` times its volume inside the brain: what knows only the
    mean growth.
    """
    blood = pair.blood > 0.5
    allowed = blood | pair.brain
    score = np.where(allowed, signed_distance_mm(blood, pair.spacing_mm), np.inf).ravel()
    out = np.zeros(blood.size, np.float32)
    out[np.argsort(score, kind="stable")[: round(factor * float(blood.sum()))]] = 1
    return out.reshape(blood.shape)


@dataclass(frozen=True)
class ForecastScore:
    """How well one patient's follow-up lesion was forecast."""

    patient: str
    growth_dice: (
        float  # of the voxels that are blood at follow-up and were not before; NaN where nothing grew
    )
    lesion_dice: float
    volume_error_ml: float  # forecast minus truth


def score(
    pair: LesionPair, forecast: Floats32, *, threshold: float = 0.5, volume_ml: float | None = None
) -> ForecastScore:
    """Score a map at an operating point; `volume_ml` is the forecast volume where it is not the mask's."""
    mask, truth, before = forecast > threshold, pair.later > 0.5, pair.blood > 0.5
    grown = truth & ~before
    growth = _dice(mask & ~before, grown)
    predicted_ml = float(mask.sum()) * pair.voxel_ml if volume_ml is None else volume_ml
    return ForecastScore(
        pair.patient, growth, _dice(mask, truth), predicted_ml - float(truth.sum()) * pair.voxel_ml
    )


def _dice(mask: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Return Dice; NaN where there is nothing to find."""
    return 2 * float((mask & truth).sum()) / float(mask.sum() + truth.sum()) if truth.any() else math.nan


def best_threshold(pairs: Sequence[LesionPair], maps: Sequence[Floats32]) -> float:
    """Return the operating point with the greatest mean growth Dice, among 0.05 to 0.95; give patients who
    were not trained on.
    """
    cuts = np.linspace(0.05, 0.95, 19)
    means = [
        float(np.nanmean([score(p, m, threshold=c).growth_dice for p, m in zip(pairs, maps, strict=True)]))
        for c in cuts
    ]
    return float(cuts[int(np.nanargmax(means))])
