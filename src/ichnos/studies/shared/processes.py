"""Parts of a study that need nothing of each other, as many at once as there are workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any, TypeVar

from ichnos.runs.workers import leave_with_the_parent
from ichnos.studies.shared.budget import StudyBudget, not_known, silent

_Found = TypeVar("_Found")


def each_at_once(
    work: Callable[..., _Found], calls: Mapping[str, tuple[Any, ...]], budget: StudyBudget
) -> dict[str, _Found]:
    """Call a function with each name's arguments and the budget; return what it gives by name.

    On a CPU with several workers this is done in so many processes, which share the cores and end with this
    one; on a GPU one after the other.
    """
    count = min(budget.workers, len(calls)) if budget.device == "cpu" else 1
    if count < 2:
        return {name: work(*given, budget) for name, given in calls.items()}
    budget.say(f"{', '.join(calls)}: {count} at once")
    threads = max(1, (os.cpu_count() or 1) // count)
    quiet = replace(budget, say=silent, spent=not_known)
    with ProcessPoolExecutor(count, get_context("spawn"), _begin, (threads,)) as pool:
        asked = {name: pool.submit(work, *given, quiet) for name, given in calls.items()}
        found = {}
        try:
            for name, future in asked.items():
                found[name] = future.result()
                budget.say(f"  {name}: done")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what has not begun does not begin
            raise
    return found


def _begin(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    leave_with_the_parent()
