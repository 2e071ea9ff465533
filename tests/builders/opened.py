"""Scans that were opened from made DICOM series, and a validator where Debian's dicom3tools is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from builders.series import Field, Quirks, ball, build_series
from ichnos.formats.dicom import open_dicom
from ichnos.scan import Scan


def open_built(
    folder: Path, quirks: Quirks | None = None, hu_at: Field | None = None, name: str = "series"
) -> Scan:
    """Build a series, a ball unless told otherwise, in a folder of this name, and open it."""
    build_series(hu_at or ball(30, (-10, 5, 0)), folder / name, quirks or Quirks())
    return open_dicom(folder / name)


def dciodvfy_errors(path: Path) -> list[str]:
    """Return what dciodvfy objects to; [] where it is not installed."""
    if shutil.which("dciodvfy") is None:
        return []
    told = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    return [line for line in told.stderr.splitlines() if line.startswith("Error")]
