"""Every dated series of a place, CT and MR alike, with its patient: what pairs of exams are looked for in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.errors import InputRefused, foreign
from ichnos.formats.dicom.files import FileReader
from ichnos.formats.dicom.geometry import layout_of
from ichnos.formats.dicom.headers import FileProgress, header_value, read_files, read_headers
from ichnos.formats.dicom.load import DicomStudy
from ichnos.formats.dicom.pixels import hu_of
from ichnos.formats.dicom.series import Stack, preference, stacks_of, summary_of, words
from ichnos.formats.limits import DEFAULT_LIMITS, Limits
from ichnos.scan import Scan
from ichnos.volume import Volume

_DATES = (
    ("AcquisitionDate", "AcquisitionTime"),
    ("SeriesDate", "SeriesTime"),
    ("StudyDate", "StudyTime"),
)


@dataclass(frozen=True)
class DatedSeries:
    """One series of a place; `patient` identifies a person and is never written anywhere."""

    patient: str  # PatientID, else the name
    study_uid: str
    uid: str
    modality: str
    description: str
    taken: datetime | None  # None: no date in its header
    usable: bool  # may be picked as the plain head CT
    files: tuple[Path, ...]
    limits: Limits = DEFAULT_LIMITS
    whole: tuple[Path, ...] = ()  # its files with those of other acquisitions and of places already taken

    @property
    def token(self) -> str:
        """Return twelve digits that name the series and tell nobody who it is of.

        >>> DatedSeries("DOE", "1.2", "1.2.3", "CT", "HEAD", None, True, ()).token
        'c47f5b18b8a4'
        """
        return hashlib.sha256(self.uid.encode()).hexdigest()[:12]

    def open_ct(self) -> Scan:
        """Open the series as a head CT in HU."""
        return DicomStudy(self.study_uid, self.files, "", self.limits).open()

    def open_mri(self) -> Volume:
        """Open the series as one MRI, values as stored; several images of one place are refused."""
        with FileReader(self.limits) as reader:
            found = stacks_of(read_files(self.files[0].parent, self.files, reader))
            stack = max(found, key=lambda s: len(s.frames))
            if not stack.placed or len(stack.frames) < 2 or stack.repeats:
                raise InputRefused(
                    f"series {foreign(self.uid)} is not one stack of slices (several images lie in the same"
                    " place, or none has a position); convert it to NIfTI and list it in exams.tsv"
                )
            layout = layout_of(stack.affines, stack.frames[0].shape)
            values = np.maximum(hu_of(stack.frames, reader), 0)
            return Volume(layout.spread(values, fill=0), layout.affine)


def series_in(
    path: str | Path, *, progress: FileProgress | None = None, limits: Limits = DEFAULT_LIMITS
) -> list[DatedSeries]:
    """List every series of a place with patient and time, the best head CT first; read no pixels."""
    with FileReader(limits) as reader:
        contents = read_headers(Path(path), reader, progress=progress)
    stacks = [(stack, summary_of(stack)) for stack in stacks_of(contents)]
    ranked = sorted(stacks, key=lambda pair: preference(*pair), reverse=True)
    whole: dict[str, list[Any]] = {}
    for frame in contents.frames:
        whole.setdefault(frame.series_uid, []).append(frame)
    return [_dated(stack, summary.usable, limits, _files(whole[stack.uid])) for stack, summary in ranked]


def _dated(stack: Stack, usable: bool, limits: Limits, whole: tuple[Path, ...]) -> DatedSeries:
    def text(keyword: str) -> str:
        return str(header_value(stack.head, keyword) or "").strip()

    return DatedSeries(
        patient=text("PatientID") or text("PatientName"),
        study_uid=words(stack, "StudyInstanceUID"),
        uid=stack.uid,
        modality=words(stack, "Modality"),
        description=f"{text('SeriesDescription')} {text('ProtocolName')}".strip(),
        taken=_taken(stack.head),
        usable=usable,
        files=_files(stack.frames),
        limits=limits,
        whole=whole,
    )


def _files(frames: Sequence[Any]) -> tuple[Path, ...]:
    return tuple(sorted({frame.path for frame in frames}))


def _taken(head: Any) -> datetime | None:
    """Return date and time of a series; a date without a time counts from midnight."""
    for date, time in _DATES:
        day = str(header_value(head, date) or "")[:8]
        clock = str(header_value(head, time) or "").split(".")[0].ljust(6, "0")[:6]
        for text in (f"{day}{clock}", f"{day}000000"):
            try:
                return datetime.strptime(text, "%Y%m%d%H%M%S")
            except ValueError:
                continue
    return None
