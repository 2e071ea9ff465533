"""Injury of the corticospinal tract by a haematoma and its oedema: graded risk, loads, and the largest loss
of cross-section.

The formula of the published integrity score is not known; these are defined here, each in its docstring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Grade = Literal["no risk", "PHE infiltration", "haematoma infiltration", "complete interruption"]
Field = npt.NDArray[np.float32]

INTERRUPTION = 0.95  # a level of the tract whose cross-section is taken by blood to this share is interrupted
TOUCH = 0.01  # a level touched by less than this share of its cross-section is not


@dataclass(frozen=True)
class TractInjury:
    """One side's tract. Shares are 0..1."""

    grade: Grade
    blood_load_ml: float  # tract membership x blood, summed
    oedema_load_ml: float
    # as above, each level weighted by (greatest cross-section / own): a bottleneck counts more (Zhu 2010)
    weighted_blood_load_ml: float
    largest_loss: float  # greatest share of any level's cross-section that is blood
    largest_loss_z_mm: float  # RAS height of that level, mm; NaN without injury


def tract_injury(
    tract: Field, blood: Field, oedema: Field, *, z_mm: npt.NDArray[np.float64], voxel_ml: float
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
    with np.errstate(invalid="ignore", divide="ignore"):
        blood_share = (tract * blood).sum(axis=(0, 1), dtype=np.float64) / section
        oedema_share = (tract * oedema).sum(axis=(0, 1), dtype=np.float64) / section
    level = section >= 0.1 * np.median(section[section > 0])
    worst_blood = float(blood_share[level].max())
    worst_oedema = float(oedema_share[level].max())
    weight = np.where(level, section[level].max() / np.where(level, section, 1), 0)
    return TractInjury(
        grade=_grade(worst_blood, worst_oedema),
        blood_load_ml=float((blood_share * section)[section > 0].sum()) * voxel_ml,
        oedema_load_ml=float((oedema_share * section)[section > 0].sum()) * voxel_ml,
        weighted_blood_load_ml=float((np.nan_to_num(blood_share) * section * weight).sum()) * voxel_ml,
        largest_loss=worst_blood,
        largest_loss_z_mm=float(z_mm[level][int(np.argmax(blood_share[level]))])
        if worst_blood > 0
        else float("nan"),
    )


def _grade(blood: float, oedema: float) -> Grade:
    if blood >= INTERRUPTION:
        return "complete interruption"
    if blood >= TOUCH:
        return "haematoma infiltration"
    return "PHE infiltration" if oedema >= TOUCH else "no risk"
