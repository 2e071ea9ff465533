"""Databases for the node's tests: SQLite always, PostgreSQL where its programs are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
from ichnos.service.store.database import Database, open_database

_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").is_dir() else []


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a PostgreSQL server of its own on a socket; give the URL of its first database."""
    if not _PROGRAMS:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL is not installed; CI installs it")
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    root = Path("/tmp") / f"ichnos-pg-{uuid.uuid4().hex[:8]}"  # a socket's path must be short
    root.mkdir(mode=0o777)
    root.chmod(0o777)
    data, bin_ = root / "data", _PROGRAMS[-1]
    run = {"check": True, "capture_output": True, "cwd": "/"}
    subprocess.run([*as_user, str(bin_ / "initdb"), "-D", str(data), "-A", "trust", "-U", "ichnos"], **run)  # type: ignore[call-overload]
    options = f"-k {root} -c listen_addresses='' -c fsync=off"
    log = ["-l", str(root / "log")]
    start = [*as_user, str(bin_ / "pg_ctl"), "-D", str(data), "-w", "-o", options, *log, "start"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd="/")
    yield f"postgresql+psycopg://ichnos@/postgres?host={root}"
    subprocess.run([*as_user, str(bin_ / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop"], **run)  # type: ignore[call-overload]
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Give an empty database, once of each kind."""
    if request.param == "sqlite":
        opened = open_database(f"sqlite:///{tmp_path / 'node.db'}")
        yield opened
        opened.close()
        return
    import psycopg

    url = request.getfixturevalue("postgresql")
    name = f"test_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    opened = open_database(url.replace("/postgres?", f"/{name}?"))
    yield opened
    opened.close()
