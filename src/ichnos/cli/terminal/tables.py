"""Tables for a terminal; every string is shown as it is, never taken for markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TextIO

_WIDTH_OF_FILES = 1000  # characters: whatever a row needs


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, file: TextIO | None = None
) -> None:
    """Print rows below a header; None is an empty cell. In a file or a pipe a row is one line.

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
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(*[Column(escape(name), overflow="fold") for name in header])
    for row in rows:
        table.add_row(*[Text("" if cell is None else str(cell)) for cell in row])
    out = file or sys.stdout
    Console(file=out, width=None if out.isatty() else _WIDTH_OF_FILES).print(table)
