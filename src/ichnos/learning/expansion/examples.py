"""One image of a patient with the outcome: what classifiers of expansion are trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ichnos.arrays import Floats32


@dataclass(frozen=True, eq=False)
class ImageExample:
    """One image of a patient with the outcome; a patient's score is the mean over the patient's images."""

    patient: str  # "" for an image that was made
    image: Floats32  # (channel, y, x) or (channel, x, y, z), -1..1
    outcome: float  # 1 expanded, 0 not
    split: str = ""
    centre: str = ""
    features: tuple[float, ...] = ()  # clinical facts and measures, NaN where unknown
    sources: tuple[str, ...] = field(default=())  # patients whom an image that was made goes back to


def facts_of(facts: Mapping[str, object], names: Sequence[str]) -> tuple[float, ...]:
    """Return clinical facts as numbers, NaN where they are not known.

    >>> facts_of({"age_years": 60.0, "onset_to_ct_h": "n/a"}, ("age_years", "onset_to_ct_h"))
    (60.0, nan)
    """
    values = [facts.get(name) for name in names]
    return tuple(float(v) if isinstance(v, (int, float)) else float("nan") for v in values)
