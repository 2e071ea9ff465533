"""From a request to a visitor: the session cookie or an API token, and the CSRF token of forms."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Form, Header, HTTPException, Request

from ichnos.service.auth import Role, Visitor, visitor_of
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
    if visitor is None:
        raise SignInNeeded
    return visitor


def require_role(role: Role) -> Callable[[Request], Visitor]:
    """Return a check for API routes: 401 for strangers, 403 for those whose role does not include `role`."""

    def check(request: Request) -> Visitor:
        visitor = current_visitor(request)
        if visitor is None:
            raise HTTPException(401, "sign in, or send an API token as Authorization: Bearer …")
        if not visitor.may(role):
            raise HTTPException(403, f"this needs the role {role}")
        if request.method != "GET" and visitor.csrf:
            _require_csrf(visitor, request.headers.get("X-CSRF-Token", ""))
        return visitor

    return check


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
NodeOfRequest = Annotated[Node, Depends(node_of)]
Reader = Annotated[Visitor, Depends(require_role("reader"))]
Researcher = Annotated[Visitor, Depends(require_role("researcher"))]
