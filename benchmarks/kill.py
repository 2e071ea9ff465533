"""Disturb runs of `read`, `simulate`, `transfer` and `train`, resume them, and compare the bytes.

python benchmarks/kill.py [--kills 50] [--verbs read,simulate,transfer,train] [--seed 1]

Each verb runs once undisturbed on small inputs. Then it is disturbed, `--kills` times by SIGKILL at a random
one of its changes to the file system, and a few times each by a full disk, a disk that became read-only, a
second run at the same time, a clock that runs backwards and a killed worker; then it is resumed to its end.
Prints per verb and disturbance how many ended with the bytes of the undisturbed run (times in ledgers and
logs aside), and exits with 1 if any did not. What the long computations of a verb return is remembered from
its undisturbed run (_kill_verbs.py), except by workers, which are new processes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from _kill_verbs import VERBS, Verb, remember_long_computations
from run import table

CHANGES = frozenset(("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.link"))
LOGS = ("ledger.jsonl", "lock", "training.log", "log.jsonl")  # hold times
DISTURBANCES = ("killed", "disk full", "read-only", "two at once", "clock backwards", "worker killed")


# ---- one run in a process of its own


def in_child(words: list[str], disturb: Callable[[], None] = lambda: None) -> int:
    """Run a command in a forked process; return its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            disturb()
            from ichnos.cli.main import run

            code = run(words)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def at_change(out: Path, number: int, act: Callable[[], None]) -> Callable[[], None]:
    """Return what makes a process act at its `number`-th change below `out`, and at every later one."""

    def disturb() -> None:
        count = 0

        def hook(event: str, arguments: Any) -> None:
            nonlocal count
            written = (
                event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            )
            if (event in CHANGES or written) and str(out) in str(arguments[0]):
                count += 1
                if count >= number:
                    act()

        sys.addaudithook(hook)

    return disturb


def counted(words: list[str], out: Path) -> int:
    """Run a command undisturbed; return how many changes it made below `out`."""
    reader, writer = os.pipe()
    code = in_child(words, at_change(out, 1, lambda: void(os.write(writer, b"."))))
    os.close(writer)
    total = 0
    while piece := os.read(reader, 1 << 16):
        total += len(piece)
    os.close(reader)
    if code not in (0, 2):
        raise RuntimeError(f"{words[0]} left undisturbed with {code}")
    return total


def void(_: object) -> None:
    """Return nothing."""


def die() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def fails(number: int) -> Callable[[], None]:
    """Return what refuses a change as the system would: 28 a full disk, 30 a read-only one."""

    def act() -> None:
        raise OSError(number, os.strerror(number))

    return act


def clock_backwards() -> None:
    """Let this process's clock run backwards."""
    began = time.time()
    steps = iter(range(10**9))
    time.time = lambda: began - 3600.0 * next(steps)


def hashes(out: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that a run leaves, logs aside."""
    files = [p for p in out.rglob("*") if p.is_file() and p.name not in LOGS and ".ichnos" not in p.parts]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# ---- the disturbances


class Trial:
    """A verb with its inputs and the bytes of its undisturbed run."""

    def __init__(self, verb: Verb, home: Path) -> None:
        self.verb, self.home = verb, home
        self.words = verb.prepare(home)
        self.out = home / "out"
        self.wanted = self._undisturbed()
        self.changes = counted(self.fresh(), self.out)
        if hashes(self.out) != self.wanted:
            raise RuntimeError(f"{verb.name}: two undisturbed runs differ: {self.differing()}")

    def _undisturbed(self) -> dict[str, str]:
        """Run the verb in this process, which then remembers its long computations."""
        from ichnos.cli.main import run

        with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
            code = run(self.fresh())
        if code not in (0, 2):
            raise RuntimeError(f"{self.verb.name} left undisturbed with {code}")
        return hashes(self.out)

    def differing(self) -> list[str]:
        """Name the files that are not those of the undisturbed run."""
        now = hashes(self.out)
        return sorted(
            name for name in now.keys() | self.wanted.keys() if now.get(name) != self.wanted.get(name)
        )

    def fresh(self, *more: str) -> list[str]:
        """Empty the output folder; return the command's words."""
        shutil.rmtree(self.out, ignore_errors=True)
        return [word.replace("OUT", str(self.out)) for word in self.words] + list(more)

    def disturbed(self, how: str, rng: np.random.Generator) -> bool:
        """Disturb a run, resume it, and say whether the bytes are those of the undisturbed one."""
        words = self.fresh(*(["--workers", "2"] if how == "worker killed" else []))
        at = int(rng.integers(1, self.changes + 1))
        if how == "killed":
            in_child(words, at_change(self.out, at, die))
        elif how in ("disk full", "read-only"):
            in_child(words, at_change(self.out, at, fails(28 if how == "disk full" else 30)))
        elif how == "clock backwards":
            in_child(words, clock_backwards)
        elif how == "two at once":
            self._two(words)
        else:
            self._worker_killed(words, rng)
        code, differing = in_child(words), self.differing()
        if code in (0, 2) and not differing:
            return True
        where = f" at change {at}" if how in ("killed", "disk full", "read-only") else ""
        print(f"{self.verb.name}, {how}{where}: left with {code}; differing: {differing}", file=sys.stderr)
        return False

    def _two(self, words: list[str]) -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(max(0, in_child(words)))
        in_child(words)
        os.waitpid(pid, 0)

    def _worker_killed(self, words: list[str], rng: np.random.Generator) -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(max(0, in_child(words)))
        time.sleep(float(rng.uniform(2, 8)))
        import psutil

        with contextlib.suppress(psutil.Error, ValueError):
            family = psutil.Process(pid).children(recursive=True)
            workers = [p for p in family if "spawn_main" in " ".join(p.cmdline())]
            if workers:
                workers[int(rng.integers(len(workers)))].kill()
        os.waitpid(pid, 0)


def main(
    kills: int = 5, seed: int = 1, verbs: tuple[str, ...] = ("read", "simulate")
) -> list[dict[str, Any]]:
    """Disturb each verb; return a row for each verb and disturbance."""
    import ichnos.api
    import ichnos.cli.main  # noqa: F401  (loaded before the forks)

    remember_long_computations()
    rows = []
    for verb in (verb for verb in VERBS if verb.name in verbs):
        home = Path(tempfile.mkdtemp(prefix="kill-"))
        try:
            trial = Trial(verb, home)
            for how in DISTURBANCES:
                if how == "worker killed" and not verb.has_workers:
                    continue
                count = kills if how == "killed" else max(1, kills // (25 if how == "worker killed" else 10))
                rng = np.random.default_rng([seed, DISTURBANCES.index(how)])
                good = sum(trial.disturbed(how, rng) for _ in range(count))
                rows.append({"verb": verb.name, "disturbance": how, "runs": count, "same bytes": good})
                print(rows[-1], f"of {trial.changes} changes", file=sys.stderr, flush=True)
        finally:
            shutil.rmtree(home, ignore_errors=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbs", default="read,simulate,transfer,train")
    arguments = parser.parse_args()
    result = main(arguments.kills, arguments.seed, tuple(arguments.verbs.split(",")))
    print(table(result))
    sys.exit(any(row["runs"] != row["same bytes"] for row in result))
