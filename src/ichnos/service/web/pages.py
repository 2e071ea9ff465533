"""The pages: sign in, worklist, study, report, and the stream that keeps them live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import jinja2
from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response, StreamingResponse
from sqlalchemy import func, select

from ichnos.service import auth
from ichnos.service.node import Node
from ichnos.service.store import studies
from ichnos.service.store.tables import EventRow, StudyRow
from ichnos.service.web import views
from ichnos.service.web.access import COOKIE, FormVisitor, NodeOfRequest, PageVisitor
from ichnos.service.web.api import require_idle, send_again

PAGES = APIRouter(include_in_schema=False)
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("ichnos.service.web"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_LIVE_PAUSE_S = 1.0
# The report is a page of its own with scripts and data inside; it gets no access to the node.
_REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob:;"
    " worker-src blob:; style-src 'unsafe-inline'; img-src data: blob:; font-src data:;"
    " connect-src data: blob:; frame-ancestors 'self'"
)


def _page(template: str, **values: Any) -> HTMLResponse:
    return HTMLResponse(_TEMPLATES.get_template(template).render(**values))


@PAGES.get("/sign-in")
def sign_in_page() -> HTMLResponse:
    """Show the sign-in form."""
    return _page("sign_in.html.j2", message="")


@PAGES.post("/sign-in")
def post_sign_in(
    request: Request,
    node: NodeOfRequest,
    name: Annotated[str, Form(max_length=64)] = "",
    password: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    """Start a session, or say that name or password is wrong."""
    limit, now = request.app.state.sign_in_limit, node.clock()
    keys = (f"name {name}", f"address {request.client.host if request.client else ''}")
    if any(limit.blocks(key, now) for key in keys):
        page = _page("sign_in.html.j2", message="Too many failed attempts. Try again in five minutes.")
        page.status_code = 429
        return page
    hours = node.settings.web.session_hours
    with node.database.transaction() as session:
        secret = auth.sign_in(session, name, password, now=now, hours=hours)
    if secret is None:
        for key in keys:
            limit.note(key, now)
        page = _page("sign_in.html.j2", message="Name or password is wrong.")
        page.status_code = 401
        return page
    answer = RedirectResponse("/", status_code=303)
    secure = node.settings.web.secure_cookies
    answer.set_cookie(
        COOKIE, secret, max_age=int(hours * 3600), httponly=True, samesite="strict", secure=secure
    )
    return answer


@PAGES.post("/sign-out")
def post_sign_out(request: Request, node: NodeOfRequest, visitor: FormVisitor) -> RedirectResponse:
    """End the session."""
    with node.database.transaction() as session:
        auth.sign_out(session, request.cookies.get(COOKIE, ""))
    answer = RedirectResponse("/sign-in", status_code=303)
    answer.delete_cookie(COOKIE)
    return answer


@PAGES.get("/")
def worklist_page(
    node: NodeOfRequest, visitor: PageVisitor, state: str = "", open_only: bool = False
) -> HTMLResponse:
    """Show the worklist."""
    return _page("worklist.html.j2", visitor=visitor, **_worklist(node, state, open_only))


@PAGES.get("/worklist")
def worklist_rows(
    node: NodeOfRequest, visitor: PageVisitor, state: str = "", open_only: bool = False
) -> HTMLResponse:
    """Return the table of the worklist alone, for the live page."""
    return _page("worklist_rows.html.j2", **_worklist(node, state, open_only))


def _worklist(node: Node, state: str, open_only: bool) -> dict[str, Any]:
    with node.database.snapshot() as session:
        rows = views.worklist(
            session, state=state if state in views.SHOWN_STATES else "", open_only=open_only
        )
    return {"rows": rows, "state": state, "open_only": open_only, "states": views.SHOWN_STATES}


@PAGES.get("/studies/{study_id}")
def study_page(node: NodeOfRequest, visitor: PageVisitor, study_id: int) -> HTMLResponse:
    """Show one study."""
    with node.database.snapshot() as session:
        details = views.details_of(session, study_id)
    if details is None:
        raise HTTPException(404, "there is no such study")
    destinations = [destination.name for destination in node.settings.sending.destinations]
    return _page("study.html.j2", visitor=visitor, study=details, destinations=destinations)


@PAGES.get("/studies/{study_id}/report")
def report_page(node: NodeOfRequest, visitor: PageVisitor, study_id: int) -> FileResponse:
    """Return the report of a study, in a sandbox."""
    with node.database.snapshot() as session:
        study = session.get(StudyRow, study_id)
    file = node.settings.home / study.reading / "report.html" if study and study.reading else Path()
    if not file.is_file():
        raise HTTPException(404, "this study has no report yet")
    return FileResponse(file, media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})


@PAGES.post("/studies/{study_id}/acknowledge")
def post_acknowledge(node: NodeOfRequest, visitor: FormVisitor, study_id: int) -> RedirectResponse:
    """Note that the visitor has seen a study."""
    with node.database.transaction() as session:
        study = session.get(StudyRow, study_id)
        if study is None:
            raise HTTPException(404, "there is no such study")
        studies.acknowledge(session, study, now=node.clock(), actor=visitor.name)
    return RedirectResponse(f"/studies/{study_id}", status_code=303)


@PAGES.post("/studies/{study_id}/read")
def post_read_again(node: NodeOfRequest, visitor: FormVisitor, study_id: int) -> RedirectResponse:
    """Queue a study for another reading."""
    _require(visitor, "researcher")
    with node.database.transaction() as session:
        study = session.get(StudyRow, study_id)
        if study is None:
            raise HTTPException(404, "there is no such study")
        require_idle(study)
        attempts = node.settings.reading.attempts
        studies.read_again(session, study, now=node.clock(), actor=visitor.name, attempts_allowed=attempts)
    return RedirectResponse(f"/studies/{study_id}", status_code=303)


@PAGES.post("/studies/{study_id}/send")
def post_send(
    node: NodeOfRequest, visitor: FormVisitor, study_id: int, destination: Annotated[str, Form()]
) -> RedirectResponse:
    """Queue the results of a study for a destination."""
    _require(visitor, "researcher")
    send_again(node, study_id, destination)
    return RedirectResponse(f"/studies/{study_id}", status_code=303)


def _require(visitor: auth.Visitor, role: auth.Role) -> None:
    if not visitor.may(role):
        raise HTTPException(403, f"this needs the role {role}")


@PAGES.get("/live")
async def live(request: Request, node: NodeOfRequest, visitor: PageVisitor) -> StreamingResponse:
    """Tell the page whenever something has happened (server-sent events)."""

    def last_event() -> int:
        with node.database.snapshot() as session:
            return int(session.execute(select(func.max(EventRow.id))).scalar() or 0)

    async def stream() -> AsyncIterator[str]:
        seen = await asyncio.to_thread(last_event)
        yield f"event: hello\ndata: {seen}\n\n"
        while not node.stopping.is_set() and not await request.is_disconnected():
            await asyncio.sleep(_LIVE_PAUSE_S)
            latest = await asyncio.to_thread(last_event)
            if latest != seen:
                seen = latest
                yield f"event: change\ndata: {seen}\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream")
