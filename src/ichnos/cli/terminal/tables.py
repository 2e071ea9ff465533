"""Tables for a terminal; every string is shown as it is, never taken for markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TextIO


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, file: TextIO | None = None
) -> None:
    """Print rows below a header; None is an empty cell.

    >>> print_table(["scan", "status"], [["[red]x[/red]", None]])
    ┏━━━━━━━━━━━━━━┳━━━━━━━━┓
    ┃ scan         ┃ status ┃
    ┡━━━━━━━━━━━━━━╇━━━━━━━━┩
    │ [red]x[/red] │        │
    └──────────────┴────────┘
    """
    import sys

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table(*[escape(name) for name in header])
    for row in rows:
        table.add_row(*[Text("" if cell is None else str(cell)) for cell in row])
    Console(file=file or sys.stdout).print(table)
