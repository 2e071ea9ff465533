"""The pages of readers: worklist, study, report, priors beside each other, and what they do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response, StreamingResponse
from sqlalchemy.orm import Session

from ichnos.service.installed import installed_models
from ichnos.service.node import Node
from ichnos.service.reception import keep_retrieved
from ichnos.service.remote.archive import ArchiveProblem, fetch_study, studies_of_patient
from ichnos.service.remote.destinations import enabled_destinations
from ichnos.service.store import events
from ichnos.service.store.tables import StudyRow
from ichnos.service.viewer import VIEWER_BASE, viewer_folder
from ichnos.service.web import views
from ichnos.service.web.access import FormVisitor, NodeOfRequest, PageVisitor, ResearcherForm
from ichnos.service.web.api import StudyId, note_seen, queue_reading, send_again
from ichnos.service.web.rendering import fragment, full_page

PAGES = APIRouter(include_in_schema=False)
_LIVE_PAUSE_S = 1.0
Offset = Annotated[int, Query(ge=0, le=2**53, description="rows of the list to leave out before the first")]
# The report is a page of its own with scripts and data inside; it gets no access to the node.
_REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob:;"
    " worker-src blob:; style-src 'unsafe-inline'; img-src data: blob:; font-src data:;"
    " connect-src data: blob:; frame-ancestors 'self'"
)


@PAGES.get("/")
def worklist_page(
    node: NodeOfRequest, visitor: PageVisitor, state: str = "", open_only: bool = False, offset: Offset = 0
) -> HTMLResponse:
    """Show the worklist."""
    return full_page("worklist.html.j2", visitor, here="/", **_worklist(node, state, open_only, offset))


@PAGES.get("/worklist")
def worklist_rows(
    node: NodeOfRequest, visitor: PageVisitor, state: str = "", open_only: bool = False, offset: Offset = 0
) -> HTMLResponse:
    """Return the table of the worklist alone, for the live page."""
    return fragment("worklist_rows.html.j2", **_worklist(node, state, open_only, offset))


def _worklist(node: Node, state: str, open_only: bool, offset: int) -> dict[str, Any]:
    known, size = state if state in views.SHOWN_STATES else "", views.WORKLIST_ROWS
    with node.database.snapshot() as session:
        rows = views.worklist(session, state=known, open_only=open_only, limit=size, offset=offset)
        total = views.worklist_length(session, state=known, open_only=open_only)
    return {
        "rows": rows,
        "state": known,
        "open_only": open_only,
        "states": views.SHOWN_STATES,
        "offset": offset,
        "size": size,
        "total": total,
        "query": urlencode({"state": known, "open_only": str(open_only).lower()}),
    }


@PAGES.get("/studies/{study_id}")
def one_study_page(node: NodeOfRequest, visitor: PageVisitor, study_id: StudyId) -> HTMLResponse:
    """Show one study."""
    with node.database.snapshot() as session:
        values = _study_values(session, node, study_id)
    return full_page("study.html.j2", visitor, here="/", **values)


@PAGES.get("/studies/{study_id}/live")
def study_state(
    node: NodeOfRequest, visitor: PageVisitor, study_id: StudyId, event: int = 0, read: float = 0.0
) -> Response:
    """Return what changes of a study's page: nothing after no event, the whole page after a reading."""
    with node.database.snapshot() as session:
        study = session.get(StudyRow, study_id)
        if study is None or views.last_event(session, study_id) == event:
            return Response(status_code=204)
        if (study.read_at or 0.0) != read:
            return Response(headers={"HX-Refresh": "true"})
        values = _study_values(session, node, study_id)
    return HTMLResponse(full_page("study_live.html.j2", visitor, **values).body)


def _study_values(session: Session, node: Node, study_id: StudyId) -> dict[str, Any]:
    details = views.details_of(session, study_id)
    if details is None:
        raise HTTPException(404, "there is no such study")
    study = session.get_one(StudyRow, study_id)
    models = [model for model in installed_models(session, node.settings) if not model.problem]
    return {
        "study": details,
        "destinations": [there.name for there in enabled_destinations(session, node.settings)],
        "models": models,
        "viewer": f"{VIEWER_BASE}/viewer" if viewer_folder(node.settings.home) else "",
        "asks_archive": node.settings.archive.answers and bool(study.patient_id),
        "event": views.last_event(session, study_id),
        "read": study.read_at or 0.0,
    }


@PAGES.get("/studies/{study_id}/report")
def report_page(node: NodeOfRequest, visitor: PageVisitor, study_id: StudyId) -> FileResponse:
    """Return the report of a study, in a sandbox."""
    with node.database.snapshot() as session:
        study = session.get(StudyRow, study_id)
    file = node.settings.home / study.reading / "report.html" if study and study.reading else Path()
    if not file.is_file():
        raise HTTPException(404, "this study has no report yet")
    return FileResponse(file, media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})


@PAGES.get("/studies/{study_id}/beside/{prior_id}")
def beside_page(
    node: NodeOfRequest, visitor: PageVisitor, study_id: StudyId, prior_id: StudyId
) -> HTMLResponse:
    """Show the readings of two studies of one patient beside each other."""
    with node.database.snapshot() as session:
        details = views.details_of(session, study_id)
        priors = details.priors if details else ()
        at = next((k for k, prior in enumerate(priors) if prior.id == prior_id), None)
        shown = views.details_of(session, prior_id)
    if details is None or at is None or shown is None:
        raise HTTPException(404, "these are not two studies of one patient")
    lines = [(line.label, line.values[0], line.values[at + 1]) for line in details.measures]
    return full_page("beside.html.j2", visitor, here="/", study=details, prior=shown, lines=lines)


@PAGES.get("/studies/{study_id}/archive")
def archive_list(node: NodeOfRequest, visitor: PageVisitor, study_id: StudyId) -> HTMLResponse:
    """Return what the archive has of this patient; asked when the page is open, for it may take seconds."""
    with node.database.snapshot() as session:
        study = session.get(StudyRow, study_id)
        if study is None or not study.patient_id or not node.settings.archive.answers:
            raise HTTPException(404, "no archive can be asked about this study")
        patient_id, here = study.patient_id, {study.uid}
    settings, problem = node.settings, ""
    try:
        there = studies_of_patient(settings.archive, patient_id, settings.receiver.ae_title)
    except ArchiveProblem as error:
        there, problem = [], str(error)
    others = [one for one in there if one.uid not in here]
    return fragment(
        "archive.html.j2", study_id=study_id, others=others, problem=problem, csrf=visitor.csrf,
        may_fetch=visitor.may("researcher"),
    )  # fmt: skip


@PAGES.post("/studies/{study_id}/fetch")
def post_fetch(
    node: NodeOfRequest, visitor: ResearcherForm, study_id: StudyId, uid: Annotated[str, Form(max_length=64)]
) -> RedirectResponse:
    """Have the archive send an earlier study of this patient here."""
    settings = node.settings
    with node.database.snapshot() as session:
        study = session.get(StudyRow, study_id)
    if study is None or not settings.archive.answers:
        raise HTTPException(404, "no archive can be asked about this study")
    known = studies_of_patient(settings.archive, study.patient_id, settings.receiver.ae_title)
    if uid not in {one.uid for one in known}:
        raise HTTPException(404, "the archive has no such study of this patient")
    images = fetch_study(settings.archive, uid, settings.receiver.ae_title, partial(keep_retrieved, node))
    with node.database.transaction() as session:
        details = {"images": images}
        events.append_event(
            session, "fetched", at=node.clock(), actor=visitor.name, study_id=study_id, details=details
        )
    return _back_to(study_id)


@PAGES.post("/studies/{study_id}/acknowledge")
def post_acknowledge(node: NodeOfRequest, visitor: FormVisitor, study_id: StudyId) -> RedirectResponse:
    """Note that the visitor has seen a study."""
    note_seen(node, study_id, visitor.name)
    return _back_to(study_id)


@PAGES.post("/studies/{study_id}/read")
def post_read_again(
    node: NodeOfRequest, visitor: ResearcherForm, study_id: StudyId, model: Annotated[str, Form()] = ""
) -> RedirectResponse:
    """Queue a study for another reading."""
    queue_reading(node, study_id, visitor.name, model=model)
    return _back_to(study_id)


@PAGES.post("/studies/{study_id}/send")
def post_send(
    node: NodeOfRequest, visitor: ResearcherForm, study_id: StudyId, destination: Annotated[str, Form()]
) -> RedirectResponse:
    """Queue the results of a study for a destination."""
    send_again(node, study_id, destination)
    return _back_to(study_id)


def _back_to(study_id: StudyId) -> RedirectResponse:
    return RedirectResponse(f"/studies/{study_id}", status_code=303)


@PAGES.get("/live")
async def live(request: Request, node: NodeOfRequest, visitor: PageVisitor) -> StreamingResponse:
    """Tell the page whenever something has happened (server-sent events)."""

    def newest() -> int:
        with node.database.snapshot() as session:
            return views.last_event(session)

    async def stream() -> AsyncIterator[str]:
        seen = await asyncio.to_thread(newest)
        yield f"event: hello\ndata: {seen}\n\n"
        while not node.stopping.is_set() and not await request.is_disconnected():
            await asyncio.sleep(_LIVE_PAUSE_S)
            latest = await asyncio.to_thread(newest)
            if latest != seen:
                seen = latest
                yield f"event: change\ndata: {seen}\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream")
