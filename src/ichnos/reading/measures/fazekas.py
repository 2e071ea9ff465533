"""Fazekas grades of a scan, from its volumes of leukoaraiosis around the ventricles and deeper."""

from __future__ import annotations

from ichnos.clinical.fazekas import FAZEKAS_REGIONS, FazekasRegion, fazekas_name
from ichnos.prognosis.fazekas import FAZEKAS_FILE, FazekasModel
from ichnos.reading.record import Measure

NO_FAZEKAS_MODEL = f"no model from volume to Fazekas grade lies beside this model's weights ({FAZEKAS_FILE})"
_UNDIVIDED = "the ventricles were not found, so periventricular and deep could not be separated"


def fazekas_measures(
    model: FazekasModel | None, volumes_ml: dict[FazekasRegion, float] | None
) -> tuple[Measure, ...]:
    """Return the likeliest grade of each region with all probabilities; `volumes_ml` None: not separated."""
    if model is None or volumes_ml is None:
        reason = NO_FAZEKAS_MODEL if model is None else _UNDIVIDED
        return tuple(_measure(region, None, reason) for region in FAZEKAS_REGIONS)
    return tuple(_graded(model, region, volumes_ml[region]) for region in FAZEKAS_REGIONS)


def _graded(model: FazekasModel, region: FazekasRegion, volume_ml: float) -> Measure:
    ordinal = model.periventricular if region == "periventricular" else model.deep
    chances = ordinal.probabilities(volume_ml)
    shown = ", ".join(f"{grade}: {100 * p:.0f} %" for grade, p in enumerate(chances))
    grade = max(range(len(chances)), key=chances.__getitem__)
    return _measure(region, str(grade), f"{shown}; fitted on {model.cohort}")


def _measure(region: FazekasRegion, value: str | None, reason: str) -> Measure:
    return Measure(name=fazekas_name(region), label=f"Fazekas grade, {region}", value=value, reason=reason)
