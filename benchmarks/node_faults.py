"""Made studies through a node in trouble: nothing may be lost, nothing doubled.

python benchmarks/node_faults.py [--studies 40] [--read 5] [--database sqlite|postgresql] [--every 12]

dcmtk's storescu sends made studies; most have too few slices and are refused by name, `--read` of them are
read by a small random model and their SEG and SR go to dcmtk's storescp. Meanwhile receiver, assembler,
worker, sender and the archive are killed at random (SIGKILL), connections are cut after a random number of
bytes, the disk is filled (as root: the home is a small tmpfs) and the database is restarted (SQLite: locked).
Prints what became of the studies; exits with 1 if any was lost or doubled.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from run import table


@contextmanager
def postgresql(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Run a server of its own on a socket; give its URL and the command that restarts it as after a crash."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        raise RuntimeError("PostgreSQL is not installed (Debian: postgresql)")
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder.chmod(0o777)
    data = folder / "pg"
    initdb = [*as_user, str(programs[-1] / "initdb"), "-D", str(data), "-A", "trust", "-U", "ichnos"]
    subprocess.run(initdb, check=True, capture_output=True, cwd="/")
    options = f"-k {folder} -c listen_addresses=''"
    control = [*as_user, str(programs[-1] / "pg_ctl"), "-D", str(data), "-w", "-o", options]
    control += ["-l", str(folder / "pg.log")]
    subprocess.run([*control, "start"], check=True, stdout=subprocess.DEVNULL, cwd="/")
    try:
        yield f"postgresql+psycopg://ichnos@/postgres?host={folder}", [*control, "-m", "immediate", "restart"]
    finally:
        stop = [*control, "-m", "immediate", "stop"]
        subprocess.run(stop, check=False, stdout=subprocess.DEVNULL, cwd="/")


def measure(studies: int, read: int, database: str, every: int, seed: int) -> dict[str, object]:
    """Run one database; return its row of the table."""
    from builders.fault_field import Field, Plan

    folder = Path(tempfile.mkdtemp(prefix="ichnos-f"))
    full = os.geteuid() == 0
    plan = Plan(studies, read, events_between=every, seed=seed, disk_full=full)
    try:
        if database == "sqlite":
            return _row(Field(folder / "f", plan).run(), database)
        with postgresql(folder) as (url, restart):

            def again() -> None:
                subprocess.run(restart, check=True, stdout=subprocess.DEVNULL, cwd="/")

            plan = Plan(
                studies, read, events_between=every, seed=seed, disk_full=full, restart_database=again
            )
            return _row(Field(folder / "f", plan, url).run(), database)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _row(verdict: object, database: str) -> dict[str, object]:
    values = dict(vars(verdict))
    for problem in [*values["lost"], *values["double"]][:20]:
        print(problem, file=sys.stderr)
    disturbances = values.pop("disturbances")
    print(f"{database}: {', '.join(f'{count} × {kind}' for kind, count in sorted(disturbances.items()))}")
    values |= {"lost": len(values["lost"]), "double": len(values["double"])}
    return {"database": database, **values, "disturbances": sum(disturbances.values())}


def main(words: list[str] | None = None) -> list[dict[str, object]]:
    """Return one row per database."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--read", type=int, default=5, help="studies that are read; the rest is refused")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--every", type=int, default=12, help="events between two disturbances, on average")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(words or [])
    databases = given.database or ["sqlite", "postgresql"]
    return [measure(given.studies, given.read, name, given.every, given.seed) for name in databases]


if __name__ == "__main__":
    rows = main(sys.argv[1:])
    print(table(rows))
    sys.exit(any(row["lost"] or row["double"] or not row["chain_whole"] for row in rows))
