"""What the ledger costs: many small patients through runs.apply, against a bare loop that writes the same
files.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ichnos.runs import apply

PATIENTS = 300


@dataclass(frozen=True)
class Thing:
    """An item."""

    id: str


def work(item: Thing, folder: Path) -> dict[str, int]:
    """Write one small file."""
    (folder / item.id).mkdir(parents=True)
    (folder / item.id / "out.txt").write_text(item.id)
    return {"letters": len(item.id)}


def main() -> list[dict[str, object]]:
    """Return milliseconds per patient beyond the work itself, and of a second call that finds everything
    finished.
    """
    items = [Thing(f"p{k:04d}") for k in range(PATIENTS)]
    with tempfile.TemporaryDirectory() as folder:
        bare_s = _timed(lambda: [work(item, Path(folder) / "bare") for item in items])
        rows: list[dict[str, object]] = [
            {"name": "a bare loop", "value": 1000 * bare_s / PATIENTS, "unit": "ms per patient"}
        ]
        for name, out, workers in (
            ("ledger, this process", "one", 1),
            ("resume, all finished", "one", 1),
            ("ledger, 2 workers", "two", 2),
        ):
            options = {"settings": {}, "name": "work", "progress": False, "workers": workers}
            spent = _timed(
                lambda out=out, options=options: apply(work, items, out=Path(folder) / out, **options)
            )
            rows.append({"name": name, "value": 1000 * spent / PATIENTS, "unit": "ms per patient"})
    return rows


def _timed(function) -> float:  # type: ignore[no-untyped-def]
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


if __name__ == "__main__":
    from run import table

    print(table(main()))
