"""Where the work is done: in this process, in local worker processes, or on the machines of a dask
scheduler.
"""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from ichnos.errors import IchnosError, InputRefused, UsageError, require
from ichnos.runs.ledger import now, plain
from ichnos.runs.staging import fresh_folder

Call = Callable[[Any, Path], Mapping[str, Any]]
ATTEMPTS = 2  # an item whose worker dies is tried once more before it counts as failed
NO_WORKER_PATIENCE_S = 60.0
NO_SCHEDULER_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Outcome:
    """What became of one attempt."""

    id: str
    folder: Path | None = None  # the outputs, still aside; None if it failed
    row: dict[str, Any] | None = None
    why: str = ""  # a sentence, for a failure
    kind: str = ""  # class of the error
    details: str = ""  # the traceback, for an error that is a bug
    started: str = ""
    seconds: float = 0.0
    worker: str = ""  # host:process


@dataclass(frozen=True)
class Job:
    """What every worker gets: the function, and whether what it says of a failure may name the input."""

    call: Call
    keep_names: bool = True

    def __call__(self, item: Any, work: Path) -> Outcome:
        """Call the function on one item in a fresh folder; an error becomes an Outcome, no exception."""
        started, began, worker = now(), time.perf_counter(), f"{socket.gethostname()}:{os.getpid()}"
        folder = None
        try:
            folder = fresh_folder(work)
            row = plain(self.call(item, folder / "out") or {})
            spent = time.perf_counter() - began
            return Outcome(item.id, folder, row, started=started, seconds=spent, worker=worker)
        except Exception as error:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            why, details = self._told(error)
            spent = time.perf_counter() - began
            return Outcome(item.id, None, None, why, type(error).__name__, details, started, spent, worker)

    def _told(self, error: Exception) -> tuple[str, str]:
        """Return why an item failed and, for a bug, where."""
        expected = isinstance(error, IchnosError | OSError | MemoryError)
        if self.keep_names:
            return str(error) or type(error).__name__, "" if expected else traceback.format_exc()
        where = "" if expected else "".join(traceback.format_tb(error.__traceback__))
        if isinstance(error, IchnosError):
            return error.without_names, where
        return getattr(error, "strerror", None) or type(error).__name__, where


# ---- here


def in_this_process(
    call: Job, items: Sequence[Any], work: Path, started: Callable[[str], None]
) -> Iterator[Outcome]:
    """Work through the items one after the other."""
    for item in items:
        started(item.id)
        yield call(item, work)


# ---- local processes


class _Worker:
    """One local process and the pipe to it."""

    def __init__(self, call: bytes, work: Path, threads: int) -> None:
        from multiprocessing import get_context

        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=_serve, args=(theirs, call, work, threads), daemon=True
        )
        self.process.start()
        theirs.close()
        self.item: Any = None
        self.ready = False

    def stop(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _serve(pipe: Connection, call: bytes, work: Path, threads: int) -> None:
    """Be a worker process: take items from the pipe until it closes."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    for variable in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        # before the function's libraries are imported: cores are shared
        os.environ.setdefault(variable, str(threads))
    leave_with_the_parent()
    function = pickle.loads(call)
    pipe.send(None)
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        pipe.send(function(item, work))


def leave_with_the_parent() -> None:
    """End this process when the one that began it ends, even where that was killed."""
    import threading
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def in_processes(
    call: Job, items: Sequence[Any], work: Path, started: Callable[[str], None], *, workers: int
) -> Iterator[Outcome]:
    """Share the items among local processes; one that dies is replaced and its item tried once more."""
    pool = _Pool(_packed(call), work, max(1, (os.cpu_count() or 1) // workers), deque(items), started)
    pool.workers = [pool.hired() for _ in range(min(workers, len(items)))]
    try:
        while pool.busy:
            yield from pool.outcomes()
            pool.hand_out()
    finally:
        for worker in pool.workers:
            worker.stop()


@dataclass(eq=False)
class _Pool:
    """The local processes, and the items that wait for one."""

    call: bytes
    work: Path
    threads: int  # of each process
    waiting: deque[Any]
    started: Callable[[str], None]
    workers: list[_Worker] = field(default_factory=list)
    tries: Counter[str] = field(default_factory=Counter)  # of each item

    def hired(self) -> _Worker:
        """Start a process."""
        return _Worker(self.call, self.work, self.threads)

    @property
    def busy(self) -> bool:
        """Say whether an item waits or is being worked on."""
        return bool(self.waiting) or any(worker.item is not None for worker in self.workers)

    def outcomes(self) -> Iterator[Outcome]:
        """Wait for a worker, and yield what has become of items."""
        wait([worker.pipe for worker in self.workers])
        for position, worker in enumerate(self.workers):
            if not worker.pipe.poll():
                continue
            try:
                outcome = worker.pipe.recv()
            except (EOFError, OSError):
                outcome = self._replaced(position)
            else:
                worker.ready, worker.item = True, None
            if outcome is not None:
                yield outcome

    def _replaced(self, position: int) -> Outcome | None:
        """Put another process in the place of one that died; its item waits again, or has failed."""
        worker = self.workers[position]
        _stop(worker)
        self.workers[position], lost = self.hired(), worker.item
        if lost is None:
            return None
        if self.tries[lost.id] >= ATTEMPTS:
            return _died(lost.id, worker.process.exitcode, self.tries[lost.id])
        self.waiting.appendleft(lost)
        return None

    def hand_out(self) -> None:
        """Give every idle worker an item."""
        for worker in self.workers:
            if worker.ready and worker.item is None and self.waiting:
                worker.item = self.waiting.popleft()
                self.tries[worker.item.id] += 1
                self.started(worker.item.id)
                _send(worker)


def _send(worker: _Worker) -> None:
    try:
        worker.pipe.send(worker.item)
    except OSError:
        # it died between two items: the closed pipe is noticed by the loop, and the item goes to another
        return


def _packed(call: Job) -> bytes:
    try:
        return pickle.dumps(call)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"this function cannot be sent to another process ({error}); give a function defined at the top"
            " of a module, or a functools.partial of one, or work with one worker"
        ) from None


def _stop(worker: _Worker) -> None:
    """Stop a worker that died; end the run where it died before its first item."""
    worker.stop()
    if not worker.ready:
        raise UsageError(
            "worker processes end before they are ready; their message stands above. In a script, "
            'put the call under `if __name__ == "__main__":`, or work with one worker'
        )


def _died(item_id: str, exitcode: int | None, tries: int) -> Outcome:
    if exitcode is not None and exitcode < 0:
        import signal

        how = f"was ended by {signal.Signals(-exitcode).name}" + (
            " (out of memory?)" if exitcode == -9 else ""
        )
    else:
        how = f"left with code {exitcode}"
    return Outcome(item_id, why=f"its worker process {how}, {tries} times", kind="WorkerDied", started=now())


# ---- dask


def on_scheduler(
    call: Job, items: Sequence[Any], work: Path, started: Callable[[str], None], *, address: str
) -> Iterator[Outcome]:
    """Share the items among the workers of a dask scheduler, which see the same output folder; lost
    workers' items are tried again.
    """
    distributed = require("distributed", extra="distributed", purpose="work on a dask scheduler")
    try:
        client = distributed.Client(address, timeout=NO_SCHEDULER_PATIENCE_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputRefused(
            f"no dask scheduler answers at {address} ({error}); start one with `dask scheduler`"
        ) from None
    with client, client.as_current():
        yield from _shared(client, distributed, call, deque(items), work, started)


def _shared(
    client: Any, distributed: Any, call: Job, waiting: deque[Any], work: Path, started: Callable[[str], None]
) -> Iterator[Outcome]:
    running: dict[Any, str] = {}
    try:
        yield from _handed_out(client, distributed, call, waiting, work, started, running)
    except (OSError, TimeoutError, CancelledError) as error:
        raise InputRefused(
            f"the dask scheduler is gone ({type(error).__name__}); start it and run the same again: finished"
            " patients are kept"
        ) from None
    finally:
        with suppress(Exception):  # nobody is there to cancel them when the scheduler is gone
            client.cancel(list(running))


def _handed_out(
    client: Any,
    distributed: Any,
    call: Job,
    waiting: deque[Any],
    work: Path,
    started: Callable[[str], None],
    running: dict[Any, str],
) -> Iterator[Outcome]:
    """Keep every worker busy; `running` is filled for the caller, who cancels what is left."""
    patience = _Patience()
    while waiting or running:
        if client.status != "running":
            raise ConnectionError("the client has lost its scheduler")
        room = sum(client.nthreads().values())
        patience.check(room)
        while waiting and len(running) < room:
            item = waiting.popleft()
            started(item.id)
            running[client.submit(call, item, work, pure=False)] = item.id
        for future in _done(distributed, running):
            yield _result(future, running.pop(future))


@dataclass
class _Patience:
    """How long a scheduler may be without workers."""

    without_since: float | None = None

    def check(self, room: int) -> None:
        """Refuse to wait any longer for workers."""
        self.without_since = None if room else (self.without_since or time.monotonic())
        if self.without_since and time.monotonic() - self.without_since > NO_WORKER_PATIENCE_S:
            raise InputRefused(
                "the dask scheduler has no workers; start some and run the same again: finished patients are"
                " kept"
            )


def _done(distributed: Any, running: dict[Any, str]) -> list[Any]:
    if not running:
        time.sleep(0.2)
        return []
    try:
        return list(distributed.wait(list(running), timeout=2, return_when="FIRST_COMPLETED").done)
    except TimeoutError:
        return []


def _result(future: Any, item_id: str) -> Outcome:
    try:
        outcome: Outcome = future.result()
        return outcome
    except (
        Exception
    ) as error:  # KilledWorker, a function that a worker cannot import: the item itself never raises
        reason = str(error).splitlines()[0] if str(error) else ""
        return Outcome(
            item_id,
            why=f"dask could not finish it ({type(error).__name__}: {reason})",
            kind=type(error).__name__,
            started=now(),
        )
