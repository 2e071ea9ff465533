"""What is known of a patient besides the scan: a table that the user gives, checked before anything is read."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from ichnos.errors import InputRefused, UsageError

LIMITS: dict[str, tuple[float, float]] = {
    "age_years": (0, 120),
    "onset_to_ct_h": (0, 240),
    "anticoagulation": (0, 1),
    "gcs": (3, 15),
}


def read_facts(table: Path) -> dict[str, dict[str, float]]:
    """Read a tab-separated table: a column `id`, then any of the columns of LIMITS; empty and n/a mean unknown."""
    if not table.is_file():
        raise UsageError(f"{table} does not exist; give a tab-separated table with a column id and any of {', '.join(LIMITS)}")
    with table.open(newline="", encoding="utf-8-sig") as stream:
        lines = csv.DictReader(stream, delimiter="\t")
        columns = list(lines.fieldnames or [])
        rows = list(lines)
    if "id" not in columns or set(columns) - {"id", *LIMITS}:
        given = ", ".join(columns) or "no columns"
        raise UsageError(f"{table} has {given}; it needs a column id and may have {', '.join(LIMITS)}, no others")
    ids = [str(row["id"]) for row in rows]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise InputRefused(f"{table} tells of {twice[0]} twice; give one line for each scan")
    return {str(row["id"]): known_facts(row, where=f"{table}, {row['id']}") for row in rows}


def known_facts(facts: Mapping[str, object], *, where: str) -> dict[str, float]:
    """Return the facts that a reading uses, as numbers; one that cannot be true is refused.

    >>> known_facts({"gcs": "14", "age_years": "n/a", "hospital": "A"}, where="a table")
    {'gcs': 14.0}
    """
    found = {}
    for name, (low, high) in LIMITS.items():
        told = facts.get(name)
        if told is None or str(told).strip() in ("", "n/a"):
            continue
        try:
            value = float(str(told))
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise InputRefused(f"{where}: {name} is {told!r}; it must be a number from {low:g} to {high:g}, or n/a")
        found[name] = value
    return found
