"""Scanners of a simulated hospital: what the checks of a CT show of them, and how far readings then err."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ichnos.audit.monitoring.inputs import ReadInput
from ichnos.models.store import SHIPPED
from ichnos.prognosis.store import load_plain
from ichnos.prognosis.volume import VOLUME_FILE, VolumeCalibration
from ichnos.simulation.exams.scanners import CENTRES, SCANNERS

_BRAIN_HU, _BRAIN_SD_HU = (
    33.0,
    1.2,
)  # commonest value inside the skull, and its spread over patients; our choice
_INSIDE_ML, _INSIDE_SD_ML = 1350.0, 130.0  # inside the skull; no source looked up
_NOISE_SD = 0.08  # of ln noise over patients; our choice
_REFUSED = 0.03  # share of CTs that cannot be read; our choice


@dataclass(frozen=True)
class HospitalScanner:
    """One scanner with its protocol. Errors are of ln(1 + mL) of a reading."""

    name: str
    noise_hu: float
    zero_hu: float  # of air, above -1000
    step_mm: float
    bias: float = 0.0  # of readings on it: positive reads too much
    spread: float = 1.0  # factor of the error's standard deviation

    def input_of(self, rng: np.random.Generator, month: int) -> ReadInput:
        """Draw what the quality checks say of one CT."""
        values = {
            "air_hu": -1000 + self.zero_hu + rng.normal(0, 0.8),
            "brain_hu": _BRAIN_HU + self.zero_hu + rng.normal(0, _BRAIN_SD_HU),
            "noise_hu": self.noise_hu * np.exp(rng.normal(0, _NOISE_SD)),
            "slice_step": self.step_mm,
            "inside_ml": rng.normal(_INSIDE_ML, _INSIDE_SD_ML),
        }
        refused = bool(rng.uniform() < _REFUSED)
        return ReadInput(refused, {k: float(v) for k, v in values.items()}, self.name, f"month {month:02d}")


# The first is replaced by the second, whose zero is off as in centre B of the simulated centres.
OLD = HospitalScanner("siemens", SCANNERS["siemens"].noise_hu, 0.0, 5.0)
NEW = HospitalScanner("ge", SCANNERS["ge"].noise_hu, CENTRES["B"].offset_hu, 5.0)


def with_protocol(scanner: HospitalScanner, step_mm: float) -> HospitalScanner:
    """Return a scanner with other slices: thinner ones are noisier, and readings err as before.

    >>> round(with_protocol(OLD, 2.5).noise_hu / OLD.noise_hu, 2)
    1.41
    """
    noise_hu = scanner.noise_hu * (scanner.step_mm / step_mm) ** 0.5
    return replace(scanner, step_mm=step_mm, noise_hu=noise_hu)


def reading_spread(target: str) -> float:
    """Return the standard deviation of ln(1 + true) - ln(1 + read) of the shipped weights.

    From the interval of their calibration, a normal distribution assumed.
    """
    folder = next(path.parent for path in sorted(SHIPPED.glob(f"*/{VOLUME_FILE}")))
    from scipy.special import ndtri

    calibration = load_plain(folder / VOLUME_FILE, VolumeCalibration)
    errors = calibration.targets[target]
    return (errors.high - errors.low) / (2 * float(ndtri(0.5 + calibration.level / 2)))
