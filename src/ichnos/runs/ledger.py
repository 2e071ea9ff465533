"""The ledger: an append-only file of JSON lines that says who was started, finished or failed, under which
settings, and why.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from ichnos import __version__
from ichnos.errors import InputRefused, UsageError
from ichnos.files import atomic_file, lock

LedgerRecord = dict[str, Any]


def plain(value: Any) -> Any:
    """Return a value as plain JSON data: numpy scalars, paths, dataclasses and pydantic models included.

    >>> plain({"dice": np.float64(0.5), "file": Path("ct.nii.gz"), "centres": {"b", "a"}})
    {'dice': 0.5, 'file': 'ct.nii.gz', 'centres': ['a', 'b']}
    """
    return json.loads(json.dumps(value, default=_plain_leaf))


def _plain_leaf(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(
        f"a row or setting holds a {type(value).__name__}, which is not plain data (numbers, text, lists,"
        " mappings)"
    )


def settings_hash(settings: Any) -> str:
    """Return twelve hexadecimal digits that change whenever a setting does.

    >>> settings_hash({"a": 1, "b": 2}) == settings_hash({"b": 2, "a": 1}) != settings_hash({"a": 1})
    True
    """
    text = json.dumps(plain(settings), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def now() -> str:
    """Return the time as the ledger writes it, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Ledger:
    """The record of one named run in one output folder. One process writes it at a time; anybody may read
    it.
    """

    def __init__(self, out: Path, name: str) -> None:
        self.home = out / ".ichnos" / name
        self.path = self.home / "ledger.jsonl"
        self._lock: int | None = None

    def open(self, settings: Any) -> None:
        """Claim the folder for this process; refuse other settings and a second run at the same time."""
        self.home.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.home / "lock", self.home.parent.parent)
        try:
            self._check_settings(plain(settings))
        except BaseException:
            self.close()
            raise
        if self.path.exists() and (text := self.path.read_bytes()) and not text.endswith(b"\n"):
            # a killed process left half a line: it stays, alone, and is skipped when reading
            self._write(b"\n")

    def close(self) -> None:
        """Give the folder back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def records(self) -> list[LedgerRecord]:
        """Return every record in the order of writing; half-written and foreign lines are left out."""
        if not self.path.exists():
            return []
        records = []
        for line in self.path.read_bytes().split(b"\n"):  # no other character ends a line
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict) and isinstance(record.get("id"), str):
                records.append(record)
        return records

    def finished(self) -> dict[str, LedgerRecord]:
        """Return the last record of everyone who is finished, by id."""
        return {
            record["id"]: record
            for record in self.records()
            if record.get("event") == "finished" and isinstance(record.get("row"), dict)
        }

    def add(self, event: str, item_id: str, **details: Any) -> None:
        """Append one record and wait until it is on the disk."""
        record = {"event": event, "id": item_id, "at": now(), **plain(details)}
        self._write((json.dumps(record) + "\n").encode("ascii"))

    def _write(self, line: bytes) -> None:
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            while line:  # a full disk takes a part, then refuses the rest
                line = line[os.write(handle, line) :]
            os.fsync(handle)
        finally:
            os.close(handle)

    def _check_settings(self, settings: Any) -> None:
        path = self.home / "settings.json"
        if not path.exists() or (path.stat().st_size == 0 and not self.records()):
            text = json.dumps(
                {"ichnos": __version__, "hash": settings_hash(settings), "settings": settings}, indent=2
            )
            with atomic_file(path) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
            return
        content = self._content_before(path)
        before, version = content["settings"], content.get("ichnos", __version__)
        if settings_hash(before) != settings_hash(settings):
            older = version != __version__
            begun = f"by ichnos {version} (this is {__version__}) " if older else ""
            same = f"resume it with ichnos {version}" if older else "give the same settings to resume"
            raise UsageError(
                f"{self.home.parent.parent} was begun {begun}with other settings"
                f" ({_difference(before, settings)}); {same}, or give another output folder"
            )

    def _content_before(self, path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or "settings" not in content:
            raise InputRefused(
                f"{path} is damaged, so it is not known with which settings {self.home.parent.parent} was"
                f" begun; remove {self.home} to begin anew, or give another output folder"
            )
        return content


_ABSENT = object()
_MOST_DIFFERENCES = 4


def _difference(before: Any, now: Any) -> str:
    """Name what differs, and nothing else: `facts.x.gcs: then 9, now 10`."""
    said = [f"{name}: then {_said(old)}, now {_said(new)}" for name, old, new in _differing(before, now, "")]
    rest = len(said) - _MOST_DIFFERENCES
    return "; ".join(said[:_MOST_DIFFERENCES]) + (f"; and {rest} more" if rest > 0 else "")


def _said(value: Any) -> str:
    return "not set" if value is _ABSENT else f"{value}"


def _differing(before: Any, now: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            old, new = before.get(key, _ABSENT), now.get(key, _ABSENT)
            yield from _differing(old, new, f"{name}.{key}".lstrip("."))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for position, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _differing(old, new, f"{name}[{position}]")
    elif before != now:
        yield name or "settings", before, now
