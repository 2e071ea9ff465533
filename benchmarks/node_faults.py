"""Made studies through a node in trouble: nothing may be lost, nothing doubled.

python benchmarks/node_faults.py [--studies 40] [--read 5] [--database sqlite|postgresql] [--every 12]
    [--senders 2] [--rounds 1] [--seed 1] [--ledger FILE]

dcmtk's storescu sends made studies; most have too few slices and are refused by name, `--read` of them are
read by a small random model and their SEG and SR go to dcmtk's storescp. Meanwhile receiver, assembler,
worker, sender and the archive are killed at random (SIGKILL), connections are cut after a random number of
bytes, the disk is filled (as root: the home is a small tmpfs) and the database is restarted (SQLite: locked).
Prints what became of the studies; exits with 1 if any was lost or doubled. Rounds differ by their seed; with
a ledger, a run that was interrupted goes on with the rounds that are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

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


def measure(given: argparse.Namespace, database: str, seed: int) -> dict[str, Any]:
    """Run one round on one database; return its verdict as plain values."""
    from builders.fault_field import Field, Plan

    folder = Path(tempfile.mkdtemp(prefix="ichnos-f"))
    plan = Plan(
        given.studies,
        given.read,
        events_between=given.every,
        senders=given.senders,
        seed=seed,
        disk_full=os.geteuid() == 0,
    )
    try:
        if database == "sqlite":
            return vars(Field(folder / "f", plan).run())
        with postgresql(folder) as (url, restart):

            def again() -> None:
                subprocess.run(restart, check=True, stdout=subprocess.DEVNULL, cwd="/")

            return vars(Field(folder / "f", replace(plan, restart_database=again), url).run())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rounds(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Run every round that the ledger does not hold yet; return what all of them came to."""
    asked = {"studies": given.studies, "read": given.read, "every": given.every, "senders": given.senders}
    known = _read_ledger(given.ledger)
    done = []
    for database in given.database or ["sqlite", "postgresql"]:
        for seed in range(given.seed, given.seed + given.rounds):
            name = {"database": database, "seed": seed, **asked}
            line = next((line for line in known if line["round"] == name), None)
            if line is None:
                line = {"round": name, "verdict": measure(given, database, seed)}
                if given.ledger is not None:
                    with given.ledger.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
            done.append(line)
            print(f"{database}, seed {seed}: {_in_words(line['verdict'])}", file=sys.stderr, flush=True)
    return done


def _read_ledger(file: Path | None) -> list[dict[str, Any]]:
    if file is None or not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _in_words(verdict: dict[str, Any]) -> str:
    problems = [*verdict["lost"], *verdict["double"]]
    happened = ", ".join(f"{count} × {kind}" for kind, count in sorted(verdict["disturbances"].items()))
    return "; ".join([f"{verdict['studies']} studies in {verdict['seconds']:.0f} s", happened, *problems])


def summary(done: list[dict[str, Any]]) -> list[dict[str, object]]:
    """Add up the rounds of each database."""
    rows = []
    for database in dict.fromkeys(line["round"]["database"] for line in done):
        verdicts = [line["verdict"] for line in done if line["round"]["database"] == database]
        kinds: Counter[str] = sum((Counter(one["disturbances"]) for one in verdicts), Counter())
        print(f"{database}: {', '.join(f'{count} × {kind}' for kind, count in sorted(kinds.items()))}")
        row: dict[str, object] = {"database": database, "rounds": len(verdicts)}
        row |= {name: sum(one[name] for one in verdicts) for name in _COUNTED}
        row |= {name: sum(len(one[name]) for one in verdicts) for name in ("lost", "double")}
        row["chain_whole"] = all(one["chain_whole"] for one in verdicts)
        row["disturbances"] = kinds.total()
        rows.append(row)
    return rows


_COUNTED = ("studies", "read", "refused", "failed", "revisions", "sent_again", "seconds")


def main(words: list[str] | None = None) -> list[dict[str, object]]:
    """Return one row per database."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=40, help="of each round")
    parser.add_argument("--read", type=int, default=5, help="studies that are read; the rest is refused")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--every", type=int, default=12, help="events between two disturbances, on average")
    parser.add_argument("--senders", type=int, default=2, help="that send at the same time")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the next ones count on")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ledger", type=Path, help="file of finished rounds; they are not run again")
    return summary(rounds(parser.parse_args(words or [])))


if __name__ == "__main__":
    rows = main(sys.argv[1:])
    print(table(rows))
    sys.exit(any(row["lost"] or row["double"] or not row["chain_whole"] for row in rows))
