"""Research export: studies of the node as a de-identified cohort that `ichnos train` and `evaluate` take.

    FOLDER/                      a cohort (docs/cohorts.md), patients under pseudonyms
      derivatives/manual/        outlines that people sent back (SEG): labels; each reader's own beside it
      derivatives/ichnos/        the node's masks as label maps: predictions, to be corrected or named by hand
      readings/                  the readings, as `ichnos read` writes them

MR studies that the node keeps and pairs with a CT become its FLAIR, T1 and diffusion.
A patient keeps the pseudonym in every export of one node; the key that leads back never leaves its home.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from ichnos.audit.exams import exams_in
from ichnos.audit.outlines import outlines_in, write_outlines
from ichnos.audit.pairing import PairWindows, episodes_of
from ichnos.cohort import Exam, Fact, Patient
from ichnos.errors import InputRefused, UsageError
from ichnos.files import atomic_file
from ichnos.formats import bids, nifti, open_scan
from ichnos.formats.deidentified import OLDEST_YEARS, sidecar_without_identity
from ichnos.quality import judge
from ichnos.reading import Record
from ichnos.scan import Scan
from ichnos.service.node import Node
from ichnos.service.store import events, studies
from ichnos.service.store.tables import PairRow, StudyRow
from ichnos.targets import label_values

PIPELINE, READINGS = "ichnos", "readings"
FOLLOWUP_DAYS = 3  # a later CT within them is the follow-up (expansion is defined at 24 h, up to 72 h)
_log = logging.getLogger(__name__)
_LABEL_MAPS = ("haematoma", "leukoaraiosis", "tract", "expansion")
_SESSIONS: Mapping[Exam, str] = {"ct": "baseline", "followup": "followup"}


@dataclass(frozen=True)
class ExportResult:
    """What was exported, and what was not and why."""

    folder: Path
    patients: int
    exams: int
    left_out: Mapping[int, str]  # study -> reason


@dataclass(frozen=True)
class _Chosen:
    """One study that becomes an exam of a patient."""

    study: StudyRow
    files: tuple[Path, ...]
    patient: str  # pseudonym
    exam: Exam
    days: int  # since the patient's first CT
    mri: tuple[Path, ...] = ()  # kept studies that pair with it; of the first CT alone


def export_studies(
    node: Node, folder: Path, *, study_ids: Sequence[int] = (), actor: str, centre: str = ""
) -> ExportResult:
    """Export the given studies, or all that are ready, into a new or empty folder."""
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; give a new folder for the export")
    chosen, left_out = _choose(node, study_ids)
    if not chosen:
        why = "; ".join(f"study {number}: {reason}" for number, reason in sorted(left_out.items()))
        raise UsageError(f"no study was chosen that has been read; nothing is exported{why and f' ({why})'}")
    patients: dict[str, Patient] = {}
    for one in chosen:
        try:
            patients[one.patient] = _export(node, one, folder, patients.get(one.patient), centre)
        except InputRefused as refusal:
            left_out[one.study.id] = refusal.without_names
    bids.write_cohort(patients.values(), folder, name="ichnos node export", columns=_COLUMNS)
    bids.write_description(folder / "derivatives" / PIPELINE, "ichnos readings", pipeline=PIPELINE)
    exported = [one.study.id for one in chosen if one.study.id not in left_out]
    with node.database.transaction() as session:
        for number in exported:
            events.append_event(session, "exported", at=node.clock(), actor=actor, study_id=number)
    exams = sum(len(patient.exams) for patient in patients.values())
    return ExportResult(folder, len(patients), exams, left_out)


_COLUMNS = {
    "age_years": {
        "Units": "year",
        "Description": f"at the first CT; {OLDEST_YEARS} stands for that and above",
    },
    "days_to_followup": {"Units": "day", "Description": "from the first CT to the follow-up, whole days"},
}


def _choose(node: Node, study_ids: Sequence[int]) -> tuple[list[_Chosen], dict[int, str]]:
    """Give each patient's first CT and the follow-up within days of it; name the rest."""
    key, left_out, chosen = export_key(node.settings.home), {}, []
    with node.database.snapshot() as session:
        wanted = select(StudyRow).where(StudyRow.state == "ready").order_by(StudyRow.study_date, StudyRow.id)
        rows = list(session.execute(wanted).scalars())
        if study_ids:
            for number in set(study_ids) - {row.id for row in rows}:
                left_out[number] = "there is no such study that has been read"
            rows = [row for row in rows if row.id in set(study_ids)]
        firsts: dict[str, StudyRow] = {}
        paired: set[str] = set()
        for row in rows:
            patient = pseudonym_of(key, row.patient_id or row.uid)
            first = firsts.setdefault(patient, row)
            exam: Exam = "ct" if first is row else "followup"
            days = _days_between(first, row)
            if exam == "followup" and (patient in paired or days is None or days > FOLLOWUP_DAYS):
                left_out[row.id] = f"a patient has one CT and one within {FOLLOWUP_DAYS} days of it"
                continue
            if exam == "followup":
                paired.add(patient)
            mri = _paired_mri(session, row) if exam == "ct" else []
            files, more = (_files(node, session, some) for some in ([row], mri))
            chosen.append(_Chosen(row, files, patient, exam, days or 0, more))
    return chosen, left_out


def _files(node: Node, session: Session, rows: Sequence[StudyRow]) -> tuple[Path, ...]:
    return tuple(node.settings.home / image.path for row in rows for image in studies.files_of(session, row))


def _paired_mri(session: Session, ct: StudyRow) -> list[StudyRow]:
    """Return the studies without a CT that the node has paired with one."""
    wanted = select(StudyRow).join(PairRow, PairRow.partner_study_id == StudyRow.id)
    of_ct = wanted.where(PairRow.ct_study_id == ct.id, StudyRow.state == "kept").order_by(StudyRow.id)
    return list(session.execute(of_ct).scalars())


def _export(node: Node, one: _Chosen, folder: Path, known: Patient | None, centre: str) -> Patient:
    with _linked(one.files, folder) as images:
        scan = open_scan(images)
        scan = scan.judged(judge(scan))
        sidecar = sidecar_without_identity(scan)
        file = bids.write_exam(folder, one.patient, one.exam, scan.volume, sidecar=sidecar)
        _export_outlines(node, one, images, scan, folder)
    reading = node.settings.home / one.study.reading
    _export_reading(reading, folder / READINGS / f"sub-{one.patient}_ses-{_SESSIONS[one.exam]}")
    if one.exam == "ct":
        _export_masks(reading, scan, folder, one.patient)
        exams = {"ct": file, **_export_mri(one, folder)}
        return Patient(one.patient, centre=centre, exams=exams, facts=_facts(scan))
    if known is None:
        raise InputRefused("the patient's first CT could not be exported")
    facts = {**known.facts, "days_to_followup": float(one.days)}
    return Patient(one.patient, centre=centre, exams={**known.exams, "followup": file}, facts=facts)


def _export_outlines(node: Node, one: _Chosen, images: Path, scan: Scan, folder: Path) -> None:
    """Write what people drew on a CT as its manual label; the names of readers are hashed with the key."""
    assert scan.source is not None  # it was opened from DICOM
    key = export_key(node.settings.home)
    for outline in sorted(outlines_in(images), key=lambda drawn: drawn.rank):
        if outline.series_uid != scan.source.series_uid:
            continue
        reader = f"reader{pseudonym_of(key, outline.author)[1:9]}"
        try:
            write_outlines([replace(outline, author=reader)], scan, folder, one.patient, one.exam)
        except InputRefused as refusal:  # a SEG of something else must not keep the CT from its cohort
            _log.warning("study %d: a segmentation was left out: %s", one.study.id, refusal.without_names)


def _export_mri(one: _Chosen, folder: Path) -> dict[Exam, Path]:
    """Write the MRI that the CT is paired with, de-identified."""
    if not one.mri:
        return {}
    exams: dict[Exam, Path] = {}
    with _linked((*one.files, *one.mri), folder) as images:
        for episode in episodes_of(exams_in(images).exams, PairWindows()):
            for exam, partner in episode.partners.items():
                try:
                    partner.write(folder, one.patient, exam)
                except InputRefused as refusal:  # the CT is worth exporting without it
                    _log.warning(
                        "study %d: its %s was left out: %s", one.study.id, exam, refusal.without_names
                    )
                else:
                    exams[exam] = bids.exam_path(folder, one.patient, exam)
    return exams


def _facts(scan: Scan) -> dict[str, Fact]:
    facts: dict[str, Fact] = {}
    if "age_years" in scan.facts:
        facts["age_years"] = min(float(scan.facts["age_years"]), float(OLDEST_YEARS))
    if scan.facts.get("sex") in ("F", "M"):
        facts["sex"] = scan.facts["sex"]
    return facts


def _export_reading(reading: Path, folder: Path) -> None:
    """Copy record and masks; SEG, SR and report stay: they belong to the patient's DICOM study."""
    record = Record.model_validate_json((reading / "reading.json").read_bytes())
    folder.mkdir(parents=True)
    for name in record.masks.values():
        shutil.copyfile(reading / name, folder / name)
    anonymous = record.model_copy(update={"name": folder.name, "files": {}})
    with atomic_file(folder / "reading.json") as temporary:
        temporary.write_text(anonymous.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _export_masks(reading: Path, scan: Scan, folder: Path, patient: str) -> None:
    """Write the masks of a reading as the label maps of a cohort, on the grid of its CT."""
    for label_map in _LABEL_MAPS:
        values = {
            name: value
            for name, value in label_values(label_map).items()
            if (reading / f"{name}.nii.gz").is_file()
        }
        if not values:
            continue
        labels = np.zeros(scan.volume.shape, np.uint8)
        for name, value in values.items():
            mask = nifti.load(reading / f"{name}.nii.gz").reoriented(scan.volume.orientation)
            labels[mask.array > 0] = value
        volume = scan.volume.with_array(labels)
        bids.write_derivative(folder, patient, volume, pipeline=PIPELINE, label=label_map, kind="dseg")


@contextmanager
def _linked(files: Sequence[Path], folder: Path) -> Iterator[Path]:
    """Give a folder in which the images lie together, as they would in a study's folder."""
    images = folder / ".images"
    images.mkdir(parents=True, exist_ok=True)
    try:
        for file in files:
            try:
                os.link(file, images / file.name)
            except OSError:  # another disk
                shutil.copyfile(file, images / file.name)
        yield images
    finally:
        shutil.rmtree(images, ignore_errors=True)


def export_key(home: Path) -> bytes:
    """Return the node's secret of pseudonyms; made on first use, readable by its owner alone."""
    file = home / "export.key"
    if not file.exists():
        with atomic_file(file) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_bytes(secrets.token_bytes(32))
    return file.read_bytes()


def pseudonym_of(key: bytes, identity: str) -> str:
    """Return the letters and digits that stand for a patient; without the key nobody finds the way back.

    >>> pseudonym_of(b"k", "P1") == pseudonym_of(b"k", "P1") != pseudonym_of(b"k", "P2")
    True
    """
    return "N" + hmac.new(key, identity.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:12]


def _date(study: StudyRow) -> date | None:
    try:
        return datetime.strptime(study.study_date, "%Y%m%d").date()
    except ValueError:
        return None


def _days_between(first: StudyRow, later: StudyRow) -> int | None:
    begin, end = _date(first), _date(later)
    return None if begin is None or end is None else (end - begin).days
