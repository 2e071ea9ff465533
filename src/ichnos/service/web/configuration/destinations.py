"""The page of destinations: add, test, switch, remove."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import ValidationError

from ichnos.errors import IchnosError, UsageError
from ichnos.service.accounts.auth import Visitor
from ichnos.service.node import Node
from ichnos.service.remote import destinations
from ichnos.service.settings import Destination
from ichnos.service.web.access import AdminForm, AdminPage, NodeOfRequest
from ichnos.service.web.api_configuration import echo_problem, switch
from ichnos.service.web.rendering import full_page

DESTINATIONS = APIRouter(prefix="/destinations", include_in_schema=False)


@DESTINATIONS.get("")
def destinations_page(node: NodeOfRequest, visitor: AdminPage) -> HTMLResponse:
    """Show every destination and a form for a new one."""
    return _page(node, visitor)


@DESTINATIONS.post("")
def post_destination_form(
    node: NodeOfRequest,
    visitor: AdminForm,
    name: Annotated[str, Form(max_length=64)],
    kind: Annotated[str, Form()] = "dicom",
    ae_title: Annotated[str, Form()] = "",
    host: Annotated[str, Form()] = "",
    port: Annotated[str, Form()] = "",
    url: Annotated[str, Form()] = "",
    commitment: Annotated[bool, Form()] = False,
) -> Response:
    """Add a destination."""
    given: dict[str, object] = {
        "name": name.strip(),
        "kind": kind,
        "ae_title": ae_title.strip(),
        "host": host.strip(),
    }
    given |= {"url": url.strip(), "commitment": commitment} | ({"port": port} if port.strip() else {})
    try:
        destination = _checked(given)
        with node.database.transaction() as session:
            destinations.add_destination(
                session, node.settings, destination, now=node.clock(), actor=visitor.name
            )
    except IchnosError as problem:
        return _page(node, visitor, problem=str(problem))
    return RedirectResponse("/destinations", status_code=303)


@DESTINATIONS.post("/test")
def post_test_form(node: NodeOfRequest, visitor: AdminForm, name: Annotated[str, Form()]) -> HTMLResponse:
    """Ask a destination whether it answers."""
    problem = echo_problem(node, name)
    if problem:
        return _page(node, visitor, problem=f"{name}: {problem}.")
    return _page(node, visitor, success=f"{name} answers.")


@DESTINATIONS.post("/switch")
def post_destination_switch(
    node: NodeOfRequest, visitor: AdminForm, name: Annotated[str, Form()], enabled: Annotated[bool, Form()]
) -> RedirectResponse:
    """Switch a destination on or off."""
    switch(node, name, visitor.name, enabled=enabled)
    return RedirectResponse("/destinations", status_code=303)


@DESTINATIONS.post("/remove")
def post_destination_removal(
    node: NodeOfRequest, visitor: AdminForm, name: Annotated[str, Form()]
) -> RedirectResponse:
    """Remove a destination that was added here."""
    with node.database.transaction() as session:
        destinations.remove_destination(session, node.settings, name, now=node.clock(), actor=visitor.name)
    return RedirectResponse("/destinations", status_code=303)


def _checked(given: dict[str, object]) -> Destination:
    try:
        return Destination.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{where}: {said}" if where else said) from None


def _page(node: Node, visitor: Visitor, *, problem: str = "", success: str = "") -> HTMLResponse:
    with node.database.snapshot() as session:
        known = destinations.shown_destinations(session, node.settings)
    return full_page(
        "destinations.html.j2", visitor, here="/destinations", status=400 if problem else 200,
        known=known, problem=problem, success=success,
    )  # fmt: skip
