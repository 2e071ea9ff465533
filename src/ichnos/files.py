"""Files that are either whole or not there, whether a process is killed, the disk full or the power cut."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ichnos.errors import UsageError


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; put it in place on the disk at the end, or remove it on an error.

    The temporary name keeps the suffixes, because writers choose the format by them.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, atomic_file(Path(folder) / "table.csv") as temporary:
    ...     _ = temporary.write_text("a,b")
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def lock(file: Path, folder: Path) -> int:
    """Lock a file until the returned handle is closed or the process ends; a refusal names `folder`."""
    import fcntl

    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UsageError(
            f"another run is writing to {folder}; wait for it or give another output folder"
        ) from None
    return handle


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keep other processes out of a working folder; clear what a killed one left half-written there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     _ = (Path(name) / "weights.pt.partial").write_bytes(b"half")
    ...     with sole_writer(Path(name)):
    ...         sorted(path.name for path in Path(name).iterdir())
    ['lock']
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = lock(folder / "lock", folder)
    try:
        remove_partials((*folder.rglob("*.partial"), *folder.rglob(".tmp-*")))
        yield
    finally:
        os.close(handle)


def remove_partials(paths: Iterable[Path]) -> None:
    """Remove the half-written files and folders that a killed process left."""
    for path in tuple(paths):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        if path.is_dir():
            with suppress(OSError):  # some network file systems cannot
                os.fsync(handle)
        else:
            os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Wait until every file below a folder, and every name, is on the disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            sync(Path(root, name))
        sync(Path(root))
