"""From a request to a visitor: the session cookie or an API token, and the CSRF token of forms."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Form, Header, HTTPException, Request

from ichnos.service.accounts.auth import Role, Scope, Visitor, visitor_of
from ichnos.service.node import Node

COOKIE = "ichnos_session"


class SignInNeeded(Exception):
    """A page was asked for by somebody who is not signed in."""


def node_of(request: Request) -> Node:
    """Return the node that this application belongs to."""
    node = request.app.state.node
    assert isinstance(node, Node)
    return node


def current_visitor(request: Request) -> Visitor | None:
    """Return who asks: by session cookie, or by `Authorization: Bearer TOKEN`."""
    header = request.headers.get("Authorization", "")
    secret = (
        header.removeprefix("Bearer ") if header.startswith("Bearer ") else request.cookies.get(COOKIE, "")
    )
    if not secret:
        return None
    node = node_of(request)
    with node.database.snapshot() as session:
        return visitor_of(session, secret, now=node.clock())


def page_visitor(request: Request) -> Visitor:
    """Return who asks for a page; anybody else is led to the sign-in page."""
    visitor = current_visitor(request)
    if visitor is None or not visitor.csrf:  # API tokens open the API alone
        raise SignInNeeded
    return visitor


def require_role(role: Role, scope: Scope) -> Callable[[Request], Visitor]:
    """Return a check for API routes: 401 for strangers, 403 without the role, or the scope of the token."""

    def check(request: Request) -> Visitor:
        visitor = current_visitor(request)
        if visitor is None:
            raise HTTPException(401, "sign in, or send an API token as Authorization: Bearer …")
        if not visitor.may(role):
            raise HTTPException(403, f"this needs the role {role}")
        if scope not in visitor.scopes:
            raise HTTPException(403, f"this token lacks the scope {scope}")
        if request.method != "GET" and visitor.csrf:
            _require_csrf(visitor, request.headers.get("X-CSRF-Token", ""))
        return visitor

    return check


def require_form_role(role: Role) -> Callable[..., Visitor]:
    """Return a check for forms: signed in, the CSRF token of the session, and the role."""

    def check(visitor: Annotated[Visitor, Depends(form_visitor)]) -> Visitor:
        return _with_role(visitor, role)

    return check


def admin_page_visitor(request: Request) -> Visitor:
    """Return the admin who asks for a page."""
    return _with_role(page_visitor(request), "admin")


def researcher_page_visitor(request: Request) -> Visitor:
    """Return the researcher who asks for a page."""
    return _with_role(page_visitor(request), "researcher")


def _with_role(visitor: Visitor, role: Role) -> Visitor:
    if not visitor.may(role):
        raise HTTPException(403, f"this needs the role {role}")
    return visitor


def form_visitor(
    request: Request, csrf: Annotated[str, Form()] = "", x_csrf_token: Annotated[str, Header()] = ""
) -> Visitor:
    """Return who sent a form; its CSRF token must be that of the session."""
    visitor = page_visitor(request)
    _require_csrf(visitor, csrf or x_csrf_token)
    return visitor


def _require_csrf(visitor: Visitor, given: str) -> None:
    if not hmac.compare_digest(visitor.csrf.encode(), given.encode()):
        raise HTTPException(403, "the form is too old; load the page again")


PageVisitor = Annotated[Visitor, Depends(page_visitor)]
FormVisitor = Annotated[Visitor, Depends(form_visitor)]
ResearcherForm = Annotated[Visitor, Depends(require_form_role("researcher"))]
ResearcherPage = Annotated[Visitor, Depends(researcher_page_visitor)]
AdminPage = Annotated[Visitor, Depends(admin_page_visitor)]
AdminForm = Annotated[Visitor, Depends(require_form_role("admin"))]
NodeOfRequest = Annotated[Node, Depends(node_of)]
Reader = Annotated[Visitor, Depends(require_role("reader", "read"))]
Acknowledger = Annotated[Visitor, Depends(require_role("reader", "act"))]
Researcher = Annotated[Visitor, Depends(require_role("researcher", "act"))]
Admin = Annotated[Visitor, Depends(require_role("admin", "admin"))]
ImageReader = Annotated[Visitor, Depends(require_role("reader", "images"))]
ImageWriter = Annotated[Visitor, Depends(require_role("researcher", "images"))]
