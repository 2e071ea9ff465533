"""A measure as a site has recalibrated it from its own pairs."""

from __future__ import annotations

from ichnos.prognosis.site import SiteRecalibration
from ichnos.reading.record import Measure


def recalibrated(measure: Measure, site: SiteRecalibration | None, *, keep_value: bool = False) -> Measure:
    """Return the measure with the site's interval or probability; as it is where the site has none for it.

    With `keep_value` the value stays (the volume of a mask that is drawn) and lies inside the new interval.
    """
    value = measure.value
    if site is None or not isinstance(value, int | float) or isinstance(value, bool):
        return measure
    if measure.name in site.chances:
        return _chance(measure, float(value), site)
    if measure.low is None or measure.high is None:
        return measure
    found = site.interval(measure.name, float(value), measure.low, measure.high)
    if found is None:
        return measure
    low, middle, high = found
    shown = float(value) if keep_value else round(middle, 2)
    scaling = site.intervals[measure.name]
    words = f"{100 * scaling.level:.0f} % interval, recalibrated on {scaling.pairs} pairs{_of(site)}"
    low, high = (min(low, shown), max(high, shown)) if keep_value else (low, high)
    update = {"value": shown, "low": round(low, 2), "high": round(high, 2), "interval": words}
    return measure.model_copy(update=update)


def _chance(measure: Measure, value: float, site: SiteRecalibration) -> Measure:
    shift = site.chances[measure.name]
    new = {"value": round(100 * shift.applied(value / 100), 1)}
    for name in ("low", "high"):
        bound = getattr(measure, name)
        if bound is not None:
            new[name] = round(100 * shift.applied(bound / 100), 1)
    words = f"{measure.label}, recalibrated on {shift.pairs} pairs{_of(site)}"
    return measure.model_copy(update={**new, "label": words})


def _of(site: SiteRecalibration) -> str:
    return f" of {site.site}" if site.site else ""
