"""Apply one function to many patients, so that nothing is lost, doubled or left half-done."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ichnos.errors import UsageError
from ichnos.files import atomic_file, remove_partials
from ichnos.runs import workers as places
from ichnos.runs.ledger import Ledger, settings_hash
from ichnos.runs.progress import progress_bar
from ichnos.runs.staging import Staging

_TABLES = ("", ".ichnos/*/", "derivatives/*/")  # folders in which a run writes tables over all items


class Item(Protocol):
    """Anything with an id of its own, such as a Patient."""

    @property
    def id(self) -> str: ...


@dataclass(frozen=True)
class Numbered:
    """An item that is nothing but a number, such as the seed of a virtual patient."""

    number: int

    @property
    def id(self) -> str:
        """Return the number as the ledger names it.

        >>> Numbered(7).id
        '000007'
        """
        return f"{self.number:06d}"


I = TypeVar("I", bound=Item, contravariant=True)  # noqa: E741


class Task(Protocol[I]):
    """A function of an item and a folder. It writes into the folder as if that were OUT, and returns one
    row of plain facts.
    """

    def __call__(self, item: I, folder: Path, /) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Failure:
    """Who failed, and why."""

    id: str
    why: str
    kind: str  # class of the error: "InputRefused" for a refused input, "WorkerDied", any other for a bug


@dataclass(frozen=True)
class Summary:
    """What became of a run: one row per finished item in the order of the items, and the failures."""

    rows: tuple[dict[str, Any], ...]  # each begins with "id"
    failures: tuple[Failure, ...]
    done_now: int  # finished by this call; the others were finished before
    seconds: float
    ledger: Path

    def __len__(self) -> int:
        return len(self.rows)

    def save_table(self, path: str | Path) -> None:
        """Write the rows as a table, comma-separated (or tab-separated for .tsv); the same rows give the
        same bytes.
        """
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        with (
            atomic_file(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
        ):
            delimiter = "\t" if str(path).endswith(".tsv") else ","
            table = csv.DictWriter(stream, columns, delimiter=delimiter, lineterminator="\n", restval="n/a")
            table.writeheader()
            table.writerows(self.rows)


def apply(
    task: Task[I],
    items: Iterable[I],
    *,
    out: str | Path,
    settings: Any,
    name: str,
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
    keep_names: bool = True,
) -> Summary:
    """Apply `task` to every item that the ledger in `out` does not know as finished.

    `task(item, folder)` writes into `folder` as if it were `out`; when it returns, its files are moved there
    whole. What it returns becomes the item's row. An error fails that item alone. Re-run to resume
    after an interrupt or a kill, and to retry what failed.

    `settings` (plain data, a dataclass or a pydantic model) are all that decides the result besides the item;
    other settings in the same `out` are refused. `workers` local processes, or the workers of a dask
    `scheduler` ("tcp://host:port") that see the same disk. Without `keep_names` the ledger says why an item
    failed without the names of its files and without the values in them.
    """
    chosen = _unique(items)
    _check_places(workers, scheduler)
    began = time.perf_counter()
    out = Path(out).resolve()
    ledger = Ledger(out, name)
    ledger.open(settings)
    try:
        staging = Staging(ledger.home, out)
        before = _recovered(ledger, staging, out, settings_hash(settings))
        pending = [item for item in chosen if item.id not in before]
        job = places.Job(task, keep_names)
        place = _place(job, pending, staging.work, ledger, workers=workers, scheduler=scheduler)
        with progress_bar(name, len(chosen), len(chosen) - len(pending), show=progress) as advance:
            failures = _collect(place, ledger, staging, settings_hash(settings), advance)
        staging.clear()  # what workers that died had begun
        finished = ledger.finished()
    finally:
        ledger.close()
    rows = tuple({"id": item.id, **finished[item.id]["row"]} for item in chosen if item.id in finished)
    done_now = sum(item.id in finished for item in pending)
    return Summary(rows, failures, done_now, time.perf_counter() - began, ledger.path)


def _check_places(workers: int, scheduler: str | None) -> None:
    if workers < 1:
        raise UsageError(f"{workers} workers were asked for; give 1 or more")
    if scheduler is not None and workers > 1:
        raise UsageError("give either workers or a scheduler: a scheduler brings its own workers")


def _recovered(ledger: Ledger, staging: Staging, out: Path, settings: str) -> dict[str, Any]:
    """Complete the moves that an earlier call left undone; return what is finished."""
    staging.clear()
    remove_partials(file for place in _TABLES for file in out.glob(f"{place}.tmp-*"))
    known = ledger.finished()
    for note in (note for note in staging.recover() if note["id"] not in known):
        ledger.add("finished", note["id"], settings=settings, recovered=True, row=note["row"])
    staging.settle()
    return ledger.finished()


def _unique(items: Iterable[I]) -> list[I]:
    chosen = list(items)
    ids = [item.id for item in chosen]
    double = sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []
    if double:
        raise UsageError(
            f"{len(double)} id(s) come more than once: {', '.join(double[:5])}; give each item its own id"
        )
    return chosen


def _place(
    job: places.Job,
    pending: Sequence[Any],
    work: Path,
    ledger: Ledger,
    *,
    workers: int,
    scheduler: str | None,
) -> Iterator[places.Outcome]:
    def started(item_id: str) -> None:
        ledger.add("started", item_id)

    if not pending:
        return iter(())
    if scheduler is not None:
        return places.on_scheduler(job, pending, work, started, address=scheduler)
    if workers > 1:
        return places.in_processes(job, pending, work, started, workers=workers)
    return places.in_this_process(job, pending, work, started)


def _collect(
    outcomes: Iterator[places.Outcome],
    ledger: Ledger,
    staging: Staging,
    settings: str,
    advance: Callable[[int], None],
) -> tuple[Failure, ...]:
    failures = []
    for outcome in outcomes:
        told = {
            "settings": settings,
            "started": outcome.started,
            "seconds": round(outcome.seconds, 3),
            "worker": outcome.worker,
        }
        if outcome.folder is None:
            ledger.add(
                "failed", outcome.id, **told, kind=outcome.kind, why=outcome.why, details=outcome.details
            )
            failures.append(Failure(outcome.id, outcome.why, outcome.kind))
        else:
            staging.commit(outcome.folder, outcome.id, outcome.row)
            ledger.add("finished", outcome.id, **told, row=outcome.row)
            staging.settle()
        advance(len(failures))
    return tuple(failures)
