"""Open the head CT of a file, folder, zip or DICOMDIR as a Scan, and say what else was there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

from ichnos.errors import InputRefused, foreign
from ichnos.formats.dicom.files import FileReader, walk
from ichnos.formats.dicom.geometry import layout_of
from ichnos.formats.dicom.headers import (
    Contents,
    FileProgress,
    header_number,
    header_value,
    read_files,
    read_headers,
)
from ichnos.formats.dicom.pixels import hu_of
from ichnos.formats.dicom.series import (
    SeriesSummary,
    Stack,
    contrast_agent,
    distinct,
    preference,
    stacks_of,
    summary_of,
    words,
)
from ichnos.formats.limits import DEFAULT_LIMITS, Limits
from ichnos.formats.plausible import refuse_impossible_size
from ichnos.scan import AIR_HU, FACTS, Acquisition, Scan, Source, SourceSlice
from ichnos.volume import Volume


@dataclass(frozen=True)
class Inspection:
    """The series of a place, and which of them is the head CT."""

    path: Path
    series: tuple[SeriesSummary, ...]  # best first
    pick: str | None  # SeriesInstanceUID; None: none can be read
    patients: int
    studies: int
    skipped: dict[str, int]  # why files were left aside -> how many
    left_out: tuple[tuple[Path, str], ...]  # files that should have been readable, with the reason
    opener: Callable[[str | None], Scan] = field(repr=False, compare=False)

    def open(self, series: str | None = None) -> Scan:
        """Open the picked series, or the one named, without looking through the files again."""
        return self.opener(series)


def inspect_dicom(
    path: str | Path, *, progress: FileProgress | None = None, limits: Limits = DEFAULT_LIMITS
) -> Inspection:
    """List every series of a place, best first, with reasons; read no pixels."""
    with FileReader(limits) as reader:
        contents = _contents(Path(path), reader, progress)
    ranked = _ranked(stacks_of(contents))
    pick = ranked[0][1].uid if ranked[0][1].usable else None
    patients, studies = _identities(contents)

    def opener(series: str | None) -> Scan:
        with FileReader(limits) as reader:
            return _scan(Path(path), _chosen(Path(path), contents, series), reader, contents.left_out)

    return Inspection(
        Path(path),
        tuple(summary for _, summary in ranked),
        pick,
        len(patients),
        len(studies),
        dict(contents.skipped),
        contents.left_out,
        opener,
    )


def open_dicom(
    path: str | Path,
    *,
    series: str | None = None,
    progress: FileProgress | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Scan:
    """Open the best series of a place, or the one named by its SeriesInstanceUID, in HU on a regular grid."""
    return inspect_dicom(path, progress=progress, limits=limits).open(series)


@dataclass(frozen=True)
class DicomStudy:
    """One study of a place with the files of its head CT, opened without looking at the others again."""

    uid: str
    files: tuple[Path, ...]  # of the series that was picked, or that came nearest to it
    refusal: str  # why it has no head CT; "" if it has
    limits: Limits = DEFAULT_LIMITS
    left_out: tuple[tuple[Path, str], ...] = ()  # files of the place that belong to no study

    @property
    def id(self) -> str:
        """Return a name that tells nobody who it is: the first digits of a hash of the StudyInstanceUID."""
        return "study-" + hashlib.sha256(self.uid.encode()).hexdigest()[:12]

    @property
    def folder(self) -> Path:
        """Return the folder of its first file."""
        return self.files[0].parent

    def open(self) -> Scan:
        """Open the study's head CT, or refuse with the reason why there is none."""
        if self.refusal:
            raise InputRefused(self.refusal)
        with FileReader(self.limits) as reader:
            contents = read_files(self.folder, self.files, reader, left_out=self.left_out)
            return _scan(self.folder, _chosen(self.folder, contents, None), reader, contents.left_out)


def studies_in(
    path: str | Path, *, progress: FileProgress | None = None, limits: Limits = DEFAULT_LIMITS
) -> list[DicomStudy]:
    """Find the head CT of every study in a place, sorted by the study's UID."""
    with FileReader(limits) as reader:
        contents = _contents(Path(path), reader, progress)
    best: dict[str, DicomStudy] = {}
    for stack, summary in _ranked(stacks_of(contents)):
        uid = words(stack, "StudyInstanceUID")
        why = (
            "" if summary.usable else f"no series of the study can be read; the best: {_objections(summary)}"
        )
        files = tuple(sorted({frame.path for frame in stack.frames}))
        best.setdefault(uid, DicomStudy(uid, files, why, limits, _beside(files, contents.left_out)))
    return [best[uid] for uid in sorted(best)]


def _beside(files: Sequence[Path], left_out: Sequence[tuple[Path, str]]) -> tuple[tuple[Path, str], ...]:
    """Return the files left out that lie in the folders of a study, of which they may be a part."""
    folders = {file.parent for file in files}
    return tuple((path, why) for path, why in left_out if path.parent in folders)


# ---- choosing


def _contents(path: Path, reader: FileReader, progress: FileProgress | None) -> Contents:
    """Read a place; a single slice stands for its series, which is looked for beside it."""
    contents = read_headers(path, reader, progress=progress)
    alone = (
        path.is_file()
        and len(contents.frames) == 1
        and contents.frames[0].path == path
        and contents.frames[0].placed
    )
    if not alone:
        return contents
    beside = read_files(path, walk(path.parent, reader.limits, deep=False).files, reader, progress=progress)
    uid = contents.frames[0].series_uid
    same_series = tuple(f for f in beside.frames if f.series_uid == uid)
    return Contents(path, same_series, beside.heads, beside.without)


def _ranked(stacks: list[Stack]) -> list[tuple[Stack, SeriesSummary]]:
    pairs = [(stack, summary_of(stack)) for stack in stacks]
    return sorted(pairs, key=lambda pair: preference(*pair), reverse=True)


def _identities(contents: Contents) -> tuple[set[tuple[str, str]], set[str]]:
    heads = contents.heads.values()
    patients = {
        (
            str(header_value(h, "PatientID") or "").strip(),
            str(header_value(h, "PatientName") or "").strip("^ ").upper(),
        )
        for h in heads
    }
    return patients, {str(header_value(h, "StudyInstanceUID") or "") for h in heads}


def _chosen(path: Path, contents: Contents, series: str | None) -> Stack:
    ranked = _ranked(stacks_of(contents))
    if series is not None:
        named = [pair for pair in ranked if pair[1].uid == series]
        if not named:
            raise InputRefused(
                f"{foreign(path)} holds no series {foreign(series)}; `ichnos inspect` lists the"
                f" {len({s.uid for _, s in ranked})} that are there"
            )
        return _with_geometry(path, *named[0])
    patients, _ = _identities(contents)
    if len(patients) > 1:
        raise InputRefused(
            f"{foreign(path)} holds images of {len(patients)} patients; give the folder of one, or name a"
            " series with"
            " --series"
        )
    stack, summary = ranked[0]
    if not summary.usable:
        count = len(ranked)
        raise InputRefused(
            f"{foreign(path)} holds no head CT that can be read; the best of {count} series:"
            f" {_objections(summary)}"
        )
    return _with_geometry(path, stack, summary)


def _objections(summary: SeriesSummary) -> str:
    against = [
        r.replace(" (cannot be picked)", "") for r in summary.reasons if r.endswith("(cannot be picked)")
    ]
    return "; ".join(against) or foreign("; ".join(summary.reasons))


def _with_geometry(path: Path, stack: Stack, summary: SeriesSummary) -> Stack:
    if not stack.placed or stack.coloured:
        raise InputRefused(
            f"series {foreign(summary.uid)} of {foreign(path)} is not a stack of CT slices:"
            f" {_objections(summary)}"
        )
    if len(stack.frames) < 2:
        raise InputRefused(
            f"series {foreign(summary.uid)} of {foreign(path)} has 1 slice; at least 2 at different"
            " positions make a volume"
        )
    return stack


# ---- loading


def _scan(path: Path, stack: Stack, reader: FileReader, left_out: Sequence[tuple[Path, str]]) -> Scan:
    layout = layout_of(stack.affines, stack.frames[0].shape)
    reader.limits.check_voxels(layout.shape, path)
    refuse_impossible_size(layout.grid, path)
    volume = Volume(layout.spread(hu_of(stack.frames, reader), fill=AIR_HU), layout.affine)
    slices = tuple(SourceSlice(f.path, f.index, f.sop_uid, f.affine, f.shape) for f in stack.frames)
    source = Source(
        path, words(stack, "StudyInstanceUID") or None, stack.uid, slices, tuple(why for _, why in left_out)
    )
    return Scan(volume, _acquisition(stack), source, facts=_facts(stack.head))


def _acquisition(stack: Stack) -> Acquisition:
    head = stack.head
    return Acquisition(
        modality=words(stack, "Modality") or "CT",
        manufacturer=_text(head, "Manufacturer"),
        scanner=_text(head, "ManufacturerModelName"),
        kernel=words(stack, "ConvolutionKernel").strip() or None,
        tube_kv=header_number(head, "KVP") or None,
        slice_thickness_mm=header_number(head, "SliceThickness") or None,
        slice_step_mm=distinct(stack.steps_mm),
        tilt_deg=round(stack.tilt_deg, 3),
        contrast_agent=contrast_agent(stack),
        date=_text(head, "AcquisitionDate") or _text(head, "SeriesDate") or _text(head, "StudyDate"),
        series_description=_text(head, "SeriesDescription"),
    )


def _text(head: Any, keyword: str) -> str | None:
    return str(header_value(head, keyword) or "").strip() or None


def _facts(head: Any) -> dict[str, str | float]:
    """Return age and sex, as far as the header tells."""
    facts: dict[str, str | float] = {}
    if (sex := _text(head, "PatientSex")) in ("M", "F"):
        facts["sex"] = sex
    if age := re.fullmatch(r"0*(\d+)([YMWD])", _text(head, "PatientAge") or ""):
        facts["age_years"] = round(int(age[1]) / {"Y": 1, "M": 12, "W": 52.18, "D": 365.25}[age[2]], 2)
    elif (age_years := _age_by_dates(head)) is not None:
        facts["age_years"] = age_years
    return facts


def _age_by_dates(head: Any) -> float | None:
    """Return the age in years between birth and scan; None where a date is missing or makes no sense."""
    born = _date(_text(head, "PatientBirthDate"))
    scanned = next(
        (d for k in ("AcquisitionDate", "SeriesDate", "StudyDate") if (d := _date(_text(head, k)))), None
    )
    if born is None or scanned is None or not born <= scanned:
        return None
    age_years = (scanned - born).days / 365.25
    return round(age_years, 2) if age_years <= FACTS["age_years"][1] else None


def _date(text: str | None) -> date | None:
    try:
        return datetime.strptime((text or "")[:8], "%Y%m%d").date()
    except ValueError:
        return None
