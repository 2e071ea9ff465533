"""Files that killed processes left: scratch folders, half-received images, forgotten readings and pairs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import select

from ichnos.service.node import Node
from ichnos.service.partners.tuning import tuning_under_way
from ichnos.service.store.tables import StudyRow, TaskRow

OLD_S = 3600.0  # younger files may belong to somebody who is busy


def sweep(node: Node, *, older_s: float = OLD_S) -> int:
    """Remove what nobody refers to and nobody has touched for a while; return how many files and folders."""
    with node.database.snapshot() as session:
        busy = set(session.execute(select(TaskRow.worker).where(TaskRow.state == "leased")).scalars())
        readings = set(session.execute(select(StudyRow.reading).where(StudyRow.reading != "")).scalars())
        tuning = {str(folder.relative_to(node.settings.home)) for folder in tuning_under_way(node, session)}
    home, removed = node.settings.home, 0
    for path in _old(home, older_s):
        if any(path.name.startswith(worker) for worker in busy if worker):
            continue
        if str(path.relative_to(home)) in readings | tuning:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        removed += 1
    return removed


def _old(home: Path, older_s: float) -> Iterator[Path]:
    """Give entries of `incoming`, `work`, `readings` and `tuning` that are old by the clock of the disk."""
    before = time.time() - older_s
    for pattern in ("incoming/*/*", "work/*", "readings/*", "tuning/*"):
        for path in home.glob(pattern):
            try:
                if path.stat().st_mtime < before:
                    yield path
            except FileNotFoundError:
                continue  # its owner was quicker
