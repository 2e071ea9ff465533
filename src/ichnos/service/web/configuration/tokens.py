"""The page of API tokens: make one with scopes, see it once, revoke it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Form
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from ichnos.errors import IchnosError, UsageError
from ichnos.service.accounts import auth, people
from ichnos.service.accounts.auth import SCOPES, Scope, Visitor
from ichnos.service.node import Node
from ichnos.service.store import events
from ichnos.service.web.access import FormVisitor, NodeOfRequest, PageVisitor
from ichnos.service.web.rendering import full_page

TOKENS = APIRouter(prefix="/tokens", include_in_schema=False)
_LONGEST_DAYS = 730


@TOKENS.get("")
def tokens_page(node: NodeOfRequest, visitor: PageVisitor) -> HTMLResponse:
    """Show the visitor's tokens; to admins those of everybody."""
    return _page(node, visitor)


@TOKENS.post("")
def post_token(
    node: NodeOfRequest,
    visitor: FormVisitor,
    label: Annotated[str, Form(max_length=64)],
    scopes: Annotated[list[str] | None, Form()] = None,
    days: Annotated[int, Form(ge=1, le=_LONGEST_DAYS)] = 90,
) -> Response:
    """Make a token and show its secret, once."""
    now = node.clock()
    try:
        wanted = _permitted(scopes or [], visitor)
        with node.database.transaction() as session:
            user = people.user_called(session, visitor.name)
            secret = auth.issue_token(session, user, label=label.strip(), now=now, days=days, scopes=wanted)
            details = {"name": visitor.name, "change": "token made", "scopes": list(wanted)}
            events.append_event(session, "user", at=now, actor=visitor.name, details=details)
    except IchnosError as problem:
        return _page(node, visitor, problem=str(problem))
    return _page(node, visitor, secret=secret)


@TOKENS.post("/revoke")
def post_revoke(node: NodeOfRequest, visitor: FormVisitor, token: Annotated[int, Form()]) -> RedirectResponse:
    """End a token: one of the visitor's; an admin any."""
    owner = "" if visitor.may("admin") else visitor.name
    with node.database.transaction() as session:
        people.revoke_token(session, token, owner=owner, now=node.clock(), actor=visitor.name)
    return RedirectResponse("/tokens", status_code=303)


def _permitted(given: list[str], visitor: Visitor) -> list[Scope]:
    if "admin" in given and not visitor.may("admin"):
        raise UsageError("only an admin's token may have the scope admin")
    return [scope for scope in SCOPES if scope in given]


def _page(node: Node, visitor: Visitor, *, problem: str = "", secret: str = "") -> HTMLResponse:
    with node.database.snapshot() as session:
        tokens = people.tokens_of(session, "" if visitor.may("admin") else visitor.name)
    offered = {scope: text for scope, text in SCOPES.items() if scope != "admin" or visitor.may("admin")}
    return full_page(
        "tokens.html.j2", visitor, here="/tokens", status=400 if problem else 200,
        tokens=tokens, scopes=offered, problem=problem, secret=secret, now=node.clock(), day=_day,
    )  # fmt: skip


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
