"""A volume with its interval: by the model's calibration, else by other operating points."""

from __future__ import annotations

from ichnos.inference import Prediction
from ichnos.prognosis.site import load_site_recalibration
from ichnos.prognosis.volume import load_volume_calibration
from ichnos.reading.masks import threshold_of
from ichnos.reading.measures.recalibrated import recalibrated
from ichnos.reading.record import Measure
from ichnos.volume import Volume, volume_ml

_NOTHING = "none found, even at half the operating point; how much can be missed has not been measured"


def volume_measure(prediction: Prediction, target: str, mask: Volume, label: str) -> Measure:
    """Return the volume of a mask with the interval of the model's calibration, or of other thresholds.

    Nothing that stays nothing at half the operating point has no interval: "0 to 0" would say that nothing
    can have been missed.
    """
    value, name = volume_ml(mask), f"{target.lower()}_volume"
    low, high, meaning = _calibrated_band(prediction, target, value) or _threshold_band(
        prediction, target, value
    )
    if value == high == 0:
        return Measure(name=name, label=label, value=0.0, unit="mL", reason=_NOTHING)
    measure = Measure(
        name=name,
        label=label,
        value=round(value, 3),
        unit="mL",
        low=round(min(low, value), 3),
        high=round(max(high, value), 3),
        interval=meaning,
    )
    return recalibrated(measure, load_site_recalibration(prediction.model.folder), keep_value=True)


def _calibrated_band(prediction: Prediction, target: str, value: float) -> tuple[float, float, str] | None:
    """Return the interval of the model's calibration, and what it is; None where it has none."""
    calibration = load_volume_calibration(prediction.model.folder)
    interval = None if calibration is None else calibration.interval_ml(target, value)
    if calibration is None or interval is None:
        return None
    patients = f"{calibration.targets[target].patients} {calibration.cohort}"
    return *interval, f"{100 * calibration.level:.0f} % interval, calibrated on {patients}"


def _threshold_band(prediction: Prediction, target: str, value: float) -> tuple[float, float, str]:
    """Return the volumes at half and one and a half times the threshold, and what they are: how much hangs on
    it, no confidence interval.

    Rules of density and place have changed the mask since its threshold: the band is scaled as they scaled
    the volume.
    """
    cut = threshold_of(prediction, target)
    cuts = (cut + (1 - cut) / 2, cut / 2)
    low, drawn, high = prediction.volumes_ml(target, (cuts[0], cut, cuts[1]))
    low, high = (value / drawn * bound if drawn > 0 else bound for bound in (low, high))
    return (
        low,
        high,
        f"volume at probability {cuts[0]:.2f} and {cuts[1]:.2f}, scaled as the mask was by density and place",
    )
