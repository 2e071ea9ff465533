"""Atomic folders: work is done aside and moved into place whole, so that a killed process leaves nothing
half-written.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any


class Staging:
    """The two folders an item's outputs pass on their way: `work` (may be thrown away) and `ready` (whole, to
    be moved out).

    Only the process that holds the ledger calls `commit` and `recover`; workers just write into their folder
    under `work`.
    """

    def __init__(self, home: Path, out: Path) -> None:
        self.work = home / "work"
        self.ready = home / "ready"
        self.out = out

    def clear(self) -> None:
        """Throw away what killed workers left behind."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True, exist_ok=True)
        self.ready.mkdir(exist_ok=True)

    def commit(self, folder: Path, item_id: str, row: Any) -> None:
        """Move an item's outputs into place. From the first rename on, a kill loses nothing: `recover`
        completes the move.
        """
        note = {"id": item_id, "row": row}
        (folder / "item.json").write_text(json.dumps(note), encoding="utf-8")
        ready = self.ready / folder.name
        os.replace(folder, ready)
        self._move_out(ready)

    def recover(self) -> list[dict[str, Any]]:
        """Complete the moves that a kill interrupted; return id and row of each. Call `settle` when they
        are in the ledger.
        """
        notes = []
        for ready in sorted(self.ready.glob("*")) if self.ready.is_dir() else []:
            notes.append(json.loads((ready / "item.json").read_text(encoding="utf-8")))
            self._move_out(ready)
        return notes

    def settle(self) -> None:
        """Forget the moves that the ledger now knows as finished."""
        for ready in self.ready.glob("*"):
            shutil.rmtree(ready)

    def _move_out(self, ready: Path) -> None:
        outputs = ready / "out"
        if outputs.is_dir():
            move_into(outputs, self.out)


def fresh_folder(work: Path) -> Path:
    """Make an empty folder for one attempt at one item; its outputs go to `out` inside."""
    folder = work / uuid.uuid4().hex
    (folder / "out").mkdir(parents=True)
    return folder


def move_into(source: Path, target: Path) -> None:
    """Move what is in one folder into another on the same disk: whole folders where they are new, else
    file by file, replacing.
    """
    target.mkdir(parents=True, exist_ok=True)
    for child in sorted(source.iterdir()):
        place = target / child.name
        if child.is_dir() and not child.is_symlink() and place.is_dir():
            move_into(child, place)
        else:
            os.replace(child, place)
