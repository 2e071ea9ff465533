"""Exams of a place with patient and time: DICOM series, or the rows of a table exams.tsv for NIfTI files."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ichnos.audit.outlines import Outline, outlines_in, write_outlines
from ichnos.cohort import EXAMS, Exam
from ichnos.errors import InputRefused, foreign
from ichnos.formats import bids, nifti
from ichnos.formats.dicom import DatedSeries, series_in
from ichnos.formats.dicom.diffusion import converted_diffusion
from ichnos.formats.text import read_table

EXAMS_TABLE = "exams.tsv"  # columns: patient, exam (ct, flair, t1, diffusion), time (ISO 8601), file
_COLUMNS = ("patient", "exam", "time", "file")
_FLAIR = re.compile(r"flair|tirm|dark.?fluid", re.IGNORECASE)
_T1 = re.compile(r"\bt1|mprage|bravo|spgr|\bvibe", re.IGNORECASE)
_DIFFUSION = re.compile(r"dti|dwi|diff|hardi|\bb1000", re.IGNORECASE)
_MAP = re.compile(
    r"adc|trace|(?<![a-z])e?fa(?![a-z])|colfa|tensor|_exp", re.IGNORECASE
)  # that a scanner derived
_UNWEIGHTED_BELOW = 50.0  # b-value in s/mm2
_FEWEST_DIRECTIONS = 6  # a tensor has six unknowns


@dataclass(frozen=True)
class DatedExam:
    """One exam of one patient; `patient` identifies a person and is written nowhere."""

    patient: str
    exam: Exam  # "ct" for every plain head CT; which one is a follow-up is a matter of time
    taken: datetime
    source: Path | DatedSeries
    outlines: tuple[Outline, ...] = ()  # that people drew on it

    @property
    def token(self) -> str:
        """Return what names the exam and its outlines without naming the patient."""
        own = self.source.token if isinstance(self.source, DatedSeries) else self.source.name
        return " ".join((own, *(outline.token for outline in self.outlines)))

    def write(self, root: Path, patient_id: str, exam: Exam) -> dict[str, str | float]:
        """Write the exam into a cohort, without identity; return what is known of a CT besides its voxels."""
        if isinstance(self.source, Path):
            return _copied(self.source, root, patient_id, exam)
        if self.exam == "diffusion":
            return _converted(self.source, root, patient_id)
        if self.exam != "ct":
            bids.write_exam(root, patient_id, exam, self.source.open_mri())
            return {}
        scan = self.source.open_ct()
        sidecar = {k: v for k, v in nifti.sidecar_of(scan.acquisition).items() if k != "AcquisitionDate"}
        bids.write_exam(root, patient_id, exam, scan.volume, sidecar=sidecar)
        write_outlines(self.outlines, scan, root, patient_id, exam)
        acquisition = scan.acquisition
        known: dict[str, str | float] = dict(scan.facts)
        known["scanner"] = (
            " ".join(filter(None, (acquisition.manufacturer, acquisition.scanner))) or "unknown"
        )
        known["thickness_mm"] = acquisition.slice_thickness_mm or round(max(scan.volume.spacing_mm), 2)
        return known


def _copied(file: Path, root: Path, patient_id: str, exam: Exam) -> dict[str, str | float]:
    volume = nifti.load(file)
    path = bids.write_exam(root, patient_id, exam, volume)
    if exam == "diffusion":
        bids.write_gradients(path, *bids.read_gradients(file))
    if exam not in ("ct", "followup"):
        return {}
    return {"thickness_mm": round(float(max(volume.spacing_mm)), 2)}


def _converted(series: DatedSeries, root: Path, patient_id: str) -> dict[str, str | float]:
    """Write a diffusion series with its gradients; one with too few directions is refused."""
    with tempfile.TemporaryDirectory() as folder:
        image = converted_diffusion(series.whole, Path(folder))
        b_values, vectors = bids.read_gradients(image)
        weighted = vectors[b_values > _UNWEIGHTED_BELOW]
        axes = weighted[:, :, None] * weighted[:, None, :]  # the same for a direction and its opposite
        directions = len(np.unique(axes.reshape(-1, 9).round(2), axis=0))
        if directions < _FEWEST_DIRECTIONS:
            raise InputRefused(
                f"a diffusion series has {directions} directions; tractography needs {_FEWEST_DIRECTIONS}"
                " or more"
            )
        return _copied(image, root, patient_id, "diffusion")


@dataclass(frozen=True)
class FoundExams:
    """The exams of a place that may make pairs, and why others may not."""

    exams: tuple[DatedExam, ...]
    left_out: tuple[str, ...] = ()  # one sentence each, without identity


def exams_in(folder: str | Path) -> FoundExams:
    """Find the dated exams of a folder: by its exams.tsv where it has one, else its DICOM series."""
    folder = Path(folder)
    if not folder.exists():
        raise InputRefused(
            f"{foreign(folder)} does not exist; give a folder of DICOM, or one with {EXAMS_TABLE}"
        )
    table = folder / EXAMS_TABLE
    if table.is_file():
        return _of_table(table)
    return exams_of_series(series_in(folder), outlines_in(folder) if folder.is_dir() else [])


def _of_table(table: Path) -> FoundExams:
    columns, rows = read_table(table)
    missing = [name for name in _COLUMNS if name not in columns]
    if missing:
        raise InputRefused(
            f"{foreign(table)} lacks the column(s) {', '.join(missing)}; tabs divide its columns"
        )
    if len({_with_offset(row["time"]) for row in rows}) > 1:
        raise InputRefused(
            f"{foreign(table)} has times with an offset from UTC and times without; give one kind"
        )
    return FoundExams(tuple(_of_row(table, n, row) for n, row in enumerate(rows, start=2)))


def _with_offset(time: str) -> bool:
    """Say whether a time has an offset from UTC; what is no time is refused later, by its line."""
    try:
        return datetime.fromisoformat(time).tzinfo is not None
    except ValueError:
        return False


def _of_row(table: Path, line: int, row: dict[str, str]) -> DatedExam:
    exam = "ct" if row["exam"] == "followup" else row["exam"]
    if exam not in EXAMS:
        raise InputRefused(
            f"{foreign(table)}, line {line}: exam {foreign(repr(exam))} is unknown; use {', '.join(EXAMS)}"
        )
    if row["patient"].strip() in ("", "n/a"):
        raise InputRefused(f"{foreign(table)}, line {line}: the patient is missing")
    try:
        taken = datetime.fromisoformat(row["time"])
        taken = taken.astimezone(UTC).replace(tzinfo=None) if taken.tzinfo else taken
    except ValueError:
        raise InputRefused(
            f"{foreign(table)}, line {line}: time {foreign(repr(row['time']))} is not as 2026-03-01T14:30"
        ) from None
    file = table.parent / row["file"]
    if not file.is_file():
        raise InputRefused(f"{foreign(table)}, line {line}: {foreign(file)} is not there")
    return DatedExam(row["patient"], exam, taken, file)


def exams_of_series(series: Sequence[DatedSeries], outlines: Sequence[Outline] = ()) -> FoundExams:
    """Return the exams of series: of each study the best plain head CT and one series of each MR kind."""
    found: dict[tuple[str, str], DatedExam] = {}
    left_out = []
    for one in sorted(series, key=lambda each: -len(each.whole) * _is_diffusion(each)):
        exam, why = _exam_of(one)
        if exam is None or one.taken is None or not one.patient:
            left_out.append(f"series {one.token}: {why or 'its header names no patient or no date'}")
        else:
            own = tuple(outline for outline in outlines if outline.series_uid == one.uid)
            found.setdefault((one.study_uid, exam), DatedExam(one.patient, exam, one.taken, one, own))
    return FoundExams(tuple(found.values()), tuple(left_out))


def _is_diffusion(series: DatedSeries) -> bool:
    """Say whether an MR series is diffusion as it was acquired, by its description."""
    text = series.description
    return series.modality == "MR" and bool(_DIFFUSION.search(text)) and not _MAP.search(text)


def _exam_of(series: DatedSeries) -> tuple[Exam | None, str]:
    """Return which exam a series is, or None and why it is none."""
    if series.modality == "CT":
        return ("ct", "") if series.usable else (None, "not a plain head CT that can be read")
    if series.modality != "MR":
        return None, f"modality {series.modality or 'unknown'}"
    if _FLAIR.search(series.description):
        return "flair", ""
    if _is_diffusion(series):
        return "diffusion", ""
    return ("t1", "") if _T1.search(series.description) else (None, "another MR sequence")


def by_patient(exams: Iterable[DatedExam]) -> dict[str, list[DatedExam]]:
    """Return each patient's exams in order of time."""
    found: dict[str, list[DatedExam]] = {}
    for exam in sorted(exams, key=lambda e: (e.taken, e.exam, e.token)):
        found.setdefault(exam.patient, []).append(exam)
    return found
