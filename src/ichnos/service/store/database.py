"""One way to reach either database: SQLite (write-ahead log, one writer at a time) or PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.orm import Session

from ichnos.errors import UsageError
from ichnos.service.store.schema import migrate

_BUSY_MS = 30_000  # how long a SQLite writer waits for another one


@dataclass(frozen=True, eq=False)
class Database:
    """Opens transactions; a transaction is committed as a whole or not at all."""

    engine: Engine

    @property
    def is_sqlite(self) -> bool:
        """Tell whether this is SQLite, where writers take turns."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[Session]:
        """Give a session; commit at the end, roll back on an error.

        Not `durable`: the commit does not wait for the disk. A killed process loses nothing by it; when the
        machine itself stops, the transaction may be undone, as a whole and never before an earlier one.
        """
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            session.connection(execution_options={"ichnos_durable": durable})
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """Give a session for reading alone: it waits for no writer."""
        with Session(self.engine, expire_on_commit=False) as session:
            session.connection(execution_options={"ichnos_reads": True})
            yield session
            session.expunge_all()  # what was read stays usable
            session.rollback()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def open_database(url: str) -> Database:
    """Open a database by its URL and bring its tables to this version.

    >>> database = open_database("sqlite://")
    >>> database.is_sqlite
    True
    >>> database.close()
    """
    parsed = _parsed(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    if sqlite and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        parsed, pool_pre_ping=not sqlite, hide_parameters=True
    )  # no names of patients in logs
    if sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_immediate if sqlite else _begin_postgresql)
    try:
        with engine.begin() as connection:
            migrate(connection)
    except OperationalError as error:
        engine.dispose()
        shown = parsed.render_as_string(hide_password=True)
        raise UsageError(f"the database {shown} cannot be opened: {error.orig}") from None
    return Database(engine)


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError:
        raise UsageError(
            f"{url!r} is no database URL; give sqlite:///FILE or postgresql+psycopg://…"
        ) from None


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's `begin` event below starts transactions
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={_BUSY_MS}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    # A writer takes the lock first, so that two writers never wait for each other in a circle.
    options = connection.get_execution_options()
    if options.get("ichnos_reads", False):
        connection.exec_driver_sql("BEGIN")
        return
    durable = options.get("ichnos_durable", True)
    connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_postgresql(connection: Any) -> None:
    if not connection.get_execution_options().get("ichnos_durable", True):
        connection.exec_driver_sql("SET LOCAL synchronous_commit TO OFF")
