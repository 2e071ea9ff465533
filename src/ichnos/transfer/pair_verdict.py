"""May a pair of exams, and the target it gave, be trusted? Each number has a limit and a cause to show."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan

import numpy as np

from ichnos.transfer.pair_numbers import PairNumbers
from ichnos.verdict import Level, Reason, Verdict
from ichnos.volume import Volume


@dataclass(frozen=True)
class PairLimits:
    """PairLimits of the numbers: (warn, refuse). Chosen on simulated pairs; docs/transfer.md says how."""

    margin: tuple[float, float] = (0.08, 0.04)
    least_margin: tuple[float, float] = (-0.05, -0.15)
    mirror_margin: tuple[float, float] = (0.08, 0.03)
    head_overlap: tuple[float, float] = (0.93, 0.88)
    brain_coverage: tuple[float, float] = (0.92, 0.75)
    jacobian_min: tuple[float, float] = (0.3, 0.05)
    jacobian_max: tuple[float, float] = (3.0, 6.0)
    deformation_mm: tuple[float, float] = (3.0, 6.0)
    interval_d: tuple[float, float] = (90.0, 1500.0)
    landmark_mm: tuple[float, float] = (4.0, 8.0)


# The reason's name, the number it judges, and the words for a number that is too small.
_AT_LEAST = (
    (
        "wrong_head",
        "margin",
        "the partner exam fits no better than a wrong head does: another patient?",
    ),
    ("wrong_shape", "least_margin", "a stretched partner exam fits the CT better: another patient?"),
    ("flipped", "mirror_margin", "the partner exam mirrored fits as well: left and right swapped?"),
    ("head_overlap", "head_overlap", "the heads do not cover each other: not aligned, or not whole"),
    ("brain_coverage", "brain_coverage", "the partner exam does not show the CT's whole brain"),
    ("folding", "jacobian_min", "the deformable step presses tissue together too far"),
)
# The same for a number that is too large, and its unit.
_AT_MOST = (
    ("stretching", "jacobian_max", "the deformable step stretches tissue too far", ""),
    ("deformation", "deformation_mm", "the deformable step moves the brain too far", "mm"),
)


def judge_pair(
    numbers: PairNumbers,
    *,
    limits: PairLimits | None = None,
    interval_h: float | None = None,
    landmark_mm: float = float("nan"),
) -> Verdict:
    """Turn the numbers of a pair into a verdict with causes: "refuse" means that its target must not be used.

    `interval_h` is the time between the exams, `landmark_mm` how far marked points are left apart.
    """
    limits = limits or PairLimits()
    reasons = [
        _below(name, getattr(numbers, field), getattr(limits, field), text) for name, field, text in _AT_LEAST
    ]
    reasons += [
        _above(name, getattr(numbers, field), getattr(limits, field), text, unit)
        for name, field, text, unit in _AT_MOST
    ]
    if interval_h is not None:
        text = "the exams lie far apart in time, and the target may have changed in between"
        reasons.append(_above("interval", abs(interval_h) / 24, limits.interval_d, text, "d"))
    reasons.append(
        _above("landmarks", landmark_mm, limits.landmark_mm, "points marked in both exams do not meet", "mm")
    )
    return Verdict(tuple(reasons))


@dataclass(frozen=True)
class PlausibleTarget:
    """What a target may be like."""

    least_ml: float
    most_ml: float
    both_sides: bool = False  # each side must hold at least a fifth of the larger one
    empty_is: Level = "pass"


PLAUSIBLE: dict[str, PlausibleTarget] = {
    "leukoaraiosis": PlausibleTarget(0.0, 200.0),
    "tract_left": PlausibleTarget(1.0, 40.0, empty_is="refuse"),
    "tract_right": PlausibleTarget(1.0, 40.0, empty_is="refuse"),
    "expansion": PlausibleTarget(0.0, 250.0, empty_is="warn"),
}


def judge_target(name: str, mask: Volume, brain: Volume) -> Verdict:
    """Judge whether a target on the CT grid can be true: its volume, and that it lies in the brain (a mask
    on any grid).
    """
    expected = PLAUSIBLE[name]
    size_ml = float(np.count_nonzero(mask.array)) * mask.voxel_ml
    if size_ml == 0:
        return Verdict((Reason(f"{name}_volume", expected.empty_is, f"{name} is empty", 0.0, "mL"),))
    level: Level = "pass" if expected.least_ml <= size_ml <= expected.most_ml else "warn"
    text = f"{name} has {size_ml:.1f} mL; {expected.least_ml:g} to {expected.most_ml:g} mL are usual"
    inside = brain.astype(np.float32).on_grid(mask).array > 0.5
    share = float((inside & (mask.array > 0)).sum() / np.count_nonzero(mask.array))
    place = _below(f"{name}_place", share, (0.85, 0.5), f"{name} does not lie in the brain")
    return Verdict((Reason(f"{name}_volume", level, text, size_ml, "mL"), place))


def _below(name: str, value: float, limits: tuple[float, float], text: str, unit: str = "") -> Reason:
    """Judge a number that should be large; one that could not be measured is a reason to warn."""
    if isnan(value):
        return Reason(name, "warn", f"{text} (could not be measured)", None, unit)
    level: Level = "refuse" if value < limits[1] else "warn" if value < limits[0] else "pass"
    said = (
        f"{text} ({value:.3g}; at least {limits[0]:g} expected)"
        if level != "pass"
        else f"{name}: {value:.3g}"
    )
    return Reason(name, level, said, value, unit)


def _above(name: str, value: float, limits: tuple[float, float], text: str, unit: str = "") -> Reason:
    """Judge a number that should be small; NaN means that there was nothing to measure."""
    if isnan(value):
        return Reason(name, "pass", f"{name}: not measured", None, unit)
    level: Level = "refuse" if value > limits[1] else "warn" if value > limits[0] else "pass"
    said = (
        f"{text} ({value:.3g} {unit}; at most {limits[0]:g} expected)"
        if level != "pass"
        else f"{name}: {value:.3g}"
    )
    return Reason(name, level, said, value, unit)
