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

from ichnos.files import sync, sync_tree

_NOTE = "item.json"  # beside an item's outputs: whose they are, and its row


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
        """Move an item's outputs into place, on the disk; a kill after the first rename loses nothing."""
        note = {"id": item_id, "row": row}
        (folder / _NOTE).write_text(json.dumps(note), encoding="utf-8")
        sync_tree(folder)
        ready = self.ready / folder.name
        os.replace(folder, ready)
        sync(self.ready)
        self._move_out(ready)

    def recover(self) -> list[dict[str, Any]]:
        """Complete the moves that a kill interrupted; return id and row of each, to be settled afterwards.

        A folder whose note cannot be read is forgotten: its item is not in the ledger and will be done again.
        """
        notes = []
        for ready in sorted(self.ready.glob("*")) if self.ready.is_dir() else []:
            note = _note_of(ready)
            if note is not None:
                notes.append(note)
                self._move_out(ready)
        return notes

    def settle(self) -> None:
        """Forget the moves that the ledger now knows as finished."""
        for ready in self.ready.glob("*"):
            if ready.is_dir():
                shutil.rmtree(ready)
            else:
                ready.unlink()

    def _move_out(self, ready: Path) -> None:
        outputs = ready / "out"
        if outputs.is_dir():
            move_into(outputs, self.out)


def _note_of(ready: Path) -> dict[str, Any] | None:
    try:
        note = json.loads((ready / _NOTE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(note, dict) and isinstance(note.get("id"), str) and isinstance(note.get("row"), dict)
    return note if whole else None


def fresh_folder(work: Path) -> Path:
    """Make an empty folder for one attempt at one item; its outputs go to `out` inside."""
    folder = work / uuid.uuid4().hex
    (folder / "out").mkdir(parents=True)
    return folder


def move_into(source: Path, target: Path) -> None:
    """Move the content of one folder into another on the same disk, replacing files of the same name."""
    target.mkdir(parents=True, exist_ok=True)
    for child in sorted(source.iterdir()):
        goal = target / child.name
        if child.is_dir() and not child.is_symlink() and goal.is_dir():
            move_into(child, goal)
        else:
            os.replace(child, goal)
    sync(target)
