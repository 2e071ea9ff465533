"""Bring a database to the version of the tables that this code knows, or back to an older one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from ichnos.service.store.tables import NodeTables

LATEST, EMPTY = "head", "base"
_SCRIPTS = Path(__file__).parent / "migrations"
_LOCK = 0x1C4206  # PostgreSQL advisory lock: one process migrates, the others wait


def migrate(connection: Connection, version: str = LATEST) -> None:
    """Migrate forwards to a version; what is up to date already stays untouched."""
    _lock(connection)
    command.upgrade(_config(connection), version)


def migrate_back(connection: Connection, version: str) -> None:
    """Migrate back to an older version, `base` for no tables at all."""
    _lock(connection)
    command.downgrade(_config(connection), version)


def differences(connection: Connection) -> list[Any]:
    """Return how the database's tables differ from those of this code; empty when they agree."""
    return list(compare_metadata(MigrationContext.configure(connection), NodeTables.metadata))


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.attributes["connection"] = connection
    return config
