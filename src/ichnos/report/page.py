"""One self-contained HTML page for a reading: findings in words, slices, viewer, measures, quality,
provenance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ichnos.formats.vocabulary import without_free_text
from ichnos.reading import Measure, Reading, Record
from ichnos.report.pictures import data_uri, montage_png, outlined_in
from ichnos.report.viewer import ct_nifti, labels_nifti, niivue_script, viewer_grid
from ichnos.scan import Scan
from ichnos.targets import TARGETS, outlined_targets
from ichnos.volume import Volume, centroid_mm


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
    environment.filters |= {"value_text": value_text, "interval_text": interval_text}
    template = environment.get_template("reading.html.j2")
    told: dict[str, Any] = {
        "record": reading.record,
        "cards": _cards(reading.record),
        "montage": "",
        "viewer": False,
        "scan_line": "",
    }
    if reading.scan is not None:
        told["scan_line"] = _scan_line(reading.scan)
    if reading.masks is not None and reading.scan is not None:
        told |= _pictures(reading.scan.volume.reoriented("RAS"), reading.masks.named())
    return template.render(told)


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
    drawn = {name: masks[name] for name in outlined_in(masks)}
    blood = [drawn[name] for name in ("ICH", "IVH") if name in drawn]
    grid = viewer_grid(hu)
    focus = (
        centroid_mm(blood[0])
        if blood
        else centroid_mm(masks["brain"])
        if "brain" in masks
        else grid.centre_mm
    )
    return {
        "montage": data_uri(montage_png(hu, masks)),
        "montage_note": "Slices through the blood." if blood else "Slices through the whole brain.",
        "legend": [(name, TARGETS[name].label, TARGETS[name].colour) for name in drawn],
        "viewer": True,
        "volumes": labels_nifti(drawn, grid),
        "ct": ct_nifti(hu, grid),
        "focus_mm": [round(float(v), 1) for v in focus],
        "niivue": Markup(niivue_script()),
        "colours": {name: TARGETS[name].colour for name in drawn},
    }
