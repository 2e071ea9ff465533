"""Ask other systems: does it answer, which studies has it of a patient, send one of them here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from ichnos.errors import IchnosError
from ichnos.service.settings import ArchiveSettings, Destination

_TIMEOUT_S = 10.0
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
    """Return the studies that the archive has of a patient, newest first (C-FIND at study level)."""
    query = Dataset()
    query.QueryRetrieveLevel, query.PatientID = "STUDY", patient_id
    for keyword in ("StudyInstanceUID", "StudyDate", "ModalitiesInStudy", "StudyDescription"):
        setattr(query, keyword, "")
    query.NumberOfStudyRelatedInstances = ""
    return sorted(_find(archive, query, ae_title), key=lambda study: study.date, reverse=True)


def images_of_study(archive: ArchiveSettings, study_uid: str, ae_title: str) -> int | None:
    """Return how many images the archive has of a study; None where it does not say."""
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", study_uid
    query.NumberOfStudyRelatedInstances = ""
    return next((study.images for study in _find(archive, query, ae_title)), None)


def fetch_study(archive: ArchiveSettings, study_uid: str, ae_title: str) -> int:
    """Have the archive send a study to our receiver (C-MOVE); return how many images it sent."""
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
    from dicomweb_client.api import DICOMwebClient

    try:
        DICOMwebClient(destination.url).search_for_studies(limit=1)
    except (OSError, ValueError, RuntimeError) as error:  # requests' errors are OSErrors
        return f"a search at {destination.url} failed ({type(error).__name__})"
    return ""
