"""Checks beyond the quality verdict: children, air inside the skull, a brain of implausible size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ichnos.reading.masks import Masks
from ichnos.scan import Scan
from ichnos.verdict import Reason, Verdict
from ichnos.volume import Volume, volume_ml

ADULT_YEARS = 18.0
ADULT_BRAIN_ML = (800.0, 2100.0)
_BLOOD_MEAN_HU = (30.0, 100.0)  # mean of what was called an intracerebral haematoma
_AIR_BELOW_HU = -300.0
AIR_ML = 0.5  # of air within the brain's outline: a head that was operated on, or hurt


def refuse_minors(scan: Scan) -> Verdict:
    """Return the scan's verdict with the age judged: no model was trained on children."""
    verdict = scan.quality or Verdict()
    age = scan.facts.get("age_years")
    if not isinstance(age, int | float):
        return verdict
    minor = age < ADULT_YEARS
    text = (
        f"the patient is {age:g} years old; the models were trained on adults only"
        if minor
        else "the patient is an adult"
    )
    return verdict + Verdict((Reason("age", "refuse" if minor else "pass", text, float(age), "years"),))


def warnings_of(hu: Volume, masks: Masks) -> Iterator[str]:
    """Yield what makes a reading doubtful although the scan passed; `hu` in RAS on the masks' grid."""
    ich = np.asarray(masks.ich.array).astype(bool)
    if (
        ich.any()
        and not _BLOOD_MEAN_HU[0] <= (mean_hu := float(np.asarray(hu.array)[ich].mean())) <= _BLOOD_MEAN_HU[1]
    ):
        yield (
            f"what was called blood measures {mean_hu:.0f} HU on average; {_BLOOD_MEAN_HU[0]:.0f} to"
            f" {_BLOOD_MEAN_HU[1]:.0f} are expected of blood"
        )
    if "brain" not in masks.known:
        return
    brain_ml = volume_ml(masks.brain)
    low, high = ADULT_BRAIN_ML
    if not low <= brain_ml <= high:
        yield (
            f"the brain measures {brain_ml:.0f} mL ({low:.0f} to {high:.0f} mL are usual): a child, an"
            " incomplete scan, or a wrong outline"
        )
    air_ml = air_inside_ml(hu, masks.brain)
    if air_ml >= AIR_ML:
        yield (
            f"{air_ml:.1f} mL of air inside the skull, as after surgery or trauma; no model was trained on"
            " such heads"
        )


def air_inside_ml(hu: Volume, brain: Volume) -> float:
    """Return the air within the upper half of the brain, above the sinuses, in mL; both RAS on one grid.

    >>> from ichnos.volume import sphere
    >>> brain = sphere(radius_mm=50, spacing_mm=2.0)
    >>> hu = brain.map_array(lambda a: np.where(a, 30.0, -1000.0))
    >>> hole = brain.map_array(lambda a: a & (np.abs(np.arange(a.shape[2]) - 35) < 3))
    >>> opened = hu.map_array(lambda a: np.where(hole.array, -1000.0, a))
    >>> air_inside_ml(hu, brain), air_inside_ml(opened, brain) > 50
    (0.0, True)
    """
    filled = np.asarray(brain.array).astype(bool)
    if not filled.any():
        return 0.0
    heights = np.flatnonzero(filled.any(axis=(0, 1)))
    middle = int(np.average(np.arange(filled.shape[2]), weights=filled.sum(axis=(0, 1))))
    upper = slice(middle, int(heights[-1]) + 1)
    outline = _spanned(filled[..., upper], 0) & _spanned(filled[..., upper], 1)
    return (
        float(np.count_nonzero(outline & (np.asarray(hu.array)[..., upper] < _AIR_BELOW_HU))) * brain.voxel_ml
    )


def _spanned(mask: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.bool_]:
    """Return what lies between the first and the last voxel of the mask along an axis."""
    before = np.logical_or.accumulate(mask, axis=axis)
    after = np.flip(np.logical_or.accumulate(np.flip(mask, axis), axis=axis), axis)
    return np.asarray(before & after)
