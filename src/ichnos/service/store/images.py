"""Files of received images: content-addressed, synced to the disk before anybody is told of success."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from ichnos.errors import InputRefused

_CHUNK = 1 << 20
_META_START = 132  # after the preamble of 128 bytes and "DICM" (PS3.10, 7.1)
_HEADER = [
    "PatientID", "PatientName", "StudyDate", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID",
    "SOPClassUID", "Modality",
]  # fmt: skip


@dataclass(frozen=True)
class StoredImage:
    """One image on the disk, with what the tables need of its header."""

    path: str  # below the home folder
    sha256: str
    size: int
    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: str
    modality: str
    patient_id: str
    patient_name: str
    study_date: str


def store_image(home: Path, received: Path) -> StoredImage:
    """Hash, sync and move a received file (DICOM Part 10) below `home/images`; `received` is gone after."""
    digest, size = _hashed(received)
    header = _header(received)
    target = home / "images" / digest[:2] / f"{digest}.dcm"
    target.parent.mkdir(parents=True, exist_ok=True)
    _sync(received)
    os.replace(received, target)
    _sync(target.parent)
    return StoredImage(str(target.relative_to(home)), digest, size, **header)


def content_digest(file: Path) -> str:
    """Return the SHA-256 of a stored image's dataset, as it was taken when the image arrived."""
    return _hashed(file)[0]


def _hashed(path: Path) -> tuple[str, int]:
    """Return SHA-256 and size of the dataset, without the file meta, which every sender writes anew."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        file.seek(dataset_offset(file.read(_META_START + 12)))
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def dataset_offset(head: bytes) -> int:
    """Return where the dataset of a Part 10 file begins: after the file meta, whose length (0002,0000) tells.

    >>> dataset_offset(bytes(128) + b"DICM" + bytes((2, 0, 0, 0)) + b"UL" + bytes((4, 0, 60, 0, 0, 0)))
    204
    """
    element = head[_META_START : _META_START + 12]
    if len(element) < 12 or element[:6] != b"\x02\x00\x00\x00UL":
        return 0
    return _META_START + 12 + int.from_bytes(element[8:12], "little")


def _header(path: Path) -> dict[str, str]:
    try:
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=_HEADER)
    except (InvalidDicomError, EOFError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise InputRefused(f"the received file is not readable DICOM ({type(error).__name__})") from None
    names = {
        "study_uid": "StudyInstanceUID", "series_uid": "SeriesInstanceUID", "sop_uid": "SOPInstanceUID",
        "sop_class": "SOPClassUID", "modality": "Modality", "patient_id": "PatientID",
        "patient_name": "PatientName", "study_date": "StudyDate",
    }  # fmt: skip
    values = {field: str(dataset.get(keyword) or "").strip() for field, keyword in names.items()}
    missing = [names[field] for field in ("study_uid", "series_uid", "sop_uid") if not values[field]]
    if missing:
        raise InputRefused(f"the received file has no {' and no '.join(missing)}")
    return values


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_gib(home: Path) -> float:
    """Return how much space is free on the disk of the home folder, in GiB."""
    return shutil.disk_usage(home).free / 2**30
