"""Stored readings, found by the scan that they are of: nothing is read again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from pydantic import ValidationError

from ichnos.audit.score import promised_level
from ichnos.cohort import Exam, Patient
from ichnos.errors import InputRefused
from ichnos.formats import bids, nifti
from ichnos.reading import Record
from ichnos.reading.read import volume_digest
from ichnos.reading.record import Measure
from ichnos.reading.save import RECORD
from ichnos.volume import Volume

HAEMATOMA_CODES = {"ICH": 1, "IVH": 2, "PHE": 3}  # of a cohort's label map


@dataclass(frozen=True)
class StoredReading:
    """One reading on disk."""

    folder: Path
    record: Record

    @property
    def model(self) -> str:
        """Return the hashes of what read, joined by "+": weights, refinement, classifier, recalibration."""
        provenance = self.record.provenance
        assert provenance is not None  # refusals are left out
        return joined_identity(
            provenance.model_sha256,
            provenance.refinement_sha256,
            provenance.classifier_sha256,
            provenance.recalibration_sha256,
        )

    def measure(self, name: str) -> Measure | None:
        """Return a measure of any finding; None where the reading has none of that name."""
        measures = (m for finding in self.record.findings for m in finding.measures)
        return next((m for m in measures if m.name == name), None)

    def number(self, name: str) -> float | None:
        """Return the number of a measure; None where there is none."""
        measure = self.measure(name)
        return (
            float(measure.value) if measure is not None and isinstance(measure.value, float | int) else None
        )

    def mask(self, name: str, grid: Volume) -> Volume | None:
        """Return a stored mask on a grid; None where the reading has none of that name."""
        file = self.record.masks.get(name)
        if file is None:
            return None
        mask = nifti.load(self.folder / file)
        return (
            mask if mask.same_grid(grid, tolerance_mm=0.05) else mask.on_grid(grid, interpolation="nearest")
        )

    def haematoma(self, grid: Volume) -> Volume | None:
        """Return ICH, IVH and PHE as a label map (1, 2, 3) on a grid; None where they were not outlined."""
        if "ICH" not in self.record.masks:
            return None
        labels = np.zeros(grid.shape, np.uint8)
        for name, code in HAEMATOMA_CODES.items():
            mask = self.mask(name, grid)
            if mask is not None:
                labels[mask.array != 0] = code
        return grid.with_array(labels)


def joined_identity(*hashes: str) -> str:
    """Return one name for all that read a scan; what was not there is left out.

    >>> joined_identity("ab", "", "cd")
    'ab+cd'
    """
    return "+".join(part for part in hashes if part)


def short_name(model: str) -> str:
    """Return twelve digits of a model's identity, other ones for each recalibration of the same weights.

    >>> len(short_name("ab+cd")), short_name("ab") == short_name("ab+cd")
    (12, False)
    """
    return hashlib.sha256(model.encode()).hexdigest()[:12]


def read_pipeline(model: str) -> str:
    """Return the pipeline of a cohort's derivatives in which the blood lies that a model read.

    >>> read_pipeline("ab").startswith("read"), len(read_pipeline("ab"))
    (True, 12)
    """
    return f"read{short_name(model)[:8]}"


def readings_by_scan(folder: Path) -> dict[str, list[StoredReading]]:
    """Return the readings of a folder of `ichnos read` by the digest of the scan; refusals are left out."""
    found: dict[str, list[StoredReading]] = {}
    for file in sorted(folder.glob(f"**/{RECORD}")):
        try:
            record = Record.model_validate_json(file.read_bytes())
        except (ValidationError, OSError) as error:
            raise InputRefused(f"{file} is not the record of a reading ({type(error).__name__})") from None
        if record.provenance is not None and record.status == "read":
            found.setdefault(record.provenance.input_sha256, []).append(StoredReading(file.parent, record))
    if not found:
        raise InputRefused(f"{folder} holds no reading; give the folder that `ichnos read` wrote")
    return found


@dataclass(frozen=True)
class ReadPatient:
    """A patient with the stored reading of the plain CT, and of the follow-up CT if there is one."""

    patient: Patient
    reading: StoredReading
    followup: StoredReading | None = None


def people_read(
    patients: Sequence[Patient], readings: dict[str, list[StoredReading]]
) -> dict[str, list[ReadPatient]]:
    """Return who had been read, by model; a follow-up's reading is taken from the same model."""
    found: dict[str, list[ReadPatient]] = {}
    for patient in patients:
        if "ct" not in patient.exams:
            continue
        later = _of_exam(patient, "followup", readings)
        for reading in _of_exam(patient, "ct", readings):
            followup = next((other for other in later if other.model == reading.model), None)
            found.setdefault(reading.model, []).append(ReadPatient(patient, reading, followup))
    return found


def _of_exam(patient: Patient, exam: str, readings: dict[str, list[StoredReading]]) -> list[StoredReading]:
    path = patient.exams.get(cast(Exam, exam))
    return [] if path is None else readings.get(volume_digest(nifti.open_nifti(path).volume), [])


def write_read_blood(read: ReadPatient, root: Path, pipeline: str) -> None:
    """Write the haematomas that were read as label maps of a pipeline, where transfer looks for them."""
    exams: list[tuple[Exam, StoredReading | None]] = [("ct", read.reading), ("followup", read.followup)]
    for exam, reading in exams:
        if reading is None or exam not in read.patient.exams:
            continue
        grid = nifti.load(read.patient.exams[exam])
        labels = reading.haematoma(grid)
        if labels is not None:
            bids.write_derivative(
                root, read.patient.id, labels, pipeline=pipeline, label="haematoma", kind="dseg", exam=exam
            )


DECIDING = ("ich_volume", "ivh_volume", "expansion_probability", "leukoaraiosis_volume")


def everyone_read(
    readings: dict[str, list[StoredReading]], people: Sequence[ReadPatient]
) -> dict[str, dict[str, float]]:
    """Return of everyone whose plain CT was read what may decide on a partner exam; follow-ups aside."""
    names = {person.reading.folder: person.patient.id for person in people}
    later = {person.followup.folder for person in people if person.followup is not None}
    found = {}
    for reading in (reading for same in readings.values() for reading in same):
        if reading.folder not in later:
            values = {name: reading.number(name) for name in DECIDING}
            known = {**reading.record.facts, **{n: v for n, v in values.items() if v is not None}}
            found[names.get(reading.folder, reading.folder.name)] = known
    return found


def interval_of(measure: Measure) -> tuple[float | None, float | None, float | None]:
    """Return low, high and promised level of a measure's interval; level None where it promises nothing."""
    return measure.low, measure.high, promised_level(measure.interval)
