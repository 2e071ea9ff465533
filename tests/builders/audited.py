"""Stored readings and scores for tests of the audit: small, and every number known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ichnos.audit.score import Score, ScoreKind
from ichnos.formats import nifti
from ichnos.reading import Finding, Measure, Record
from ichnos.reading.read import volume_digest
from ichnos.reading.record import ReadingProvenance
from ichnos.volume import Volume

MODEL = "ab" * 32


def grid(fill: float = 30.0) -> Volume:
    """Return a block of tissue with a rim of bone in air; the size of a head in few voxels."""
    hu = np.full((24, 24, 12), -1000, np.int16)
    hu[1:-1, 1:-1, 1:-1] = 900
    hu[2:-2, 2:-2, 1:-1] = fill
    return Volume(hu, np.diag([7.0, 7.0, 12.0, 1.0]))


def box(ct: Volume, stop: int, *, code: int = 1) -> Volume:
    """Return a label map with a block whose volume grows with `stop`."""
    labels = np.zeros(ct.shape, np.uint8)
    labels[4:stop, 4:14, 3:9] = code
    return ct.with_array(labels)


def measure(name: str, value: float | str, low: float | None = None, high: float | None = None) -> Measure:
    interval = "80 % interval, calibrated on 90 patients" if low is not None else ""
    reason = "" if low is not None else "no interval"
    return Measure(name=name, label=name, value=value, low=low, high=high, interval=interval, reason=reason)


def store_reading(
    folder: Path,
    ct: Volume,
    measures: tuple[Measure, ...],
    masks: Mapping[str, Volume] | None = None,
    model: str = MODEL,
) -> Path:
    """Write a reading of a scan as `ichnos read` leaves it."""
    provenance = ReadingProvenance(
        code_version="0",
        model_name="rule",
        model_version="1",
        model_sha256=model,
        input_sha256=volume_digest(ct),
        backend="none",
    )
    folder.mkdir(parents=True)
    files = {}
    for name, mask in (masks or {}).items():
        files[name] = f"{name}.nii.gz"
        nifti.save(mask, folder / files[name])
    finding = Finding(target="haematoma", status="read", sentence="Blood.", measures=measures)
    record = Record(name=folder.name, status="read", findings=(finding,), provenance=provenance, masks=files)
    (folder / "reading.json").write_text(record.model_dump_json(), encoding="utf-8")
    return folder


def volume_score(
    number: int, predicted: float, truth: float, *, half: float = 5.0, scanner: str = "A", **more: object
) -> Score:
    kind: ScoreKind = "volume"
    return Score(
        pair=f"p{number}-followup",
        patient=f"p{number}",
        partner="followup",
        quantity="followup_volume",
        kind=kind,
        model=MODEL,
        predicted=predicted,
        truth=truth,
        low=predicted - half,
        high=predicted + half,
        level=0.8,
        scanner=scanner,
        **more,  # type: ignore[arg-type]
    )


def chance_score(number: int, p: float, event: bool, **more: object) -> Score:
    return Score(
        pair=f"p{number}-followup",
        patient=f"p{number}",
        partner="followup",
        quantity="expansion_probability",
        kind="probability",
        model=MODEL,
        predicted=p,
        truth=float(event),
        **more,  # type: ignore[arg-type]
    )
