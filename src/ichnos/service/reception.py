"""Keep one received image: on the disk first, then in the database, then nobody can lose it."""

from __future__ import annotations

import errno
from pathlib import Path

from ichnos.service.node import Node
from ichnos.service.store import studies
from ichnos.service.store.images import StoredImage, store_image


def keep_image(node: Node, received: Path, *, source: str) -> StoredImage:
    """Store and register a received file; when this returns, the sender may be told of success."""
    image = store_image(node.settings.home, received)
    with node.database.transaction() as session:
        studies.register_image(session, image, now=node.clock(), source=source)
        # A purge of the same bytes may have removed the file before this transaction had its turn.
        if not (node.settings.home / image.path).is_file():
            raise FileNotFoundError(errno.ENOENT, "the image was removed while it was being registered")
    return image
