"""Scan: a head CT as a Volume in HU, with its acquisition, its source slices and its quality verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ichnos.verdict import Verdict
from ichnos.volume import Floats, Volume


@dataclass(frozen=True)
class Acquisition:
    """How the scan was made, as far as its files tell; None where they do not."""

    modality: str = "CT"
    manufacturer: str | None = None
    scanner: str | None = None  # model name
    kernel: str | None = None
    tube_kv: float | None = None
    slice_thickness_mm: float | None = None
    slice_step_mm: tuple[float, ...] = ()  # distinct distances between neighbouring slices, along their normal
    tilt_deg: float = 0.0  # angle between the slice normal and the direction of table travel; sign: + tips the top of the normal forward
    contrast_agent: str | None = None
    date: str | None = None  # YYYYMMDD
    series_description: str | None = None


@dataclass(frozen=True, eq=False)
class SourceSlice:
    """One source image: where its pixels lie, and which file holds it. Only `formats/dicom` makes and reads these."""

    path: Path
    frame: int  # 0 for a single-frame file
    sop_instance_uid: str
    affine: Floats  # (4, 4): (column, row, 0) -> RAS mm of the pixel's centre; third column is the unit normal
    shape: tuple[int, int]  # (columns, rows)


@dataclass(frozen=True, eq=False)
class Source:
    """Where a scan came from: the identity to give back in SEG and SR, and the slices as they were acquired."""

    path: Path  # file, folder or archive that was opened
    study_uid: str | None = None
    series_uid: str | None = None
    slices: tuple[SourceSlice, ...] = ()  # sorted along their normal, feet to head; empty for NIfTI


@dataclass(frozen=True, eq=False)
class Scan:
    """A head CT, ready to be judged and read."""

    volume: Volume  # HU, float32 or int16, regular and orthogonal, any orientation
    acquisition: Acquisition = Acquisition()
    source: Source | None = None
    quality: Verdict | None = None  # None: not judged yet
    facts: Mapping[str, str | float] = field(default_factory=dict)  # age, sex … where the files tell

    def judged(self, verdict: Verdict) -> Scan:
        """Return the same scan with a quality verdict."""
        return replace(self, quality=verdict)

    @property
    def hu(self) -> np.ndarray:
        """Return the HU array (x, y, z)."""
        return self.volume.array
