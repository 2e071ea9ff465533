"""Scan: a head CT as a Volume in HU, with its acquisition, its source slices and its quality verdict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.verdict import Verdict
from ichnos.volume import Volume

AIR_HU = -1000  # also what padding becomes
# no scanner measures less; -1500, -2000, -2048 and -3024 mean "outside the field of view"
PADDING_BELOW_HU = -1400
FEWEST_SLICES = 8  # of a series that may be read
_STEP_STANDS_OUT = 1.6  # times the larger of its neighbours: a slice is missing, not merely a changed step
_MODALITIES = frozenset(
    [
        "CR",
        "CT",
        "DX",
        "ES",
        "KO",
        "MG",
        "MR",
        "NM",
        "OT",
        "PR",
        "PT",
        "PX",
        "REG",
        "RF",
        "RG",
        "RTDOSE",
        "RTIMAGE",
        "RTPLAN",
        "RTSTRUCT",
        "SC",
        "SEG",
        "SM",
        "SR",
        "US",
        "XA",
        "XC",
    ]
)
_WITHOUT_CONTRAST = re.compile(
    r"non.?con|without|w/?o\b|no contrast|\bncct\b|\bnect\b|plain|unenhanced|\bnati[fv]e?\b"
    r"|ohne|\bsans\b|\bsin\b|\bsenza\b",
    re.IGNORECASE,
)

_NO_AGENT = re.compile(r"^\W*(none|no|n|nil|without|ohne|non|0|unknown|n/a)?\W*$", re.IGNORECASE)


@dataclass(frozen=True)
class Acquisition:
    """How the scan was made, as far as its files tell; None where they do not."""

    modality: str = "CT"
    manufacturer: str | None = None
    scanner: str | None = None  # model name
    kernel: str | None = None
    tube_kv: float | None = None
    slice_thickness_mm: float | None = None
    # distinct distances between neighbouring slices, along their normal
    slice_step_mm: tuple[float, ...] = ()
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
    left_out: tuple[str, ...] = ()  # why files beside the series could not be read


@dataclass(frozen=True, eq=False)
class Scan:
    """A head CT, ready to be judged and read."""

    volume: Volume  # HU, float32 or int16, regular and orthogonal, any orientation
    acquisition: Acquisition = Acquisition()
    source: Source | None = None
    quality: Verdict | None = None  # None: not judged yet
    facts: Mapping[str, str | float] = field(default_factory=dict)  # age, sex … where the files tell
    given_grid: Volume | None = None  # of a sheared image, whose masks are written on it; without content

    def judged(self, verdict: Verdict) -> Scan:
        """Return the same scan with a quality verdict."""
        return replace(self, quality=verdict)

    def with_facts(self, facts: Mapping[str, float]) -> Scan:
        """Return the same scan with facts checked by `known_facts`; they overrule those of its files."""
        return replace(self, facts={**self.facts, **facts})

    @property
    def hu(self) -> np.ndarray:
        """Return the HU array (x, y, z)."""
        return self.volume.array


def upright(volume: Volume) -> Scan:
    """Return a CT as a scan; a sheared one (gantry tilt left in the file) is resampled onto the orthogonal
    grid around it.
    """
    if volume.is_orthogonal:
        return Scan(volume)
    given = volume.with_array(np.broadcast_to(np.uint8(0), volume.shape))
    return Scan(volume.on_grid(volume.orthogonal_grid(), fill=AIR_HU), given_grid=given)


def names_agent(text: str) -> bool:
    """Say whether what stands under "contrast agent" names one, rather than saying that there was none.

    >>> [names_agent(words) for words in ("Iohexol", "", "NONE", "No", "n/a")]
    [True, False, False, False, False]
    """
    return not _NO_AGENT.match(text)


def described_without_contrast(text: str) -> bool:
    """Say whether a description calls a series non-contrast, in the languages that scanners speak.

    >>> [described_without_contrast(words) for words in ("HEAD W/O", "Kopf nativ", "crane sans IV", "CTA")]
    [True, True, True, False]
    """
    return bool(_WITHOUT_CONTRAST.search(text))


def modality_name(text: str) -> str:
    """Return a modality that DICOM defines, as it is; anything else is another one, whatever it says.

    >>> modality_name("MR"), modality_name("DOE")
    ('MR', 'an unknown one')
    """
    return text if text in _MODALITIES else "an unknown one"


@dataclass(frozen=True)
class MissingSlices:
    """Steps between neighbouring slices that stand out from both of their neighbours."""

    count: int = 0
    largest_mm: float = 0.0  # what no slice shows, at the widest such step
    after: tuple[int, ...] = ()  # number of the slice before each such step, from 0, feet to head


def missing_slices(steps_mm: Floats) -> MissingSlices:
    """Find the steps that are a multiple of both their neighbours.

    >>> missing_slices(np.array([5.0, 5.0, 15.0, 5.0, 5.0]))
    MissingSlices(count=2, largest_mm=10.0, after=(2,))
    """
    if len(steps_mm) < 3:
        return MissingSlices()
    padded = np.concatenate([steps_mm[1:2], steps_mm, steps_mm[-2:-1]])
    beside = np.maximum(padded[:-2], padded[2:])
    wide = np.flatnonzero(steps_mm > _STEP_STANDS_OUT * beside)
    if not len(wide):
        return MissingSlices()
    unseen = steps_mm[wide] - beside[wide]
    count = int(np.round(steps_mm[wide] / beside[wide] - 1).sum())
    return MissingSlices(count, float(unseen.max()), tuple(int(k) for k in wide))


def known_facts(facts: Mapping[str, object], *, where: str) -> dict[str, float]:
    """Return the facts that a reading uses, as numbers; one that cannot be true is refused.

    >>> known_facts({"gcs": "14", "age_years": "n/a", "hospital": "A"}, where="a table")
    {'gcs': 14.0}
    """
    known = {}
    for name, (low, high) in FACTS.items():
        entry = facts.get(name)
        if entry is None or str(entry).strip() in ("", "n/a"):
            continue
        try:
            value = float(str(entry))
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise InputRefused(
                f"{where}: {name} is {entry!r}; it must be a number from {low:g} to {high:g}, or n/a"
            )
        known[name] = value
    return known
