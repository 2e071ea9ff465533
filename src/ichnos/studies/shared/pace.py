"""How many steps fit into the minutes that a study has: measured on a few, noted, and the same at every
later call.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ichnos.files import atomic_file

_LEAST_S, _MOST_STEPS = 2.0, 64  # a trial goes on with twice the steps until it took so long, or so many


def measured_steps(
    file: Path, what: str, seconds: float, trial: Callable[[int, Path], object], *, least: int, most: int
) -> int:
    """Return a number of steps for a training called `what`; `trial(steps, folder)` trains a few in a folder
    that is thrown away.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     kept = Path(folder) / "steps.json"
    ...     first = measured_steps(
    ...         kept, "a", 1.0, lambda steps, out: time.sleep(0.01 * steps), least=2, most=1000
    ...     )
    ...     again = measured_steps(kept, "a", 9.0, lambda steps, out: time.sleep(9), least=2, most=1000)
    >>> 20 <= first <= 100, first == again
    (True, True)
    """
    known: dict[str, int] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if what not in known:
        known[what] = int(min(max(seconds / _step_seconds(trial), least), most))
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as temporary:
            temporary.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return known[what]


def _step_seconds(trial: Callable[[int, Path], object]) -> float:
    """Return what a step takes once libraries are loaded and caches filled."""
    _timed(trial, 1)
    steps, took = 1, 0.0
    while took < _LEAST_S and steps < _MOST_STEPS:
        steps *= 2
        took = _timed(trial, steps)
    return took / steps


def _timed(trial: Callable[[int, Path], object], steps: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        trial(steps, Path(folder))
        return time.monotonic() - began
