"""Starting a reading loads nothing that takes long and that reading does not need."""

from __future__ import annotations

import subprocess
import sys

# A second or more, and 150 MiB: the first. A tenth of a second each: the others.
SLOW = ("torch", "scipy.interpolate", "scipy.stats", "matplotlib", "pandas")


def test_what_reads_is_there_without_what_trains() -> None:
    code = f"import sys, ichnos.api, ichnos.cli.read; print([name for name in {SLOW} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
