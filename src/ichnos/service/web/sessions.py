"""Sign in and out of the pages."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from ichnos.service import auth
from ichnos.service.node import Node
from ichnos.service.web.access import COOKIE, FormVisitor, NodeOfRequest
from ichnos.service.web.rendering import fragment

SESSIONS = APIRouter(include_in_schema=False)


@SESSIONS.get("/sign-in")
def sign_in_page(node: NodeOfRequest) -> HTMLResponse:
    """Show the sign-in form."""
    return _form(node)


@SESSIONS.post("/sign-in")
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
        return _form(node, "Too many failed attempts. Try again in five minutes.", 429)
    with node.database.transaction() as session:
        secret = auth.sign_in(session, name, password, now=now, hours=node.settings.web.session_hours)
    if secret is None:
        for key in keys:
            limit.note(key, now)
        return _form(node, "Name or password is wrong.", 401)
    answer = RedirectResponse("/", status_code=303)
    keep_session(node, answer, secret)
    return answer


@SESSIONS.post("/sign-out")
def post_sign_out(request: Request, node: NodeOfRequest, visitor: FormVisitor) -> RedirectResponse:
    """End the session."""
    with node.database.transaction() as session:
        auth.sign_out(session, request.cookies.get(COOKIE, ""))
    answer = RedirectResponse("/sign-in", status_code=303)
    answer.delete_cookie(COOKIE)
    return answer


def keep_session(node: Node, answer: Response, secret: str) -> None:
    """Give the browser the secret of its session: for this site alone, out of reach of scripts."""
    web = node.settings.web
    answer.set_cookie(
        COOKIE, secret, max_age=int(web.session_hours * 3600), httponly=True, samesite="strict",
        secure=web.secure_cookies,
    )  # fmt: skip


def _form(node: Node, message: str = "", status: int = 200) -> HTMLResponse:
    answer = fragment("sign_in.html.j2", message=message)
    answer.status_code = status
    return answer
