"""A command's own process looks for garbage seldom, and not once more at its end."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import atexit, gc
from ichnos.cli import main
before = gc.get_threshold()[0]
atexit.register(lambda: print(gc.get_threshold()[0] > before, gc.get_freeze_count() > 1000))
main(["--version"])
"""


def test_a_command_of_its_own_process_collects_seldom_and_leaves_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True True"
