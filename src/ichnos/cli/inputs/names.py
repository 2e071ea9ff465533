"""Names for inputs that tell nobody who they are: salted hashes, with a key file that maps them back.

The key file belongs to the user of this machine and lies in no output folder: whoever shares the folder
shares no name.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ichnos.cli.terminal.folders import state_folder
from ichnos.errors import InputRefused
from ichnos.files import atomic_file


@dataclass(frozen=True)
class NameBook:
    """A user's salt, and the file that keeps it and what each name stands for.

    >>> book = NameBook(Path("names.json"), "salt")
    >>> book.name("scan", "/data/DOE.nii") == book.name("scan", "/data/DOE.nii") != book.name("scan", "x")
    True
    """

    file: Path
    salt: str

    def name(self, kind: str, what: str) -> str:
        """Return the name of an input: its kind and twelve digits of a salted hash."""
        digest = hmac.new(self.salt.encode(), what.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return f"{kind}-{digest.hexdigest()[:12]}"

    @property
    def mark(self) -> str:
        """Return what tells this salt from another one, and nothing else about it."""
        return hashlib.sha256(self.salt.encode()).hexdigest()[:12]

    def keep(self, names: Mapping[str, str]) -> None:
        """Add to the key file what these names stand for."""
        with _locked(self.file):
            salt, before = _read(self.file)
            _write(self.file, salt, {**before, **names})


def name_book() -> NameBook:
    """Open the user's key file, `ichnos/names.json` in XDG_STATE_HOME, or begin one with a new salt."""
    file = state_folder() / "names.json"
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(file):
        if not file.exists():
            _write(file, secrets.token_hex(16), {})
        return NameBook(file, _read(file)[0])


class _locked:  # noqa: N801  (used as a function)
    """Hold the key file for one process at a time."""

    def __init__(self, file: Path) -> None:
        self._lock = file.with_suffix(".lock")

    def __enter__(self) -> None:
        self._handle = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        os.close(self._handle)


def _read(file: Path) -> tuple[str, dict[str, str]]:
    try:
        content = json.loads(file.read_bytes())
        return str(content["salt"]), dict(content["names"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputRefused(f"the key file {file} is damaged: restore it, or move it away") from None


def _write(file: Path, salt: str, names: Mapping[str, str]) -> None:
    with atomic_file(file) as temporary:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(json.dumps({"salt": salt, "names": dict(names)}, indent=2) + "\n")
