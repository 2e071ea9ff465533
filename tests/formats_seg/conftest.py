"""Scans that were opened from made DICOM series, and a validator where Debian's dicom3tools is installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builders.series import Field, Quirks, ball, build_series
from ichnos.formats.dicom import open_dicom
from ichnos.scan import Scan


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Scan]:
    def open_series(quirks: Quirks | None = None, hu_at: Field | None = None, name: str = "series") -> Scan:
        build_series(hu_at or ball(30, (-10, 5, 0)), tmp_path / name, quirks or Quirks())
        return open_dicom(tmp_path / name)

    return open_series


@pytest.fixture
def dicom_errors() -> Callable[[Path], list[str]]:
    """Return what dciodvfy objects to; [] where it is not installed."""

    def errors(path: Path) -> list[str]:
        if shutil.which("dciodvfy") is None:
            return []
        told = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        return [line for line in told.stderr.splitlines() if line.startswith("Error")]

    return errors
