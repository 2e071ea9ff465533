"""The page of users: add, change role or password, lock out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from ichnos.errors import IchnosError
from ichnos.service.accounts import people
from ichnos.service.accounts.auth import LEAST_PASSWORD, ROLES, Visitor, add_user, role_called
from ichnos.service.node import Node
from ichnos.service.store import events
from ichnos.service.web.access import AdminForm, AdminPage, NodeOfRequest
from ichnos.service.web.rendering import full_page

USERS = APIRouter(prefix="/users", include_in_schema=False)
Name = Annotated[str, Form(max_length=64)]


@USERS.get("")
def users_page(node: NodeOfRequest, visitor: AdminPage) -> HTMLResponse:
    """Show every user and a form for a new one."""
    return _page(node, visitor)


@USERS.post("")
def post_user(
    node: NodeOfRequest,
    visitor: AdminForm,
    name: Name,
    password: Annotated[str, Form(max_length=200)],
    role: Annotated[str, Form()],
) -> Response:
    """Add a user."""
    try:
        with node.database.transaction() as session:
            add_user(session, name.strip(), password, role_called(role))
            details = {"name": name.strip(), "change": f"added as {role}"}
            events.append_event(session, "user", at=node.clock(), actor=visitor.name, details=details)
    except IchnosError as problem:
        return _page(node, visitor, str(problem))
    return _back()


@USERS.post("/role")
def post_role(
    node: NodeOfRequest, visitor: AdminForm, name: Name, role: Annotated[str, Form()]
) -> RedirectResponse:
    """Give a user another role."""
    with node.database.transaction() as session:
        people.change_role(session, name, role_called(role), now=node.clock(), actor=visitor.name)
    return _back()


@USERS.post("/switch")
def post_user_switch(
    node: NodeOfRequest, visitor: AdminForm, name: Name, active: Annotated[bool, Form()]
) -> RedirectResponse:
    """Lock a user out, or let them in again."""
    with node.database.transaction() as session:
        people.switch_user(session, name, active=active, now=node.clock(), actor=visitor.name)
    return _back()


@USERS.post("/password")
def post_password(
    node: NodeOfRequest, visitor: AdminForm, name: Name, password: Annotated[str, Form(max_length=200)]
) -> RedirectResponse:
    """Give a user another password."""
    with node.database.transaction() as session:
        people.change_password(session, name, password, now=node.clock(), actor=visitor.name)
    return _back()


def _page(node: Node, visitor: Visitor, problem: str = "") -> HTMLResponse:
    with node.database.snapshot() as session:
        users = people.all_users(session)
    return full_page(
        "users.html.j2", visitor, here="/users", status=400 if problem else 200,
        users=users, roles=ROLES, least=LEAST_PASSWORD, problem=problem,
    )  # fmt: skip


def _back() -> RedirectResponse:
    return RedirectResponse("/users", status_code=303)
