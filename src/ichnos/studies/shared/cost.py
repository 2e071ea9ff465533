"""What a call costs: processor time, and the memory that it takes at its height."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")
_SELF = Path("/proc/self")


@dataclass(frozen=True)
class CallCost:
    """What one call took."""

    seconds: float  # of all its threads together
    gib: float | None  # at its height, beyond what the process held before; None where that is not known


def with_cost(call: Callable[[], _T]) -> tuple[_T, CallCost]:
    """Make a call and say what it cost.

    >>> made, cost = with_cost(lambda: bytearray(2**28))
    >>> len(made) == 2**28, cost.seconds < 60
    (True, True)
    """
    before, began = _reset_peak(), time.process_time()
    made = call()
    seconds, peak = time.process_time() - began, _kib("VmHWM")
    if before is None or peak is None:
        return made, CallCost(seconds, None)
    return made, CallCost(seconds, max(0.0, (peak - before) / 2**20))


def _reset_peak() -> float | None:
    """Let the kernel forget the peak so far, and return what is held now; None where it cannot."""
    try:
        (_SELF / "clear_refs").write_text("5")  # Linux: see proc_pid_clear_refs(5)
    except OSError:
        return None
    return _kib("VmRSS")


def _kib(name: str) -> float | None:
    try:
        lines = (_SELF / "status").read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)
