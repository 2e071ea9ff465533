"""One self-contained HTML page for a reading: findings, slices, viewer, forecasts, measures, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ichnos.cohort import SIMULATED_ONLY
from ichnos.errors import InputRefused
from ichnos.formats.vocabulary import without_free_text
from ichnos.reading import Measure, Reading, Record
from ichnos.reading.record import BY_DEFINITION
from ichnos.report.pictures import outlined_in, slice_pictures
from ichnos.report.viewer import ct_nifti, labels_nifti, niivue_script, viewer_grid
from ichnos.scan import Scan
from ichnos.targets import TARGETS, outlined_targets
from ichnos.volume import Volume

FORECASTS = ("expansion", "outcome")  # findings that stand apart from what the scan shows
_TRAINED = SIMULATED_ONLY.partition(";")[0]  # a limit that begins so goes into the banner


@dataclass(frozen=True)
class _Card:
    label: str
    value: str
    band: str
    colour: str
    word: bool


def reading_page(reading: Reading) -> str:
    """Return the page as HTML text."""
    environment = Environment(
        loader=PackageLoader("ichnos.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"value_text": value_text, "interval_text": interval_text, "note": note}
    record = reading.record
    content: dict[str, Any] = {
        "record": record,
        "banner": banner(record),
        "cards": _cards(record),
        "findings": [finding for finding in record.findings if finding.target not in FORECASTS],
        "forecasts": [finding for finding in record.findings if finding.target in FORECASTS],
        "facts": facts_line(record),
        "slices": (),
        "viewer": False,
        "scan_line": "",
    }
    if reading.scan is not None:
        masks = reading.masks.named() if reading.masks is not None else {}
        content["scan_line"] = _scan_line(reading.scan)
        content |= _pictures(reading.scan.volume.reoriented("RAS"), masks)
    return environment.get_template("reading.html.j2").render(content)


def banner(record: Record) -> str:
    """Return what stands at the very top: what the model was trained on, and that this is research.

    >>> limits = ("Trained on simulated patients only; it has never seen a real scan.",)
    >>> banner(Record(name="a", status="read", use="Research use only.", limits=limits))
    'Trained on simulated patients only. Research use only.'
    """
    trained = any(limit.startswith(_TRAINED) for limit in record.limits)
    return f"{_TRAINED}. {record.use}" if trained else record.use


def facts_line(record: Record) -> str:
    """Return which clinical facts the forecasts could use, and which are missing.

    >>> facts_line(Record(name="a", status="read", facts={"age_years": 71.0}))
    'Known: age 71 years. Not given: time from onset to CT, anticoagulation, Glasgow Coma Scale.'
    """
    given = [name for name in _FACTS if name in record.facts]
    known = [f"{_FACTS[name][0]} {record.facts[name]:g}{_FACTS[name][1]}" for name in given]
    missing = [words for name, (words, _) in _FACTS.items() if name not in given]
    parts = [f"Known: {', '.join(known)}."] if known else []
    return " ".join([*parts, *([f"Not given: {', '.join(missing)}."] if missing else [])])


_FACTS = {
    "age_years": ("age", " years"),
    "onset_to_ct_h": ("time from onset to CT", " h"),
    "anticoagulation": ("anticoagulation", ""),
    "gcs": ("Glasgow Coma Scale", ""),
}


def note(measure: Measure) -> str:
    """Return what stands beside a value: its interval, or why there is none; "" where the mask defines it.

    Why a forecast's intervals are widened is said once, in its sentence.

    >>> note(Measure(name="a", label="A", value="left", reason="measured from the mask"))
    ''
    >>> wide = "80 % interval, widened because the time from onset is not known"
    >>> note(Measure(name="a", label="A", value=2.0, low=1.0, high=4.0, unit="mL", interval=wide))
    '1.0 to 4.0 mL (80 % interval, widened)'
    """
    if measure.low is not None:
        return f"{interval_text(measure)} ({measure.interval.partition(' because ')[0]})"
    return "" if measure.reason == BY_DEFINITION else measure.reason


def value_text(measure: Measure) -> str:
    """Return a measure's value with its unit, as people read it.

    >>> value_text(Measure(name="a", label="A", value=12.34, unit="mL", reason="-"))
    '12.3 mL'
    >>> value_text(Measure(name="a", label="A", value=None, reason="too small"))
    '–'
    """
    if measure.value is None:
        return "–"
    if isinstance(measure.value, bool):
        return "present" if measure.value else "absent"
    if isinstance(measure.value, str):
        return measure.value
    return f"{_number(measure.value)} {_unit(measure)}".strip()


def interval_text(measure: Measure) -> str:
    """Return a measure's interval as people read it; "" without one.

    >>> volume = Measure(name="a", label="A", value=12.3, unit="mL", low=11.0, high=1204.0, interval="80 %")
    >>> interval_text(volume)
    '11.0 to 1204 mL'
    """
    if measure.low is None or measure.high is None:
        return ""
    return f"{_number(measure.low)} to {_number(measure.high)} {_unit(measure)}".strip()


def _number(value: float) -> str:
    """Return one decimal, more only where the number is small.

    >>> _number(0.0), _number(0.042), _number(3.14159), _number(1523.0)
    ('0', '0.042', '3.1', '1523')
    """
    if value == 0 or (float(value).is_integer() and abs(value) >= 100):
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


def _unit(measure: Measure) -> str:
    return {"[hnsf'U]": "HU"}.get(measure.unit, measure.unit)


def _cards(record: Record) -> list[_Card]:
    """Return a tile for each outlined target whose headline measure was read."""
    measures = {measure.name: measure for finding in record.findings for measure in finding.measures}
    cards = []
    for target in outlined_targets():
        if target.group in FORECASTS:
            continue
        measure = measures.get(target.tile or f"{target.name.lower()}_volume")
        if measure is None or measure.value is None:
            continue
        nothing = measure.unit == "mL" and measure.value == 0
        value = "none found" if nothing else value_text(measure)
        word = nothing or isinstance(measure.value, str)
        cards.append(_Card(measure.label, value, interval_text(measure), target.colour, word))
    return cards


def _scan_line(scan: Scan) -> str:
    """Say how the scan was made, without saying whose it is."""
    how = without_free_text(scan.acquisition)
    shape, spacing = (
        " × ".join(map(str, scan.volume.shape)),
        " × ".join(f"{step:.3g}" for step in scan.volume.spacing_mm),
    )
    parts = [
        f"{shape} voxels of {spacing} mm",
        how.manufacturer,
        f"kernel {how.kernel}" if how.kernel else None,
    ]
    parts += [f"tilt {how.tilt_deg:.3g}°" if how.tilt_deg else None]
    return ", ".join(part for part in parts if part)


def _pictures(hu: Volume, masks: dict[str, Volume]) -> dict[str, Any]:
    """Return slices and viewer of a scan; of one without a head there are slices alone."""
    drawn = {name: masks[name] for name in outlined_in(masks)}
    legend = [(TARGETS[n].name, TARGETS[n].label, TARGETS[n].colour, n not in FORECASTS) for n in drawn]
    found = {name: mask for name, mask in masks.items() if name not in FORECASTS}
    slices = slice_pictures(hu, found)
    blood = any(picture.shows_blood for picture in slices)
    content = {
        "slices": slices,
        "slices_note": "Slices through the blood." if blood else "Slices through the whole head.",
        "legend": legend,
    }
    try:
        grid = viewer_grid(hu)
    except InputRefused:  # nothing above air: the viewer would show nothing
        return content
    return content | {
        "viewer": True,
        "volumes": labels_nifti(drawn, grid),
        "ct": ct_nifti(hu, grid),
        "focus_mm": [round(float(v), 1) for v in _focus_mm(masks, grid)],
        "niivue": Markup(niivue_script()),
        "colours": {name: TARGETS[name].colour for name in drawn},
    }


def _focus_mm(masks: dict[str, Volume], grid: Volume) -> Sequence[float]:
    """Return where the viewer opens: in the haematoma, else in the brain, else in the middle."""
    for name in ("ICH", "IVH", "brain"):
        if name in masks and masks[name].array.any():
            return largest_slice_centre_mm(masks[name])
    return [float(v) for v in grid.centre_mm]


def largest_slice_centre_mm(mask: Volume) -> tuple[float, float, float]:
    """Return the centre of a mask on the axial slice where it is largest, RAS mm.

    >>> from ichnos.volume import sphere
    >>> largest_slice_centre_mm(sphere(radius_mm=10, spacing_mm=1.0))
    (0.0, 0.0, 0.0)
    """
    filled = np.asarray(mask.array).astype(bool)
    z = int(np.argmax(filled.sum(axis=(0, 1))))
    x, y = (float(np.median(index)) for index in np.nonzero(filled[:, :, z]))
    at = mask.world((x, y, z))
    return float(at[0]), float(at[1]), float(at[2])
