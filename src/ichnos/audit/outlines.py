"""Outlines that people drew on a CT in any DICOM viewer (SEG): manual labels, which outrank every transfer.

Each reader's outline is kept under a pseudonym; `derivatives/manual` holds the one whose author's role ranks
highest, and of equals the last. Where two readers drew the same CT, their agreement is measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pydicom

from ichnos.arrays import Array
from ichnos.audit.readings import HAEMATOMA_CODES
from ichnos.cohort import Exam
from ichnos.errors import InputRefused, foreign
from ichnos.evidence.metrics.intervals import Estimate, mean_interval
from ichnos.evidence.metrics.overlap import dice
from ichnos.evidence.tables import Cell, Table
from ichnos.formats import bids, nifti
from ichnos.formats.dicom_seg import SEG_STORAGE, read_seg
from ichnos.formats.dicom_source import MANUFACTURER
from ichnos.formats.text import read_table
from ichnos.scan import Scan
from ichnos.volume import Volume, volume_ml

READERS_TABLE = "readers.tsv"  # columns name, role; beside the exams
READER_ROLES = ("", "reader", "researcher", "radiologist", "neuroradiologist")  # the last ranks highest
_PIPELINE = "reader"  # and eight digits of a hash of the author's name
_HEADER = [
    "SOPClassUID", "SOPInstanceUID", "Manufacturer", "ContentCreatorName", "ContentDate", "ContentTime",
    "ReferencedSeriesSequence",
]  # fmt: skip


@dataclass(frozen=True)
class Outline:
    """A SEG that a person drew, or corrected, on a series."""

    path: Path
    series_uid: str
    token: str  # of the SEG itself
    author: str  # a pseudonym
    role: str  # one of READER_ROLES
    drawn: str  # date and time as the file says, to order outlines by

    @property
    def rank(self) -> tuple[int, str, str]:
        """Return what decides between outlines of the same CT: role, then time, then token."""
        return READER_ROLES.index(self.role), self.drawn, self.token


def outlines_in(folder: Path) -> list[Outline]:
    """Find the SEGs of a folder that people drew; those that ichnos wrote are left aside."""
    roles = _roles(folder / READERS_TABLE)
    found = []
    for file in sorted(folder.rglob("*")):
        head = _seg_header(file) if file.is_file() else None
        if head is None or str(head.get("Manufacturer", "")) == MANUFACTURER:
            continue
        referred = head.get("ReferencedSeriesSequence") or []
        name = str(head.get("ContentCreatorName", "")).strip()
        drawn = f"{head.get('ContentDate', '')}{head.get('ContentTime', '')}"
        token = hashlib.sha256(str(head.SOPInstanceUID).encode()).hexdigest()[:12]
        for item in referred[:1]:
            uid = str(item.SeriesInstanceUID)
            role = roles.get(name.casefold(), "")
            found.append(Outline(file, uid, token, reader_pseudonym(name), role, drawn))
    return found


def _seg_header(file: Path) -> pydicom.Dataset | None:
    try:
        head = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_HEADER)
    except Exception:  # not DICOM, or damaged: whatever a parser may say of it
        return None
    return head if head.get("SOPClassUID") == SEG_STORAGE else None


def _roles(table: Path) -> dict[str, str]:
    if not table.is_file():
        return {}
    columns, rows = read_table(table)
    if not {"name", "role"} <= set(columns):
        raise InputRefused(f"{foreign(table)} needs the columns name and role, divided by tabs")
    for number, row in enumerate(rows, start=2):
        if row["role"] not in READER_ROLES[1:]:
            raise InputRefused(
                f"{foreign(table)}, line {number}: role {foreign(repr(row['role']))} is unknown; use"
                f" {', '.join(READER_ROLES[1:])}"
            )
    return {row["name"].casefold(): row["role"] for row in rows}


def reader_pseudonym(author: str) -> str:
    """Return the name under which a reader's outlines are kept.

    >>> reader_pseudonym("DOE^JANE") == reader_pseudonym("doe^jane") != reader_pseudonym("")
    True
    """
    return _PIPELINE + hashlib.sha256(author.casefold().encode("utf-8", "surrogatepass")).hexdigest()[:8]


def labels_drawn(outline: Outline, scan: Scan) -> dict[str, Volume]:
    """Return what an outline holds as label maps on the scan's grid: haematoma, leukoaraiosis.

    Segments are known by the names that ichnos gives them, in any case; an outline without one is refused.
    """
    drawn = {name.casefold(): mask for name, mask in read_seg(outline.path, scan).items()}
    found = {}
    blood = {name: drawn[name.casefold()] for name in HAEMATOMA_CODES if name.casefold() in drawn}
    if blood:
        labels = np.zeros(scan.volume.shape, np.uint8)
        for name, mask in blood.items():
            labels[np.asarray(mask.array) != 0] = HAEMATOMA_CODES[name]
        found["haematoma"] = scan.volume.with_array(labels)
    if "leukoaraiosis" in drawn:
        found["leukoaraiosis"] = drawn["leukoaraiosis"].map_array(_as_mask)
    if not found:
        known = ", ".join((*HAEMATOMA_CODES, "leukoaraiosis"))
        raise InputRefused(
            f"{foreign(outline.path)} has the segments {foreign(', '.join(drawn) or 'none')}; {known} are"
            " known"
        )
    return found


def _as_mask(array: Array) -> Array:
    return np.asarray(array != 0, np.uint8)


def write_outlines(outlines: Sequence[Outline], scan: Scan, root: Path, patient_id: str, exam: Exam) -> None:
    """Write the outlines of one CT: each reader's own, and the highest-ranking one as manual label."""
    for outline in sorted(outlines, key=lambda one: one.rank):
        said = {"Author": outline.author, "Role": outline.role or "not known"}
        for label, volume in labels_drawn(outline, scan).items():
            kind: bids.MapKind = "dseg" if label == "haematoma" else "mask"
            for pipeline in (outline.author, "manual"):  # the last one stays
                bids.write_derivative(
                    root,
                    patient_id,
                    volume,
                    pipeline=pipeline,
                    label=label,
                    kind=kind,
                    exam=exam,
                    sidecar=said,
                )


# ---- agreement


@dataclass(frozen=True)
class ReaderPair:
    """Two readers' outlines of the same target on the same CT."""

    patient: str
    label: str  # ICH, IVH, PHE, leukoaraiosis
    dice: float
    first_ml: float
    second_ml: float


def reader_pairs(root: Path, patients: Iterable[str]) -> list[ReaderPair]:
    """Compare every two readers who drew the same CT."""
    pipelines = sorted(path.name for path in (root / "derivatives").glob(f"{_PIPELINE}*") if path.is_dir())
    found = []
    kinds: dict[str, bids.MapKind] = {"haematoma": "dseg", "leukoaraiosis": "mask"}
    for patient in patients:
        for target, kind in kinds.items():
            where = partial(bids.derivative_path, root, patient, label=target, kind=kind)
            paths = [where(pipeline=name) for name in pipelines]
            maps = [nifti.load(path) for path in paths if path.is_file()]
            for first, second in combinations(maps, 2):
                found += _compared(patient, target, first, second)
    return found


def _compared(patient: str, target: str, first: Volume, second: Volume) -> list[ReaderPair]:
    codes: Mapping[str, int] = HAEMATOMA_CODES if target == "haematoma" else {target: 1}
    found = []
    for label, code in codes.items():
        a, b = (one.with_array(one.array == code) for one in (first, second))
        if a.array.any() or b.array.any():
            found.append(ReaderPair(patient, label, dice(a, b), volume_ml(a), volume_ml(b)))
    return found


def readers_table(pairs: Sequence[ReaderPair]) -> Table:
    """Return how far readers agree: what no model can be asked to exceed."""
    rows: list[tuple[Cell, ...]] = []
    for label in dict.fromkeys(pair.label for pair in pairs):
        own = [pair for pair in pairs if pair.label == label]
        overlap = _over_patients(own, lambda pair: pair.dice)
        difference = _over_patients(own, lambda pair: abs(pair.first_ml - pair.second_ml))
        rows.append((label, overlap.n, len(own), overlap, difference))
    columns = ("target", "patients", "pairs of outlines", "Dice between readers", "difference, mL")
    note = "Where more than two readers drew the same CT, a patient counts once, with the mean of the pairs."
    return Table("readers", "Agreement of readers on the same CT", columns, tuple(rows), note)


def _over_patients(pairs: Sequence[ReaderPair], number: Callable[[ReaderPair], float]) -> Estimate:
    """Return the mean over patients of each one's mean: pairs of one patient are not independent."""
    own: dict[str, list[float]] = {}
    for pair in pairs:
        own.setdefault(pair.patient, []).append(number(pair))
    return mean_interval([float(np.mean(values)) for values in own.values()])
