"""Open malformed inputs of every kind and count what becomes of them.

python benchmarks/fuzz.py [--cases 20000] [--seed 1] [--kinds "DICOM bytes,zips"] [--guided SECONDS]

Each case is read, or refused by name (an error of ours with a sentence); anything else is a fault: a
traceback, a hang (over 20 s of processor time) or over memory (2 GB beyond what the process began with).
Faults are printed with kind, seed and number, so that `--kinds KIND --seed S --only N` repeats one.
`--guided` lets atheris (pip install "ichnos[fuzzing]") look for header and table bytes that reach new code.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import _fuzz_inputs as inputs
from run import table

CPU_S, MEMORY_MB = 20.0, 2048
OUTCOMES = ("read", "refused by name", "traceback", "hang", "over memory")
_WALL_S = 120.0  # for a case that hangs without using the processor


class _Hang(BaseException):
    pass


def one(kind: str, seed: int, number: int) -> tuple[str, str]:
    """Make one case and open it; return what became of it, and the traceback of a fault."""
    from ichnos.errors import IchnosError

    rng = np.random.default_rng([seed, list(inputs.KINDS).index(kind), number])
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            signal.setitimer(signal.ITIMER_PROF, CPU_S)
            inputs.KINDS[kind](rng, folder)()
        return "read", ""
    except IchnosError as error:
        nameless = not str(error).strip()
        return ("traceback", "an error without a sentence") if nameless else ("refused by name", "")
    except MemoryError:
        return "over memory", traceback.format_exc()
    except _Hang:
        return "hang", traceback.format_exc()
    except Exception:
        return "traceback", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        shutil.rmtree(folder, ignore_errors=True)


def _work(pipe: Connection) -> None:
    """Be a process that opens cases until there are no more."""
    import ichnos.formats.dicom
    import ichnos.models
    import ichnos.quality  # noqa: F401  (loaded before memory is bounded)

    def hang(*_: object) -> None:
        raise _Hang

    signal.signal(signal.SIGPROF, hang)
    one("DICOM bytes", 0, 0)
    one("NIfTI", 0, 0)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGESIZE") + (MEMORY_MB << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while (case := pipe.recv()) is not None:
        pipe.send((case, *one(*case)))


class _Process:
    """One process and the pipe to it; replaced where a case kills it."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def run(self, case: tuple[str, int, int]) -> tuple[str, str]:
        try:
            self.pipe.send(case)
            if not self.pipe.poll(_WALL_S):
                self.process.kill()
                return "hang", "no answer within the wall-clock limit"
            _, outcome, details = self.pipe.recv()
            return outcome, details
        except (EOFError, OSError):
            self.process.join(5)
            return "traceback", f"the process died with code {self.process.exitcode}"

    def stop(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join(5)


def main(
    cases: int = 1300, seed: int = 1, kinds: tuple[str, ...] = tuple(inputs.KINDS)
) -> list[dict[str, Any]]:
    """Open `cases` cases, an equal number of each kind; print each fault once, return a row per kind."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    seen: set[str] = set()
    began = time.perf_counter()
    process = _Process()
    for kind in kinds:
        for number in range(cases // len(kinds)):
            outcome, details = process.run((kind, seed, number))
            counts[kind][outcome] += 1
            if outcome not in OUTCOMES[:2]:
                last = details.strip().splitlines()[-1:] or [""]
                place = [line for line in details.splitlines() if "ichnos" in line][-1:]
                key = f"{kind}{outcome}{last[0][:60]}{place}"
                if key not in seen:
                    seen.add(key)
                    print(
                        f"{outcome}: {kind}, seed {seed}, number {number}\n{details}",
                        file=sys.stderr,
                        flush=True,
                    )
            if not process.process.is_alive():
                process.stop()
                process = _Process()
    process.stop()
    rows = [{"kind": kind, **{name: counts[kind][name] for name in OUTCOMES}} for kind in kinds]
    rows.append({"kind": "all", **{name: sum(counts[k][name] for k in kinds) for name in OUTCOMES}})
    print(f"{cases} cases, seed {seed}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return rows


def guided(seconds: int) -> None:
    """Let atheris search the bytes of headers and tables that reach new code; a fault ends it."""
    import atheris

    with atheris.instrument_imports(include=["ichnos.formats", "pydicom", "nibabel"]):
        import ichnos.formats.dicom
        import ichnos.formats.nifti
        import ichnos.formats.text

    from ichnos.errors import IchnosError

    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))

    def case(content: bytes) -> None:
        which = content[0] % 3 if content else 0
        path = folder / ("a.dcm", "a.nii", "a.tsv")[which]
        path.write_bytes(content[1:])
        try:
            if which == 0:
                ichnos.formats.dicom.inspect_dicom(path)
            elif which == 1:
                ichnos.formats.nifti.load(path)
            else:
                ichnos.formats.text.read_table(path)
        except IchnosError:
            pass

    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "0").write_bytes(b"\0" + inputs.slices()[0])
    (corpus / "1").write_bytes(b"\1" + inputs.image()[:4000])
    (corpus / "2").write_bytes(b"\2participant_id\tage\nsub-1\t7\n")
    atheris.Setup([sys.argv[0], str(corpus), f"-max_total_time={seconds}", "-max_len=20000"], case)
    atheris.Fuzz()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=1300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default="")
    parser.add_argument("--only", type=int)
    parser.add_argument("--guided", type=int, metavar="SECONDS")
    arguments = parser.parse_args()
    named = tuple(arguments.kinds.split(",")) if arguments.kinds else tuple(inputs.KINDS)
    if arguments.guided:
        guided(arguments.guided)
    elif arguments.only is not None:
        print(*one(named[0], arguments.seed, arguments.only), sep="\n")
    else:
        rows = main(arguments.cases, arguments.seed, named)
        print(table(rows))
        sys.exit(any(rows[-1][name] for name in OUTCOMES[2:]))
