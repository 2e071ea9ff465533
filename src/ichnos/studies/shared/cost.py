"""What a call costs: its processor time, and the memory of a process that makes it."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")


def with_seconds(call: Callable[[], _T]) -> tuple[_T, float]:
    """Make a call, and return with it the processor time of all its threads together.

    >>> made, seconds = with_seconds(lambda: sum(range(1000)))
    >>> made, 0 <= seconds < 10
    (499500, True)
    """
    began = time.process_time()
    made = call()
    return made, time.process_time() - began


def peak_gib(task: Callable[[], object]) -> float | None:
    """Return the memory of a new process that does a task and nothing else, at its height; None off Linux."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawned) as pool:
        return pool.submit(_peak_after, task).result()


def _peak_after(task: Callable[[], object]) -> float | None:
    task()
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM:")), None)
