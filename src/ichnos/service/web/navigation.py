"""The entries of the navigation, in order; a room that brings a page adds one line here."""

from __future__ import annotations

from dataclasses import dataclass

from ichnos.service.accounts.auth import Role, Visitor


@dataclass(frozen=True)
class Entry:
    """One link of the navigation and the least role that sees it."""

    path: str
    title: str
    role: Role = "reader"


ENTRIES = (
    Entry("/", "Worklist"),
    Entry("/evidence", "Evidence"),
    Entry("/exports", "Exports", "researcher"),
    Entry("/destinations", "Destinations", "admin"),
    Entry("/models", "Models", "admin"),
    Entry("/retention", "Retention", "admin"),
    Entry("/users", "Users", "admin"),
    Entry("/tokens", "Tokens"),
)


def entries_for(visitor: Visitor) -> list[Entry]:
    """Return what a visitor may open.

    >>> [entry.title for entry in entries_for(Visitor("ann", "reader"))]
    ['Worklist', ...'Tokens'...]
    """
    return [entry for entry in ENTRIES if visitor.may(entry.role)]
