"""Settings that people change in the pages; they win over the settings file until they are cleared."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from ichnos.service.store import events
from ichnos.service.store.tables import OptionRow


def option(session: Session, name: str, default: Any) -> Any:
    """Return a setting that was changed in the pages, else `default`."""
    row = session.get(OptionRow, name)
    return default if row is None else row.value


def set_option(session: Session, name: str, value: Any, *, now: float, actor: str) -> None:
    """Change a setting; None clears it. The change is an event, with the value."""
    row = session.get(OptionRow, name)
    if value is None:
        if row is not None:
            session.delete(row)
    elif row is None:
        session.add(OptionRow(name=name, value=value))
    else:
        row.value = value
    events.append_event(session, "setting", at=now, actor=actor, details={"name": name, "value": value})


def keep_option(session: Session, name: str, value: Any) -> None:
    """Remember a value of the node's own; no event, because it is no setting that anybody changed."""
    row = session.get(OptionRow, name)
    if row is None:
        session.add(OptionRow(name=name, value=value))
    else:
        row.value = value
