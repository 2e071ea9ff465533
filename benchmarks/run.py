"""Run every benchmark of this folder, or those named, and print one table each: two things in one run, and
their ratio.

python benchmarks/run.py [dicom networks …]
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).parent


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Lay rows out in aligned columns, in the order in which their keys first appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *[[_cell(row.get(column)) for column in columns] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(names: list[str]) -> int:
    """Run the named benchmarks, all without a name; a failure is printed and does not stop the rest."""
    sys.path.insert(0, str(HERE))
    available = sorted(
        path.stem for path in HERE.glob("*.py") if path.stem != "run" and not path.stem.startswith("_")
    )
    unknown = sorted(set(names) - set(available))
    if unknown:
        print(f"no benchmark named {', '.join(unknown)}; there are: {', '.join(available)}", file=sys.stderr)
        return 3
    failed = 0
    for name in names or available:
        print(f"\n== {name}", flush=True)
        started = time.perf_counter()
        try:
            print(table(importlib.import_module(name).main()))
        except Exception as error:  # the others still run; the exit code tells
            failed += 1
            print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr)
        print(f"({time.perf_counter() - started:.0f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
