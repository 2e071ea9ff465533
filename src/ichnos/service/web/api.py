"""The REST API, version 1: worklist, studies, results, events and actions. Described by /openapi.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException, Query, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from sqlalchemy.orm import Session

from ichnos.service.installed import folder_of_model
from ichnos.service.node import Node
from ichnos.service.remote.destinations import find_destination
from ichnos.service.store import studies
from ichnos.service.store.tables import StudyRow
from ichnos.service.web import views
from ichnos.service.web.access import Acknowledger, NodeOfRequest, Reader, Researcher
from ichnos.service.web.views import EventLine, StudyDetails, WorklistRow

_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"description": "no session and no valid token"},
    403: {"description": "the role, or the token's scope, does not include this"},
}
_MISSING: dict[int | str, dict[str, Any]] = {
    404: {"description": "there is no such study, file or destination"}
}
_UNREADABLE: dict[int | str, dict[str, Any]] = {
    400: {"description": "the body is not readable, or there is no such model"}
}
_BUSY: dict[int | str, dict[str, Any]] = {409: {"description": "the study's state does not allow this now"}}
_COUNTED: dict[int | str, dict[str, Any]] = {
    200: {"headers": {"X-Total-Count": {"description": "all that match", "schema": {"type": "integer"}}}}
}
API = APIRouter(responses=_REFUSALS)
StudyId = Annotated[int, InPath(ge=1, le=2**53, description="number of the study in this node")]


@dataclass(frozen=True)
class ResultFile:
    """One file of a reading."""

    name: str
    size: int  # bytes


@dataclass(frozen=True)
class ReadRequest:
    """What to read again with."""

    model: str = ""  # name of an installed model; "": the one that reads new studies


@dataclass(frozen=True)
class StateAnswer:
    """What became of a request."""

    state: str


@dataclass(frozen=True)
class Acknowledgement:
    """Who has seen a study."""

    acknowledged_by: str


@API.get("/studies", responses=_COUNTED)
def list_studies(
    node: NodeOfRequest,
    visitor: Reader,
    response: Response,
    state: Annotated[str, Query(pattern="^[a-z]*$", max_length=16)] = "",
    open_only: bool = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = views.WORKLIST_ROWS,
    offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
) -> list[WorklistRow]:
    """Return the worklist: what nobody has acknowledged first, in that the most urgent study first."""
    with node.database.snapshot() as session:
        total = views.worklist_length(session, state=state, open_only=open_only)
        response.headers["X-Total-Count"] = str(total)
        return views.worklist(session, state=state, open_only=open_only, limit=limit, offset=offset)


_ANY_FILE = _MISSING | {
    200: {
        "description": "The file's bytes",
        "content": {"*/*": {"schema": {}}},  # a mask, a DICOM object, a page or the record: JSON is no string
    }
}


@API.get("/studies/{study_id}", responses=_MISSING)
def show_study(node: NodeOfRequest, visitor: Reader, study_id: StudyId) -> StudyDetails:
    """Return one study: state, measures, deliveries, timeline, priors."""
    with node.database.snapshot() as session:
        details = views.details_of(session, study_id)
    if details is None:
        raise HTTPException(404, "there is no such study")
    return details


@API.get("/studies/{study_id}/reading.json", responses=_MISSING)
def show_reading(node: NodeOfRequest, visitor: Reader, study_id: StudyId) -> FileResponse:
    """Return the whole record of the reading."""
    return FileResponse(_reading_folder(node, study_id) / "reading.json", media_type="application/json")


@API.get("/studies/{study_id}/results", responses=_MISSING)
def list_results(node: NodeOfRequest, visitor: Reader, study_id: StudyId) -> list[ResultFile]:
    """Return the files of the reading: record, masks, SEG, SR, report."""
    folder = _reading_folder(node, study_id)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [ResultFile(file.relative_to(folder).as_posix(), file.stat().st_size) for file in files]


@API.get("/studies/{study_id}/results/{name:path}", response_class=FileResponse, responses=_ANY_FILE)
def fetch_result(node: NodeOfRequest, visitor: Reader, study_id: StudyId, name: str) -> FileResponse:
    """Return one file of the reading."""
    folder = _reading_folder(node, study_id).resolve()
    known = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    if name not in known:  # only names that the list gives: nothing outside the folder can be asked for
        raise HTTPException(404, "this reading has no such file")
    return FileResponse(known[name], filename=known[name].name)


@API.get("/events")
def list_events(
    node: NodeOfRequest,
    visitor: Reader,
    after: Annotated[int, Query(ge=0, le=2**53, description="number of the last event you know")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> list[EventLine]:
    """Return events in order, so that a caller can follow the node without missing one."""
    with node.database.snapshot() as session:
        return views.event_lines(session, after=after, limit=limit)


@API.post("/studies/{study_id}/acknowledge", responses=_MISSING)
def acknowledge_study(node: NodeOfRequest, visitor: Acknowledger, study_id: StudyId) -> Acknowledgement:
    """Note that the caller has seen a study."""
    note_seen(node, study_id, visitor.name)
    return Acknowledgement(visitor.name)


@API.post("/studies/{study_id}/read", responses=_MISSING | _BUSY | _UNREADABLE)
def read_study_again(
    node: NodeOfRequest,
    visitor: Researcher,
    study_id: StudyId,
    request: Annotated[ReadRequest | None, Body()] = None,
) -> StateAnswer:
    """Queue a study for another reading."""
    queue_reading(node, study_id, visitor.name, model=request.model if request else "")
    return StateAnswer("queued")


@API.post("/studies/{study_id}/send/{destination}", responses=_MISSING | _BUSY)
def send_study_again(
    node: NodeOfRequest, visitor: Researcher, study_id: StudyId, destination: str
) -> StateAnswer:
    """Queue the results of a study for a destination."""
    send_again(node, study_id, destination)
    return StateAnswer("waiting")


def note_seen(node: Node, study_id: int, actor: str) -> None:
    """Note that somebody has seen a study, or answer 404."""
    with node.database.transaction() as session:
        studies.acknowledge(session, _study(session, study_id), now=node.clock(), actor=actor)


def queue_reading(node: Node, study_id: int, actor: str, *, model: str = "") -> None:
    """Queue a study for another reading, or answer 404 or 409 with the reason."""
    attempts = node.settings.reading.attempts
    with node.database.transaction() as session:
        study = _study(session, study_id)
        if study.state not in ("ready", "refused", "failed"):
            raise HTTPException(409, f"this study is {study.state}; wait until it has been read")
        if model:
            folder_of_model(session, node.settings, model)  # says which there are, where this one is none
        studies.read_again(
            session, study, now=node.clock(), actor=actor, attempts_allowed=attempts, model=model
        )


def send_again(node: Node, study_id: int, destination: str) -> None:
    """Queue a delivery, or answer 404 or 409 with the reason."""
    with node.database.transaction() as session:
        if find_destination(session, node.settings, destination) is None:
            raise HTTPException(404, "there is no such destination, or it is disabled")
        study = _study(session, study_id)
        if study.state != "ready":
            raise HTTPException(409, f"this study is {study.state}; only a study that is ready can be sent")
        attempts = node.settings.sending.attempts
        studies.deliver(session, study, destination, now=node.clock(), attempts_allowed=attempts)


def _reading_folder(node: Node, study_id: int) -> Path:
    with node.database.snapshot() as session:
        study = _study(session, study_id)
    folder = node.settings.home / study.reading
    if not study.reading or not (folder / "reading.json").is_file():
        raise HTTPException(404, "this study has no reading yet")
    return folder


def _study(session: Session, study_id: int) -> StudyRow:
    study = session.get(StudyRow, study_id)
    if study is None:
        raise HTTPException(404, "there is no such study")
    return study
