"""A reading on disk: reading.json, masks on the input's own grid, SEG and SR where the input was DICOM, and
the report.

The same reading gives the same bytes: no clock, no random identifier.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from ichnos.errors import InputRefused
from ichnos.files import atomic_file
from ichnos.formats import nifti
from ichnos.formats.dicom_seg import write_seg
from ichnos.formats.dicom_source import LONGEST_TEXT, Algorithm
from ichnos.formats.dicom_sr import CodedGrade, MeasurementGroup, Quantity, Report, write_sr
from ichnos.reading.record import Finding, Measure, Record
from ichnos.reading.result import Reading
from ichnos.scan import Scan
from ichnos.volume import Volume

RECORD, SEG, SR, PAGE = "reading.json", "segmentation.dcm", "measurements.dcm", "report.html"


def write_record(
    reading: Reading, folder: Path, *, draw_page: Callable[[Reading], str] | None = None
) -> Path:
    """Write everything a reading holds into a folder, and the page that is drawn of it; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    with ThreadPoolExecutor(2) as beside:  # two at a time: each more would cost memory
        page = beside.submit(draw_page, reading) if draw_page else None
        drawn = _drawn(reading)
        masks = {name: f"{name}.nii.gz" for name in drawn}
        list(beside.map(lambda name: nifti.save(drawn[name], folder / masks[name]), drawn))
        scan = reading.scan if reading.masks is not None else None
        if scan is not None and scan.source is not None and scan.source.slices:
            if missing := _why_no_dicom(reading.record, scan, drawn, folder):
                reading = _warned(reading, f"DICOM SEG and SR were not written: {missing}")
                page = beside.submit(draw_page, reading) if draw_page else None
            else:
                files = {"DICOM SEG": SEG, "DICOM SR": SR}
        if page is not None:
            files["report"] = PAGE
            _write_text(folder / PAGE, page.result())
    record = reading.record.model_copy(update={"masks": masks, "files": files})
    content = record.model_dump(mode="json")
    _write_text(folder / RECORD, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return folder


def _warned(reading: Reading, warning: str) -> Reading:
    warnings = (*reading.record.warnings, warning)
    return replace(reading, record=reading.record.model_copy(update={"warnings": warnings}))


def _drawn(reading: Reading) -> dict[str, Volume]:
    """Return the masks as they are stored: whole numbers on the input's own grid."""
    if reading.masks is None or reading.scan is None:
        return {}
    masks = {name: mask.astype(np.uint8) for name, mask in reading.masks.named().items()}
    if (given := reading.scan.given_grid) is not None:  # moved by whole voxels, so that none overlap
        return {name: mask.on_grid(given, interpolation="nearest") for name, mask in masks.items()}
    orientation = reading.scan.volume.orientation
    return {name: mask.reoriented(orientation) for name, mask in masks.items()}


def _write_text(file: Path, text: str) -> None:
    with atomic_file(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _why_no_dicom(record: Record, scan: Scan, drawn: dict[str, Volume], folder: Path) -> str:
    """Write SEG and SR; return "", or why there is neither: a header that DICOM does not allow must not
    cost the reading.
    """
    try:
        _write_dicom(record, scan, drawn, folder)
        return ""
    except InputRefused as refusal:
        why = refusal.without_names
    except (OSError, MemoryError):
        raise
    except Exception as error:  # highdicom fails in its own ways; its words may hold a header's
        why = f"a header of the source images does not allow it ({type(error).__name__})"
    for name in (SEG, SR):
        (folder / name).unlink(missing_ok=True)
    return why


def _write_dicom(record: Record, scan: Scan, drawn: dict[str, Volume], folder: Path) -> None:
    made_by, version = record.provenance, ""
    if made_by:  # of a long name the end goes, not the digest behind it
        name = made_by.model_name[: LONGEST_TEXT - len(made_by.code_version) - 14]
        version = f"{made_by.code_version} {name} {made_by.model_sha256[:12]}"
    algorithm = Algorithm(version=version) if version else Algorithm()
    seg = write_seg(scan, drawn, folder / SEG, algorithm=algorithm)
    write_sr(scan, structured(record), folder / SR, seg=seg, algorithm=algorithm)


def structured(record: Record) -> Report:
    """Return what the SR says: one group per mask with its volume, one per finding with the rest, and in
    words what is not there.
    """
    groups = tuple(group for finding in record.findings for group in _groups(finding))
    comments = [finding.sentence for finding in record.findings]
    comments += [
        f"{m.label}: {m.reason}" for finding in record.findings for m in finding.measures if m.value is None
    ]
    return Report(groups, (*comments, *(f"Warning: {warning}" for warning in record.warnings)))


def _groups(finding: Finding) -> list[MeasurementGroup]:
    volumes = {f"{mask.lower()}_volume": mask for mask in finding.masks}
    groups = [
        MeasurementGroup(volumes[m.name], volumes[m.name], (_quantity(m),))
        for m in finding.measures
        if m.name in volumes and m.value is not None
    ]
    others = [m for m in finding.measures if m.name not in volumes and m.value is not None]
    quantities = tuple(_quantity(m) for m in others if not isinstance(m.value, str | bool))
    grades = tuple(_grade(m) for m in others if isinstance(m.value, str | bool))
    if quantities or grades:
        groups.append(MeasurementGroup(f"{finding.target} measures", None, quantities, grades))
    return groups


def _quantity(measure: Measure) -> Quantity:
    assert isinstance(measure.value, int | float)
    value, what = float(measure.value), measure.interval
    return Quantity(measure.name, measure.label, value, measure.unit, measure.low, measure.high, what)


def _grade(measure: Measure) -> CodedGrade:
    said = (
        {True: "present", False: "absent"}.get(measure.value, str(measure.value))
        if isinstance(measure.value, bool)
        else measure.value
    )
    return CodedGrade(measure.name, measure.label, str(said), str(said))
