"""The REST API, version 1: the worklist, studies, actions on them. Described by /openapi.json."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import FileResponse

from ichnos.service.node import Node
from ichnos.service.store import studies
from ichnos.service.store.tables import StudyRow
from ichnos.service.web import views
from ichnos.service.web.access import NodeOfRequest, Reader, Researcher

API = APIRouter()


@API.get("/studies")
def list_studies(
    node: NodeOfRequest,
    visitor: Reader,
    state: Annotated[str, Query(pattern="^[a-z]*$", max_length=16)] = "",
    open_only: bool = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> list[dict[str, Any]]:
    """Return the worklist, the most urgent study first."""
    with node.database.snapshot() as session:
        return [asdict(row) for row in views.worklist(session, state=state, open_only=open_only, limit=limit)]


@API.get("/studies/{study_id}")
def show_study(node: NodeOfRequest, visitor: Reader, study_id: int) -> dict[str, Any]:
    """Return one study: state, measures, deliveries, timeline."""
    with node.database.snapshot() as session:
        details = views.details_of(session, study_id)
    if details is None:
        raise HTTPException(404, "there is no such study")
    return details.as_dict()


@API.get("/studies/{study_id}/reading.json")
def show_reading(node: NodeOfRequest, visitor: Reader, study_id: int) -> FileResponse:
    """Return the whole record of the reading."""
    with node.database.snapshot() as session:
        study = _study(session.get(StudyRow, study_id))
    file = node.settings.home / study.reading / "reading.json"
    if not study.reading or not file.is_file():
        raise HTTPException(404, "this study has no reading yet")
    return FileResponse(file, media_type="application/json")


@API.post("/studies/{study_id}/acknowledge")
def acknowledge_study(node: NodeOfRequest, visitor: Reader, study_id: int) -> dict[str, str]:
    """Note that the caller has seen a study."""
    with node.database.transaction() as session:
        study = _study(session.get(StudyRow, study_id))
        studies.acknowledge(session, study, now=node.clock(), actor=visitor.name)
    return {"acknowledged_by": visitor.name}


@API.post("/studies/{study_id}/read")
def read_study_again(node: NodeOfRequest, visitor: Researcher, study_id: int) -> dict[str, str]:
    """Queue a study for another reading."""
    with node.database.transaction() as session:
        study = _study(session.get(StudyRow, study_id))
        require_idle(study)
        attempts = node.settings.reading.attempts
        studies.read_again(session, study, now=node.clock(), actor=visitor.name, attempts_allowed=attempts)
    return {"state": "queued"}


@API.post("/studies/{study_id}/send/{destination}")
def send_study_again(
    node: NodeOfRequest, visitor: Researcher, study_id: int, destination: str
) -> dict[str, str]:
    """Queue the results of a study for a destination."""
    send_again(node, study_id, destination)
    return {"state": "waiting"}


def send_again(node: Node, study_id: int, destination: str) -> None:
    """Queue a delivery, or answer 404 or 409 with the reason."""
    if node.settings.destination(destination) is None:
        raise HTTPException(404, "there is no such destination")
    with node.database.transaction() as session:
        study = _study(session.get(StudyRow, study_id))
        if study.state != "ready":
            raise HTTPException(409, f"this study is {study.state}; only a study that is ready can be sent")
        attempts = node.settings.sending.attempts
        studies.deliver(session, study, destination, now=node.clock(), attempts_allowed=attempts)


def require_idle(study: StudyRow) -> None:
    """Answer 409 for a study that waits to be read, or is being read."""
    if study.state not in ("ready", "refused", "failed"):
        raise HTTPException(409, f"this study is {study.state}; wait until it has been read")


def _study(study: StudyRow | None) -> StudyRow:
    if study is None:
        raise HTTPException(404, "there is no such study")
    return study
