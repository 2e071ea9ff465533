"""How often Python looks for garbage in a command's own process: decided here, at the edge."""

from __future__ import annotations

import atexit
import gc

_ALLOCATIONS = 20_000  # before a collection: Python's own 700 suits programs of fewer objects than ours


def collect_seldom() -> None:
    """Spare a command the looking through all that its imports made, while it runs and when it ends."""
    gc.set_threshold(_ALLOCATIONS)
    atexit.register(gc.freeze)
