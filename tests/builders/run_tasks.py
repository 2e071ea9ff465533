"""Functions that worker processes import, and a program that a test can kill."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ichnos.errors import InputRefused


@dataclass(frozen=True)
class Thing:
    """An item."""

    id: str
    mood: str = "well"


def things(count: int, **moods: str) -> list[Thing]:
    return [Thing(f"t{k:02d}", moods.get(f"t{k:02d}", "well")) for k in range(count)]


def work(item: Thing, folder: Path) -> dict[str, Any]:
    """Write two files in two places; behave as the item's mood says."""
    out = folder / "sub" / item.id
    out.mkdir(parents=True)
    (out / "half.txt").write_text("first half")
    _behave(item, folder)
    (out / "half.txt").write_text("first half, second half")
    other = folder / "derivatives" / item.id
    other.mkdir(parents=True)
    (other / "more.txt").write_text(item.id)
    return {"letters": len(item.id), "process": os.getpid(), "undefined": float("nan")}


def _behave(item: Thing, folder: Path) -> None:
    if item.mood == "refused":
        raise InputRefused(f"{item.id} is not a head CT")
    if item.mood == "broken":
        raise ZeroDivisionError("a bug")
    if item.mood == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if item.mood == "leaves":
        os._exit(7)
    if item.mood == "killed once":
        mark = folder.parents[2] / f"{item.id}.was-killed"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if item.mood == "slow":
        time.sleep(0.15)
    if item.mood == "threads":
        (folder / "threads.txt").write_text(os.environ.get("OMP_NUM_THREADS", "unset"))


def main(out: str, count: str, workers: str) -> None:
    """Work slowly, so that a test can kill this program in the middle."""
    from ichnos.runs import apply

    items = [Thing(thing.id, "slow") for thing in things(int(count))]
    apply(work, items, out=out, settings={"a": 1}, name="work", workers=int(workers), progress=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
