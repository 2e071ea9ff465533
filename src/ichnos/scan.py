"""Scan: a head CT as a Volume in HU, with its acquisition, its source slices and its quality verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ichnos.errors import InputRefused
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
    slice_step_mm: tuple[
        float, ...
    ] = ()  # distinct distances between neighbouring slices, along their normal
    # angle between the slice normal and the direction of table travel; sign: + tips the top of the normal
    # forward
    tilt_deg: float = 0.0
    contrast_agent: str | None = None
    date: str | None = None  # YYYYMMDD
    series_description: str | None = None


# What no image tells and readings use -> the least and the greatest value that can be true.
FACTS: dict[str, tuple[float, float]] = {
    "age_years": (0, 120),
    "onset_to_ct_h": (0, 240),
    "anticoagulation": (0, 1),
    "gcs": (3, 15),
}


@dataclass(frozen=True, eq=False)
class SourceSlice:
    """One source image: where its pixels lie, and which file holds it. Only `formats/dicom` makes and
    reads these.
    """

    path: Path
    frame: int  # 0 for a single-frame file
    sop_instance_uid: str
    affine: (
        Floats  # (4, 4): (column, row, 0) -> RAS mm of the pixel's centre; third column is the unit normal
    )
    shape: tuple[int, int]  # (columns, rows)


@dataclass(frozen=True, eq=False)
class Source:
    """Where a scan came from: the identity to give back in SEG and SR, and the slices as they were
    acquired.
    """

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

    def told(self, facts: Mapping[str, float]) -> Scan:
        """Return the same scan with what is known besides it, checked by `known_facts`; it overrules what
        the files tell.
        """
        return replace(self, facts={**self.facts, **facts})

    @property
    def hu(self) -> np.ndarray:
        """Return the HU array (x, y, z)."""
        return self.volume.array


def known_facts(facts: Mapping[str, object], *, where: str) -> dict[str, float]:
    """Return the facts that a reading uses, as numbers; one that cannot be true is refused.

    >>> known_facts({"gcs": "14", "age_years": "n/a", "hospital": "A"}, where="a table")
    {'gcs': 14.0}
    """
    found = {}
    for name, (low, high) in FACTS.items():
        told = facts.get(name)
        if told is None or str(told).strip() in ("", "n/a"):
            continue
        try:
            value = float(str(told))
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise InputRefused(
                f"{where}: {name} is {told!r}; it must be a number from {low:g} to {high:g}, or n/a"
            )
        found[name] = value
    return found
