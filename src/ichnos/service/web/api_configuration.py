"""The REST API of what admins change: destinations and models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter

from ichnos.service import installed
from ichnos.service.node import Node
from ichnos.service.remote import destinations
from ichnos.service.remote.archive import echo
from ichnos.service.settings import Destination
from ichnos.service.web.access import Admin, NodeOfRequest, Reader

_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "what was asked for cannot be; `detail` says why"},
    401: {"description": "no session and no valid token"},
    403: {"description": "the role, or the token's scope, does not include this"},
}
CONFIGURATION = APIRouter(responses=_REFUSALS)


@dataclass(frozen=True)
class DestinationLine:
    """A destination, its switch, and where it comes from."""

    destination: Destination
    enabled: bool
    origin: str  # "file" or "pages"


@dataclass(frozen=True)
class EchoAnswer:
    """Whether a destination answers."""

    answers: bool
    problem: str


@dataclass(frozen=True)
class ModelLine:
    """An installed model."""

    name: str
    title: str
    version: str
    targets: tuple[str, ...]
    problem: str
    reads: bool


@CONFIGURATION.get("/destinations")
def list_destinations(node: NodeOfRequest, visitor: Reader) -> list[DestinationLine]:
    """Return the destinations of results."""
    with node.database.snapshot() as session:
        known = destinations.shown_destinations(session, node.settings)
    return [DestinationLine(one.destination, one.enabled, one.origin) for one in known]


@CONFIGURATION.post("/destinations", status_code=201)
def post_destination(node: NodeOfRequest, visitor: Admin, destination: Destination) -> DestinationLine:
    """Add a destination."""
    with node.database.transaction() as session:
        destinations.add_destination(
            session, node.settings, destination, now=node.clock(), actor=visitor.name
        )
    return DestinationLine(destinations.without_password(destination), True, "pages")


@CONFIGURATION.delete("/destinations/{name}", status_code=204)
def delete_destination(node: NodeOfRequest, visitor: Admin, name: str) -> None:
    """Remove a destination that was added by the pages or this API."""
    with node.database.transaction() as session:
        destinations.remove_destination(session, node.settings, name, now=node.clock(), actor=visitor.name)


@CONFIGURATION.post("/destinations/{name}/enable", status_code=204)
def post_enable(node: NodeOfRequest, visitor: Admin, name: str) -> None:
    """Send results there again."""
    switch(node, name, visitor.name, enabled=True)


@CONFIGURATION.post("/destinations/{name}/disable", status_code=204)
def post_disable(node: NodeOfRequest, visitor: Admin, name: str) -> None:
    """Send nothing there until it is enabled again."""
    switch(node, name, visitor.name, enabled=False)


@CONFIGURATION.post("/destinations/{name}/test")
def post_test(node: NodeOfRequest, visitor: Admin, name: str) -> EchoAnswer:
    """Ask a destination whether it answers: C-ECHO, or a QIDO-RS search."""
    problem = echo_problem(node, name)
    return EchoAnswer(not problem, problem)


@CONFIGURATION.get("/models")
def list_models(node: NodeOfRequest, visitor: Reader) -> list[ModelLine]:
    """Return the installed models and which one reads."""
    with node.database.snapshot() as session:
        found = installed.installed_models(session, node.settings)
    return [ModelLine(m.name, m.title, m.version, m.targets, m.problem, m.reads) for m in found]


@CONFIGURATION.put("/models/{name}/reads", status_code=204)
def put_reading_model(node: NodeOfRequest, visitor: Admin, name: str) -> None:
    """Read new studies with this model."""
    with node.database.transaction() as session:
        installed.choose_model(session, node.settings, name, now=node.clock(), actor=visitor.name)


def switch(node: Node, name: str, actor: str, *, enabled: bool) -> None:
    """Switch a destination on or off."""
    with node.database.transaction() as session:
        destinations.switch_destination(
            session, node.settings, name, enabled=enabled, now=node.clock(), actor=actor
        )


def echo_problem(node: Node, name: str) -> str:
    """Return why a destination does not answer; "" where it does."""
    with node.database.snapshot() as session:
        there = destinations.known_destination(session, node.settings, name)
    return echo(there.destination, node.settings.receiver.ae_title)
