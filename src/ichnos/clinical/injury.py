"""Injury of the corticospinal tract by a haematoma and its oedema: graded risk, loads, and the largest loss
of cross-section.

The formula of the published integrity score is not known; these are defined here, each in its docstring.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ichnos.arrays import Floats, Floats32, Mask

InjuryGrade = Literal["no risk", "PHE infiltration", "haematoma infiltration", "complete interruption"]
INJURY_GRADES: tuple[InjuryGrade, ...] = get_args(InjuryGrade)  # from the least to the worst

INTERRUPTION = 0.95  # a level of the tract whose cross-section is taken by blood to this share is interrupted
TOUCH = 0.01  # a level touched by less than this share of its cross-section is not
POSITION_SD_MM = 2.0  # error of a tract's place on CT; ours: one voxel of the network that outlines it
_OFFSETS_SD = (-2, -1, 0, 1, 2)  # displacements along each axis, in standard deviations


@dataclass(frozen=True)
class TractInjury:
    """One side's tract. Shares are 0..1."""

    grade: InjuryGrade
    blood_load_ml: float  # tract membership x blood, summed
    oedema_load_ml: float
    # as above, each level weighted by (greatest cross-section / own): a bottleneck counts more (Zhu 2010)
    weighted_blood_load_ml: float
    largest_loss: float  # greatest share of any level's cross-section that is blood
    largest_loss_z_mm: float  # RAS height of that level, mm; NaN without injury


def tract_injury(
    tract: Floats32, blood: Floats32, oedema: Floats32, *, z_mm: Floats, voxel_ml: float
) -> TractInjury:
    """Judge one side's tract; all maps 0..1 on one RAS grid (x, y, z), z_mm the height of each slice.

    Grade (Murray's group, four levels): *complete interruption* when blood takes at least 95 % of some
    level's cross-section, *haematoma infiltration* when it takes at least 1 % of some level, *PHE
    infiltration* when oedema does, else *no risk*. A level is an axial slice in which the tract has at least
    a tenth of its median cross-section.
    """
    section = tract.sum(axis=(0, 1), dtype=np.float64)
    if not section.any():
        raise ValueError("the tract is empty; a tract that was not found cannot be graded")
    blood_section, oedema_section = (
        (tract * part).sum(axis=(0, 1), dtype=np.float64) for part in (blood, oedema)
    )
    level = _levels(section)
    share = np.divide(blood_section, section, out=np.zeros_like(section), where=section > 0)
    worst_blood, worst_oedema = worst_shares(section, blood_section, oedema_section)
    weight = np.where(level, section[level].max() / np.where(level, section, 1), 0)
    worst_z_mm = float(z_mm[level][int(np.argmax(share[level]))])
    return TractInjury(
        grade=injury_grade(worst_blood, worst_oedema),
        blood_load_ml=float(blood_section.sum()) * voxel_ml,
        oedema_load_ml=float(oedema_section.sum()) * voxel_ml,
        weighted_blood_load_ml=float((blood_section * weight).sum()) * voxel_ml,
        largest_loss=worst_blood,
        largest_loss_z_mm=worst_z_mm if worst_blood > 0 else float("nan"),
    )


def worst_shares(
    section: Floats,
    blood_section: Floats,
    oedema_section: Floats,
) -> tuple[float, float]:
    """Return the greatest shares of any level of a tract that blood and oedema take, from sums per slice.

    >>> worst_shares(np.array([10.0, 20.0, 0.0]), np.array([1.0, 10.0, 0.0]), np.array([3.0, 0.0, 0.0]))
    (0.5, 0.3)
    """
    level = _levels(section)
    worst = [float((part[level] / section[level]).max()) for part in (blood_section, oedema_section)]
    return worst[0], worst[1]


def _levels(section: Floats) -> Mask:
    return np.asarray(section >= 0.1 * np.median(section[section > 0]))


def injury_grade(blood_share: float, oedema_share: float) -> InjuryGrade:
    """Return the grade of a tract from the greatest shares of its cross-section in blood and in oedema.

    >>> injury_grade(0.5, 1.0), injury_grade(0.0, 0.2)
    ('haematoma infiltration', 'PHE infiltration')
    """
    if blood_share >= INTERRUPTION:
        return "complete interruption"
    if blood_share >= TOUCH:
        return "haematoma infiltration"
    return "PHE infiltration" if oedema_share >= TOUCH else "no risk"


def grade_probabilities(
    tract: Floats32,
    blood: Floats32,
    oedema: Floats32,
    *,
    spacing_mm: tuple[float, float],
    sd_mm: float = POSITION_SD_MM,
) -> dict[InjuryGrade, float]:
    """Return the probability of each grade where a tract lies a normal error beside its outline.

    A grade changes in a step, where a level is touched by 1 % or not. Here the tract is graded at every
    displacement in the axial plane, up to two standard deviations, weighted by how likely it is. Maps as in
    `tract_injury`, with that much room around the tract; `spacing_mm` in x and y.

    >>> tract, blood = np.zeros((2, 20, 20, 3), np.float32)
    >>> tract[8:12, 8:12], blood[12:, :] = 1, 1  # side by side
    >>> chances = grade_probabilities(tract, blood, 0 * blood, spacing_mm=(2.0, 2.0))
    >>> {grade: round(chance, 2) for grade, chance in chances.items() if chance}
    {'no risk': 0.7, 'haematoma infiltration': 0.3}
    """
    section = tract.sum(axis=(0, 1), dtype=np.float64)
    if not section.any():
        raise ValueError("the tract is empty; a tract that was not found cannot be graded")
    weights = {k: float(np.exp(-(k**2) / 2)) for k in _OFFSETS_SD}
    chances: dict[InjuryGrade, float] = dict.fromkeys(INJURY_GRADES, 0.0)
    for a, b in itertools.product(_OFFSETS_SD, repeat=2):
        shift = tuple(round(k * sd_mm / step) for k, step in zip((a, b), spacing_mm, strict=True))
        moved = np.roll(tract, shift, axis=(0, 1))
        parts = ((moved * part).sum(axis=(0, 1), dtype=np.float64) for part in (blood, oedema))
        grade = injury_grade(*worst_shares(section, *parts))
        chances[grade] += weights[a] * weights[b] / sum(weights.values()) ** 2
    return chances


def expected_grade(chances: Mapping[InjuryGrade, float]) -> float:
    """Return the mean grade, from 0 (no risk) to 3 (complete interruption).

    >>> expected_grade({"no risk": 0.5, "haematoma infiltration": 0.5})
    1.0
    """
    return sum(INJURY_GRADES.index(grade) * chance for grade, chance in chances.items())
