"""Files that killed processes left: scratch folders, half-received images, forgotten readings and pairs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from ichnos.service.node import Node
from ichnos.service.partners.finder import JUDGE
from ichnos.service.partners.folders import pair_folder, shadow_folder
from ichnos.service.partners.tuning import tuning_under_way
from ichnos.service.store.tables import StudyRow, TaskRow

OLD_S = 3600.0  # younger files may belong to somebody who is busy
_PATTERNS = (
    "incoming/*/*", "work/*", "readings/*", "tuning/*", "partners/[0-9]*", "partners/shadow/*"
)  # fmt: skip


def sweep(node: Node, *, older_s: float = OLD_S) -> int:
    """Remove what nobody refers to and nobody has touched for a while; return how many files and folders."""
    with node.database.snapshot() as session:
        busy = set(session.execute(select(TaskRow.worker).where(TaskRow.state == "leased")).scalars())
        readings = set(session.execute(select(StudyRow.reading).where(StudyRow.reading != "")).scalars())
        working = {*tuning_under_way(node, session), *_of_partners(node, session)}
    home, removed = node.settings.home, 0
    for path in _old(home, older_s):
        if any(path.name.startswith(worker) for worker in busy if worker):
            continue
        if path in working or str(path.relative_to(home)) in readings:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        removed += 1
    return removed


def _of_partners(node: Node, session: Session) -> Iterator[Path]:
    """Give the folders of pairs that are being judged, and of shadow readings of studies that are here."""
    home = node.settings.home
    leased = select(TaskRow.payload).where(TaskRow.kind == JUDGE, TaskRow.state == "leased")
    yield from (pair_folder(home, payload["pair"]) for payload in session.execute(leased).scalars())
    here = select(StudyRow.id).where(StudyRow.state != "purged")
    yield from (shadow_folder(home, number) for number in session.execute(here).scalars())


def _old(home: Path, older_s: float) -> Iterator[Path]:
    """Give entries of the folders below that are old by the clock of the disk."""
    before = time.time() - older_s
    for pattern in _PATTERNS:
        for path in home.glob(pattern):
            try:
                if path.stat().st_mtime < before:
                    yield path
            except FileNotFoundError:
                continue  # its owner was quicker
