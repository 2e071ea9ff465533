"""Migrations: tables agree with the code, forwards and back, on both databases."""

from __future__ import annotations

from sqlalchemy import inspect

from ichnos.service.store.database import Database
from ichnos.service.store.schema import EMPTY, differences, migrate, migrate_back


def test_migrated_tables_are_those_of_the_code(database: Database) -> None:
    with database.engine.begin() as connection:
        assert differences(connection) == []


def test_back_to_nothing_and_forwards_again(database: Database) -> None:
    with database.engine.begin() as connection:
        migrate_back(connection, EMPTY)
        assert set(inspect(connection).get_table_names()) <= {"alembic_version"}
        migrate(connection)
        assert differences(connection) == []
