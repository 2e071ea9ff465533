"""Destinations: those of the settings file and those added in the pages, each with a switch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from ichnos.errors import UsageError
from ichnos.service.remote.archive import without_user
from ichnos.service.settings import Destination, NodeSettings
from ichnos.service.store import events
from ichnos.service.store.tables import DestinationRow


@dataclass(frozen=True)
class KnownDestination:
    """A destination, where it comes from and whether results are sent there by themselves."""

    destination: Destination
    enabled: bool
    origin: Literal["file", "pages"]


def known_destinations(session: Session, settings: NodeSettings) -> list[KnownDestination]:
    """Return every destination; of two with one name the settings file's."""
    rows = {
        row.name: row for row in session.execute(select(DestinationRow).order_by(DestinationRow.id)).scalars()
    }
    listed = settings.sending.destinations
    known = [KnownDestination(d, d.name not in rows or rows[d.name].enabled, "file") for d in listed]
    names = {destination.name for destination in listed}
    return known + [
        KnownDestination(Destination.model_validate(row.settings), row.enabled, "pages")
        for row in rows.values()
        if row.settings and row.name not in names
    ]


def shown_destinations(session: Session, settings: NodeSettings) -> list[KnownDestination]:
    """Return every destination as people see it: no password in its URL."""
    known = known_destinations(session, settings)
    return [replace(one, destination=without_password(one.destination)) for one in known]


def without_password(destination: Destination) -> Destination:
    """Return a destination whose URL holds neither user nor password."""
    return destination.model_copy(update={"url": without_user(destination.url)})


def known_destination(session: Session, settings: NodeSettings, name: str) -> KnownDestination:
    """Return a destination by its name, or say that there is none."""
    for known in known_destinations(session, settings):
        if known.destination.name == name:
            return known
    raise UsageError(f"there is no destination called {name}")


def enabled_destinations(session: Session, settings: NodeSettings) -> list[Destination]:
    """Return the destinations that are switched on."""
    return [known.destination for known in known_destinations(session, settings) if known.enabled]


def find_destination(session: Session, settings: NodeSettings, name: str) -> Destination | None:
    """Return a destination that is switched on; None when it is off, or gone."""
    return next((one for one in enabled_destinations(session, settings) if one.name == name), None)


def add_destination(
    session: Session, settings: NodeSettings, destination: Destination, *, now: float, actor: str
) -> None:
    """Add a destination; its name must be free."""
    if any(known.destination.name == destination.name for known in known_destinations(session, settings)):
        raise UsageError(f"there is already a destination called {destination.name}; choose another name")
    row = session.execute(select(DestinationRow).where(DestinationRow.name == destination.name)).scalar()
    if row is None:
        row = DestinationRow(name=destination.name)
        session.add(row)
    row.settings, row.enabled = destination.model_dump(mode="json"), True
    _note(session, destination.name, "added", now, actor)


def switch_destination(
    session: Session, settings: NodeSettings, name: str, *, enabled: bool, now: float, actor: str
) -> None:
    """Switch a destination on or off; what waits for it is sent once it is on again, or sent anew."""
    known_destination(session, settings, name)
    row = session.execute(select(DestinationRow).where(DestinationRow.name == name)).scalar()
    if row is None:
        row = DestinationRow(name=name, settings={})
        session.add(row)
    row.enabled = enabled
    _note(session, name, "enabled" if enabled else "disabled", now, actor)


def remove_destination(
    session: Session, settings: NodeSettings, name: str, *, now: float, actor: str
) -> None:
    """Remove a destination that was added in the pages."""
    if settings.destination(name) is not None:
        raise UsageError(f"{name} is listed in the settings file; remove it there, or disable it here")
    row = session.execute(select(DestinationRow).where(DestinationRow.name == name)).scalar()
    if row is None:
        raise UsageError(f"there is no destination called {name}")
    session.delete(row)
    _note(session, name, "removed", now, actor)


def _note(session: Session, name: str, change: str, now: float, actor: str) -> None:
    details = {"name": name, "change": change}
    events.append_event(session, "destination", at=now, actor=actor, details=details)
