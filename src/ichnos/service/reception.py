"""Keep received images: on the disk first, then in the database, then nobody can lose them.

Images that arrive at the same time on several associations are registered in one transaction: whoever comes
first commits for all who wait meanwhile, so that ten senders do not wait for ten commits.
"""

from __future__ import annotations

import errno
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset

from ichnos.errors import InputRefused
from ichnos.service.node import Node
from ichnos.service.store import studies
from ichnos.service.store.images import StoredImage, free_gib, store_image


@dataclass(eq=False)
class _Arrival:
    image: StoredImage
    source: str
    done: bool = False
    problem: Exception | None = None


@dataclass(eq=False)
class Reception:
    """Where the images of all associations of a process come together."""

    node: Node
    _waiting: list[_Arrival] = field(default_factory=list)
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _list: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, received: Path, *, source: str) -> StoredImage:
        """Store and register a received file; when this returns, the sender may be told of success."""
        arrival = _Arrival(store_image(self.node.settings.home, received), source)
        with self._list:
            self._waiting.append(arrival)
        with self._turn:
            if not arrival.done:
                with self._list:
                    arrivals, self._waiting = self._waiting, []
                self._register(arrivals)
        if arrival.problem is not None:
            raise arrival.problem
        return arrival.image

    def _register(self, arrivals: Sequence[_Arrival]) -> None:
        """Register all in one transaction; if that fails, each alone, so that one spoils no other."""
        try:
            _register(self.node, arrivals)
        except Exception:
            for arrival in arrivals:
                try:
                    _register(self.node, [arrival])
                except Exception as problem:  # raised where the image was received
                    arrival.problem = problem
        for arrival in arrivals:
            arrival.done = True


def keep_image(node: Node, received: Path, *, source: str) -> StoredImage:
    """Store and register one received file."""
    return Reception(node).keep(received, source=source)


def keep_retrieved(node: Node, image: Dataset) -> StoredImage:
    """Store and register an image that was retrieved from the archive over DICOMweb."""
    if free_gib(node.settings.home) < node.settings.storage.refuse_below_gib:
        raise InputRefused("the disk is nearly full; nothing is retrieved from the archive")
    incoming = node.settings.home / "incoming" / "wado"
    incoming.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=incoming) as folder:
        file = Path(folder) / "image.dcm"
        image.save_as(file, enforce_file_format=True)
        return keep_image(node, file, source="archive")


def _register(node: Node, arrivals: Sequence[_Arrival]) -> None:
    # Two processes take the locks of several studies in the same order.
    ordered = sorted(arrivals, key=lambda arrival: arrival.image.study_uid)
    with node.database.transaction() as session:
        for arrival in ordered:
            image = arrival.image
            studies.register_image(session, image, now=node.clock(), source=arrival.source)
            # A purge of the same bytes may have removed the file before this transaction had its turn.
            if not (node.settings.home / image.path).is_file():
                raise FileNotFoundError(errno.ENOENT, "the image was removed while it was being registered")
