"""The doors: files come in as Scan or Volume, and go out again. Nothing else knows a file format."""

from __future__ import annotations

from pathlib import Path

from ichnos.errors import InputRefused
from ichnos.scan import Scan


def open_scan(path: str | Path) -> Scan:
    """Open the head CT in a file, folder, archive or NIfTI."""
    raise InputRefused(f"{path}: no reader is installed for this kind of file")
