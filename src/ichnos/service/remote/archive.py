"""Ask other systems: does it answer, which studies has it of a patient, send one of them here.

An archive is asked by C-FIND and C-MOVE, or by QIDO-RS and WADO-RS where its settings give a web address.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pynetdicom import AE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from ichnos.errors import IchnosError
from ichnos.service.settings import ArchiveSettings, Destination

_TIMEOUT_S = 10.0
_WEB_ERRORS = (OSError, ValueError, RuntimeError, InvalidDicomError)  # requests' errors are OSErrors
_PENDING = (0xFF00, 0xFF01)  # PS3.4 C.4.1.1.4: a match follows


class ArchiveProblem(IchnosError):
    """Another system does not answer, or not as it should."""


@dataclass(frozen=True)
class ArchivedStudy:
    """A study in the archive."""

    uid: str
    date: str
    modalities: str
    description: str
    images: int | None  # None where the archive does not count


def echo(destination: Destination, ae_title: str) -> str:
    """Return why a destination does not answer; "" where it does."""
    if destination.kind == "stow":
        return _search_problem(destination)
    try:
        with _association(
            destination.host, destination.port, destination.ae_title, ae_title, Verification
        ) as there:
            status = there.send_c_echo()
    except ArchiveProblem as problem:
        return str(problem)
    if not status or status.Status != 0:
        return "it lets us connect, but does not answer C-ECHO"
    return ""


def studies_of_patient(archive: ArchiveSettings, patient_id: str, ae_title: str) -> list[ArchivedStudy]:
    """Return the studies that the archive has of a patient, newest first."""
    if archive.web:
        found = _search(archive.web, PatientID=patient_id)
        return sorted(found, key=lambda study: study.date, reverse=True)
    query = Dataset()
    query.QueryRetrieveLevel, query.PatientID = "STUDY", patient_id
    for keyword in ("StudyInstanceUID", "StudyDate", "ModalitiesInStudy", "StudyDescription"):
        setattr(query, keyword, "")
    query.NumberOfStudyRelatedInstances = ""
    return sorted(_find(archive, query, ae_title), key=lambda study: study.date, reverse=True)


def images_of_study(archive: ArchiveSettings, study_uid: str, ae_title: str) -> int | None:
    """Return how many images the archive has of a study; None where it does not say."""
    if archive.web:
        return next((study.images for study in _search(archive.web, StudyInstanceUID=study_uid)), None)
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", study_uid
    query.NumberOfStudyRelatedInstances = ""
    return next((study.images for study in _find(archive, query, ae_title)), None)


def fetch_study(
    archive: ArchiveSettings, study_uid: str, ae_title: str, keep: Callable[[Dataset], object]
) -> int:
    """Have the archive send a study to our receiver (C-MOVE), or retrieve it and `keep` each image (WADO-RS).

    Return how many images came.
    """
    if archive.web:
        count = 0
        for image in _images(archive.web, study_uid):
            keep(image)
            count += 1
        return count
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", study_uid
    model = StudyRootQueryRetrieveInformationModelMove
    with _association(archive.host, archive.port, archive.ae_title, ae_title, model) as there:
        last = Dataset()
        for status, _ in there.send_c_move(query, ae_title, model):
            last = status or last
    failed = int(last.get("NumberOfFailedSuboperations") or 0)
    if last.get("Status") != 0 or failed:
        raise ArchiveProblem(f"{archive.ae_title} did not send the study; does it know us as {ae_title}?")
    return int(last.get("NumberOfCompletedSuboperations") or 0)


def _find(archive: ArchiveSettings, query: Dataset, ae_title: str) -> list[ArchivedStudy]:
    model = StudyRootQueryRetrieveInformationModelFind
    with _association(archive.host, archive.port, archive.ae_title, ae_title, model) as there:
        answers = [
            match
            for status, match in there.send_c_find(query, model)
            if status and status.Status in _PENDING and match is not None
        ]
    return [_archived(match) for match in answers]


def _archived(match: Dataset) -> ArchivedStudy:
    modalities = match.get("ModalitiesInStudy") or []
    listed = [modalities] if isinstance(modalities, str) else list(modalities)
    count = match.get("NumberOfStudyRelatedInstances")
    return ArchivedStudy(
        uid=str(match.get("StudyInstanceUID") or ""),
        date=str(match.get("StudyDate") or ""),
        modalities=", ".join(str(modality) for modality in listed),
        description=str(match.get("StudyDescription") or ""),
        images=int(count) if count not in (None, "") else None,
    )


def _search(url: str, **wanted: str) -> list[ArchivedStudy]:
    """Return the studies of a QIDO-RS search."""
    fields = ("ModalitiesInStudy", "StudyDescription", "NumberOfStudyRelatedInstances")
    with _web_client(url) as there:
        found = there.search_for_studies(search_filters=wanted, fields=fields, get_remaining=True)
    return [_archived(Dataset.from_json(one)) for one in found]


def _images(url: str, study_uid: str) -> Iterator[Dataset]:
    """Retrieve the images of a study one after the other (WADO-RS)."""
    with _web_client(url) as there:
        yield from there.iter_study(study_uid)


def without_user(url: str) -> str:
    """Return a URL without the user and password that it may hold.

    >>> without_user("https://ann:secret@pacs.example/dicom-web")
    'https://pacs.example/dicom-web'
    """
    return re.sub("//.*@", "//", url)


def kind_of_failure(error: Exception) -> str:
    """Return the status of an answer, else the kind of an error: its text may hold the URL.

    >>> kind_of_failure(ConnectionError("https://ann:secret@pacs.example"))
    'ConnectionError'
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"status {status}" if status else type(error).__name__


@contextmanager
def _web_client(url: str) -> Iterator[Any]:
    from dicomweb_client.api import DICOMwebClient

    try:
        client = DICOMwebClient(url, timeout=_TIMEOUT_S)
        client.set_http_retry_params(retry=False)  # it would wait half a minute; whoever asks tries again
        yield client
    except _WEB_ERRORS as error:
        raise ArchiveProblem(
            f"DICOMweb at {without_user(url)} does not answer as it should ({kind_of_failure(error)})"
        ) from None


@contextmanager
def _association(host: str, port: int, called: str, calling: str, context: Any) -> Iterator[Any]:
    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = _TIMEOUT_S
    entity.add_requested_context(context)
    association = entity.associate(host, port, ae_title=called)
    if not association.is_established:
        raise ArchiveProblem(f"{called} at {host}:{port} does not answer, or does not know us as {calling}")
    try:
        yield association
    finally:
        association.release()


def _search_problem(destination: Destination) -> str:
    try:
        with _web_client(destination.url) as there:
            there.search_for_studies(limit=1)
    except ArchiveProblem as problem:
        return str(problem)
    return ""
