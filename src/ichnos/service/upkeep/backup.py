"""Backup and restore: every table as lines of JSON and every file of the node, checked by hash and chain.

The format does not depend on the database, so that a node can move from SQLite to PostgreSQL.
"""

from __future__ import annotations

import filecmp
import gzip
import hashlib
import json
import shutil
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Table, func, insert, select, text
from sqlalchemy.orm import Session

import ichnos
from ichnos.errors import InputRefused, UsageError
from ichnos.files import atomic_file
from ichnos.service.installed import missing_model
from ichnos.service.node import Node
from ichnos.service.store import events
from ichnos.service.store.images import content_digest
from ichnos.service.store.tables import InstanceRow, NodeTables, StudyRow

_TABLES, _MANIFEST, _MODELS = "tables", "backup.json", "models"
_ROWS_AT_ONCE = 500


class BackupManifest(BaseModel):
    """What a backup holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    made_at: float
    rows: dict[str, int]
    hashes: dict[str, str]  # SHA-256 of each table's file
    files: int


@dataclass(frozen=True)
class RestoreCheck:
    """What a restored node found when it looked at itself."""

    studies: int
    images: int
    missing: tuple[str, ...]  # files that the tables name and the disk lacks
    damaged: tuple[str, ...]  # images whose bytes are not what was received
    events: int
    chain_whole: bool

    @property
    def whole(self) -> bool:
        """Tell whether nothing is missing or changed.

        >>> RestoreCheck(1, 3, (), (), 7, True).whole, RestoreCheck(1, 3, ("a",), (), 7, True).whole
        (True, False)
        """
        return self.chain_whole and not self.missing and not self.damaged


def back_up(node: Node, folder: Path) -> BackupManifest:
    """Write a backup, or bring an older one in this folder up to date.

    Images and readings never change, so they stay; those that no table names any more are removed.
    """
    if folder.resolve() == node.settings.home.resolve():
        raise UsageError(f"{folder} is the home of the node; give another folder")
    before = (folder / _MANIFEST).is_file()
    tables = folder / _TABLES
    tables.mkdir(parents=True, exist_ok=True)
    with node.database.snapshot() as session:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        _refuse_another_node(session, folder)
        rows = {table.name: _dump(session, table, tables) for table in NodeTables.metadata.sorted_tables}
        files = sorted(_files_of(session, node.settings.home))
        named = _named(session)
    copied = sum(_copy(name, node.settings.home, folder) for name in files)
    manifest = BackupManifest(
        version=ichnos.__version__,
        made_at=node.clock(),
        rows=rows,
        hashes={name: _sha256(_file_of(tables, name)) for name in rows},
        files=copied,
    )
    with atomic_file(folder / _MANIFEST) as temporary:
        temporary.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if before:
        _remove_purged(folder, named)
    return manifest


def _refuse_another_node(session: Session, folder: Path) -> None:
    """Refuse to replace a backup with studies by one of a node without: a purged study leaves a row."""
    before = _manifest(folder).rows.get(StudyRow.__tablename__, 0) if (folder / _MANIFEST).is_file() else 0
    if before and not session.execute(select(func.count()).select_from(StudyRow)).scalar_one():
        raise UsageError(
            f"{folder} is the backup of a node with {before} studies, and this node has none; give another"
            " folder"
        )


def restore(node: Node, folder: Path) -> RestoreCheck:
    """Fill an empty node from a backup, and check it."""
    manifest = _manifest(folder)
    with node.database.transaction() as session:
        if session.execute(select(func.count()).select_from(StudyRow)).scalar_one():
            raise UsageError("this node already has studies; restore into an empty database and home folder")
        for table in NodeTables.metadata.sorted_tables:
            if table.name in manifest.rows:
                _load(session, table, folder / _TABLES, manifest)
        files = sorted(_files_of(session, folder))
    for name in files:
        _copy(name, folder, node.settings.home)
    return check_node(node)


def check_node(node: Node) -> RestoreCheck:
    """Compare tables with files, byte for byte, and follow the event chain."""
    home = node.settings.home
    with node.database.snapshot() as session:
        images = session.execute(select(InstanceRow)).scalars().all()
        readings = session.execute(select(StudyRow.reading).where(StudyRow.reading != "")).scalars().all()
        studies = session.execute(select(func.count()).where(StudyRow.state != "purged")).scalar_one()
        chain = events.check_chain(session)
        model = missing_model(session, node.settings)
    missing = [image.path for image in images if not (home / image.path).is_file()]
    missing += [reading for reading in readings if not (home / reading / "reading.json").is_file()]
    missing += [f"models/{model}"] if model else []
    damaged = [
        image.path
        for image in images
        if image.path not in missing and content_digest(home / image.path) != image.sha256
    ]
    return RestoreCheck(studies, len(images), tuple(missing), tuple(damaged), chain.events, chain.whole)


def _dump(session: Session, table: Table, folder: Path) -> int:
    count = 0
    with (
        atomic_file(_file_of(folder, table.name)) as temporary,
        gzip.GzipFile(temporary, "wb", mtime=0) as file,
    ):
        for row in session.execute(select(table).order_by(*table.primary_key.columns)).mappings():
            file.write(json.dumps(dict(row), separators=(",", ":")).encode() + b"\n")
            count += 1
    return count


def _load(session: Session, table: Table, folder: Path, manifest: BackupManifest) -> None:
    file = _file_of(folder, table.name)
    if not file.is_file() or _sha256(file) != manifest.hashes[table.name]:
        raise InputRefused(f"table {table.name} of the backup is missing or damaged; take another backup")
    for rows in _batches(file):
        session.execute(insert(table), rows)
    if session.get_bind().dialect.name == "postgresql" and "id" in table.columns:
        # Rows came with their numbers; new ones go on after the greatest.
        session.execute(
            text(
                f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'),"
                f" COALESCE((SELECT MAX(id) FROM {table.name}), 0) + 1, false)"
            )
        )


def _batches(file: Path) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            rows.append(json.loads(line))
            if len(rows) == _ROWS_AT_ONCE:
                yield rows
                rows = []
    if rows:
        yield rows


def _files_of(session: Session, home: Path) -> Iterator[str]:
    """Give the files below a home or a backup that the tables name, and those of the models."""
    yield from set(session.execute(select(InstanceRow.path)).scalars())
    readings = session.execute(select(StudyRow.reading).where(StudyRow.reading != "")).scalars()
    for part in (*readings, _MODELS):
        for file in (home / part).rglob("*"):
            if file.is_file():
                yield str(file.relative_to(home))


def _named(session: Session) -> frozenset[str]:
    """Return the images and the folders of readings that the tables name."""
    paths = session.execute(select(InstanceRow.path)).scalars()
    return frozenset([*paths, *session.execute(select(StudyRow.reading)).scalars()])


def _remove_purged(folder: Path, named: Container[str]) -> None:
    """Remove from a backup the images and readings of studies that the node has removed since."""
    for path in [*folder.glob("images/??/*.dcm"), *folder.glob("readings/*")]:
        if str(path.relative_to(folder)) in named:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _copy(name: str, home: Path, folder: Path) -> bool:
    """Copy a file unless it is there; False when the source has been purged meanwhile."""
    source, target = home / name, folder / name
    changes = name.startswith(f"{_MODELS}/")  # a model may be replaced by another of the same size
    try:
        if target.is_file() and _same(source, target, whole=changes):
            return True
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as temporary:
            shutil.copyfile(source, temporary)
    except FileNotFoundError:
        return False
    return True


def _same(source: Path, target: Path, *, whole: bool) -> bool:
    same_size = source.stat().st_size == target.stat().st_size
    return same_size and (not whole or filecmp.cmp(source, target, shallow=False))


def _manifest(folder: Path) -> BackupManifest:
    try:
        return BackupManifest.model_validate_json((folder / _MANIFEST).read_bytes())
    except (OSError, ValueError):
        raise InputRefused(
            f"{folder} holds no readable {_MANIFEST}; give a folder that `backup` wrote"
        ) from None


def _file_of(folder: Path, table: str) -> Path:
    return folder / f"{table}.jsonl.gz"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
