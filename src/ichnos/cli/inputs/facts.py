"""What is known of a patient besides the scan: a table that the user gives, checked before anything is
read.
"""

from __future__ import annotations

from pathlib import Path

from ichnos.errors import InputRefused, UsageError
from ichnos.formats.text import read_table
from ichnos.scan import FACTS, known_facts


def read_facts(table: Path) -> dict[str, dict[str, float]]:
    """Read a tab-separated table: a column `id`, then any of the columns of FACTS; empty and n/a mean
    unknown.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = Path(folder) / "facts.tsv"
    ...     _ = table.write_text("id\\tage_years\\tgcs\\nx\\t71\\tn/a\\n")
    ...     read_facts(table)
    {'x': {'age_years': 71.0}}
    """
    if not table.is_file():
        raise UsageError(
            f"{table} does not exist; give a tab-separated table with a column id and any of"
            f" {', '.join(FACTS)}"
        )
    columns, rows = read_table(table)
    if "id" not in columns or set(columns) - {"id", *FACTS}:
        given = ", ".join(columns) or "no columns"
        raise UsageError(
            f"{table} has {given}; it needs a column id and may have {', '.join(FACTS)}, no others"
        )
    ids = [str(row["id"]) for row in rows]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise InputRefused(f"{table} tells of {twice[0]} twice; give one line for each scan")
    return {str(row["id"]): known_facts(row, where=f"{table}, {row['id']}") for row in rows}
