"""The calibration of volumes: how far the true volume lay from the measured one, where both are known.

It is learnt from readings of such patients and lies as plain numbers beside a Model's weights. Errors are
taken in ln(1 + mL): nearly a factor where there is much, nearly millilitres where there is little.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field

from ichnos.prognosis.store import PlainModel, load_plain_if_there

VOLUME_FILE = "volumes.json"


class VolumeErrors(PlainModel):
    """Limits between which ln(1 + true mL) - ln(1 + measured mL) lay in patients with something measured."""

    low: float
    high: float
    patients: int = Field(gt=0)


class VolumeCalibration(PlainModel):
    """The content of volumes.json."""

    format: Literal["ichnos-volumes-1"] = "ichnos-volumes-1"
    cohort: str  # on whom it was fitted, in a few words
    level: float = Field(gt=0, lt=1)  # share of patients whose error lay between the limits
    targets: dict[str, VolumeErrors]

    def interval_ml(self, target: str, measured_ml: float) -> tuple[float, float] | None:
        """Return the interval of the true volume, in mL; None without errors or without a measured volume.

        >>> errors = VolumeErrors(low=-0.2, high=0.1, patients=30)
        >>> model = VolumeCalibration(cohort="nobody", level=0.8, targets={"ICH": errors})
        >>> [round(ml, 2) for ml in model.interval_ml("ICH", 20.0)]
        [16.19, 22.21]
        >>> model.interval_ml("PHE", 20.0), model.interval_ml("ICH", 0.0)
        (None, None)
        """
        if measured_ml <= 0 or target not in self.targets:
            return None
        errors = self.targets[target]
        low, high = (math.expm1(math.log1p(measured_ml) + error) for error in (errors.low, errors.high))
        return max(0.0, low), max(0.0, high)


def load_volume_calibration(folder: Path) -> VolumeCalibration | None:
    """Read volumes.json of a model folder; None where it has none."""
    return load_plain_if_there(folder / VOLUME_FILE, VolumeCalibration)
