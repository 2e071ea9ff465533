"""How a run's progress is shown: a bar on a terminal, lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SECONDS_PER_LINE = 30.0
_LINES = 20  # at most, of a quick run


@contextmanager
def progress_bar(name: str, total: int, done: int, *, show: bool) -> Iterator[Callable[[int], None]]:
    """Show progress on standard error; what it gives is called with the failures so far, once per item."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Left

    console = Console(stderr=True)
    if show and not console.is_terminal:
        yield _lines(name, total, done)
        return
    words = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*words, TextColumn("left"), Left(), console=console, disable=not show) as bar:
        line = bar.add_task(name, total=total, completed=done)

        def advance(failed: int) -> None:
            bar.update(line, advance=1, description=f"{name}, {failed} failed" if failed else name)

        yield advance


def _lines(name: str, total: int, done: int) -> Callable[[int], None]:
    """Return what writes a line at every twentieth of the items, or every half minute."""
    began, count, last = time.monotonic(), done, time.monotonic()

    def advance(failed: int) -> None:
        nonlocal count, last
        count += 1
        now = time.monotonic()
        step = count * _LINES // total > (count - 1) * _LINES // total
        if not step and now - last < _SECONDS_PER_LINE:
            return
        last, left_s = now, (now - began) / (count - done) * (total - count)
        words = f", {failed} failed" if failed else ""
        sys.stderr.write(f"{name}: {count} of {total}{words}, about {left_s:.0f} s left\n")

    return advance
