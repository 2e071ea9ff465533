"""A volume with its interval: how far, in patients whose true volume is known, the truth lay from what was
measured.

The law is learnt from readings of such patients and lies as plain numbers beside a model's weights. Errors
are taken in ln(1 + mL): nearly a factor where there is much, nearly millilitres where there is little.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field

from ichnos.inference import Prediction
from ichnos.prognosis.store import LawPart, load_law
from ichnos.reading.masks import cut_of
from ichnos.reading.record import Measure
from ichnos.volume import Volume, volume_ml

VOLUME_LAW = "volumes.json"
_NOTHING = (
    "none was found, at half the operating point neither; how much of it can be missed has not been measured"
)


class Errors(LawPart):
    """Between which limits ln(1 + true mL) - ln(1 + measured mL) lay, in so many patients in whom
    something was measured.
    """

    low: float
    high: float
    patients: int = Field(gt=0)


class VolumeLaw(LawPart):
    """The content of volumes.json."""

    format: Literal["ichnos-volumes-1"] = "ichnos-volumes-1"
    cohort: str  # on whom it was fitted, in a few words
    level: float = Field(gt=0, lt=1)  # share of patients whose error lay between the limits
    targets: dict[str, Errors]

    def interval_ml(self, target: str, measured_ml: float) -> tuple[float, float] | None:
        """Return between which millilitres the truth is expected; None for a target without errors, or where
        nothing was measured.

        >>> errors = Errors(low=-0.2, high=0.1, patients=30)
        >>> law = VolumeLaw(cohort="nobody", level=0.8, targets={"ICH": errors})
        >>> [round(ml, 2) for ml in law.interval_ml("ICH", 20.0)]
        [16.19, 22.21]
        >>> law.interval_ml("PHE", 20.0), law.interval_ml("ICH", 0.0)
        (None, None)
        """
        if measured_ml <= 0 or target not in self.targets:
            return None
        errors = self.targets[target]
        low, high = (math.expm1(math.log1p(measured_ml) + error) for error in (errors.low, errors.high))
        return max(0.0, low), max(0.0, high)


def load_volume_law(folder: Path) -> VolumeLaw | None:
    """Read volumes.json of a model folder; None where it has none."""
    return load_law(folder / VOLUME_LAW, VolumeLaw)


def volume_measure(prediction: Prediction, target: str, mask: Volume, label: str) -> Measure:
    """Return the volume of a mask with the interval of the model's law; without one, with the band of other
    operating points.

    Nothing that stays nothing at half the operating point has no interval: "0 to 0" would say that nothing
    can have been missed.
    """
    value = volume_ml(mask)
    law = load_volume_law(prediction.model.folder)
    interval = law.interval_ml(target, value) if law is not None else None
    if law is not None and interval is not None:
        low, high = interval
        told = f"held the true volume in {law.level:.0%} of {law.targets[target].patients} {law.cohort}"
    else:
        low, high, told = _threshold_band(prediction, target, value)
    name = f"{target.lower()}_volume"
    if value == high == 0:
        return Measure(name=name, label=label, value=0.0, unit="mL", reason=_NOTHING)
    return Measure(
        name=name,
        label=label,
        value=round(value, 3),
        unit="mL",
        low=round(min(low, value), 3),
        high=round(max(high, value), 3),
        interval=told,
    )


def _threshold_band(prediction: Prediction, target: str, value: float) -> tuple[float, float, str]:
    """Return the volumes at half and one and a half times the threshold, and what they are: how much hangs on
    it, no confidence interval.

    Rules of density and place have changed the mask since its threshold: the band is scaled as they scaled
    the volume.
    """
    cut = cut_of(prediction, target)
    cuts = (cut + (1 - cut) / 2, cut / 2)
    low, drawn, high = prediction.volumes_ml(target, (cuts[0], cut, cuts[1]))
    low, high = (value / drawn * bound if drawn > 0 else bound for bound in (low, high))
    return (
        low,
        high,
        f"volume at probability {cuts[0]:.2f} and {cuts[1]:.2f}, scaled as the mask was by density and place",
    )
