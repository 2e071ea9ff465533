"""One self-contained HTML page for a reading: findings in words, slices, viewer, measures, quality, provenance."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ichnos.reading import Measure, Reading
from ichnos.report.pictures import COLOURS, data_uri, montage_png
from ichnos.report.viewer import ct_nifti, labels_nifti, niivue_script


def reading_page(reading: Reading) -> str:
    """Return the page as HTML text."""
    environment = Environment(loader=PackageLoader("ichnos.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["shown"] = shown
    template = environment.get_template("reading.html.j2")
    if reading.masks is None or reading.scan is None:
        return template.render(record=reading.record, montage="", volumes={}, legend=[], niivue="", ct="", colours=COLOURS)
    hu = reading.scan.volume.reoriented("RAS")
    masks = {name: mask for name, mask in reading.masks.named().items() if name in COLOURS and mask.array.any()}
    return template.render(
        record=reading.record,
        montage=data_uri(montage_png(hu, masks)),
        legend=[(name, COLOURS[name]) for name in COLOURS if name in masks],
        volumes=labels_nifti(masks),
        ct=ct_nifti(hu),
        niivue=Markup(niivue_script()),
        colours=COLOURS,
    )


def save_page(reading: Reading, file: Path) -> Path:
    """Write the page; return its path."""
    file.write_text(reading_page(reading), encoding="utf-8")
    return file


def shown(measure: Measure) -> str:
    """Return a measure's value with its unit, as people read it.

    >>> shown(Measure(name="a", label="A", value=12.34, unit="mL", reason="-"))
    '12.3 mL'
    >>> shown(Measure(name="a", label="A", value=None, reason="too small"))
    '–'
    """
    if measure.value is None:
        return "–"
    if isinstance(measure.value, bool):
        return "present" if measure.value else "absent"
    if isinstance(measure.value, str):
        return measure.value
    unit = {"[hnsf'U]": "HU"}.get(measure.unit, measure.unit)
    return f"{measure.value:.3g} {unit}".strip()
