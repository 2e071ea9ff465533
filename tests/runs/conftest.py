"""The tasks of these tests can be imported here and in worker processes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"
