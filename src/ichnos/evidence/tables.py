"""A table once, written as CSV for machines, Markdown for notes, LaTeX for journals and HTML for the page."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass

from ichnos.evidence.metrics.intervals import Estimate

UNDEFINED = "undefined"  # the data do not determine it
Cell = Estimate | float | int | str | None


@dataclass(frozen=True)
class Table:
    """Rows under column names, with a caption and a note on how the numbers were made."""

    name: str  # file stem
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def csv(self) -> str:
        """Return comma-separated values at full precision; an estimate takes three columns. Undefined is
        empty.

        >>> print(Table("age", "Age", ("centre", "years"), (("north", 61.5), ("south", 70))).csv())
        centre,years
        north,61.5
        south,70
        """
        wide = [any(isinstance(row[i], Estimate) for row in self.rows) for i in range(len(self.columns))]
        header = [
            h for i, c in enumerate(self.columns) for h in ((c, f"{c} low", f"{c} high") if wide[i] else (c,))
        ]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(header)
        for row in self.rows:
            writer.writerow([value for i, cell in enumerate(row) for value in _raw(cell, wide[i])])
        return out.getvalue()

    def markdown(self) -> str:
        """Return a Markdown table with its caption and note.

        >>> Table("age", "Age", ("centre", "years"), (("north", 61.5),)).markdown().splitlines()[2]
        '| centre | years |'
        """
        lines = [f"**{self.caption}**", "", _line(self.columns), "|" + "---|" * len(self.columns)]
        lines += [_line([cell_text(cell) for cell in row]) for row in self.rows]
        return "\n".join([*lines, "", self.note, ""])

    def latex(self) -> str:
        """Return a booktabs table.

        >>> Table("age", "Age", ("centre", "share"), (("north", 0.5),)).latex().splitlines()[4].split()[:3]
        ['north', '&', '0.500']
        """
        align = "l" + "r" * (len(self.columns) - 1)
        body = [" & ".join(_tex(cell_text(cell)) for cell in row) + r" \\" for row in self.rows]
        head = " & ".join(rf"\textbf{{{_tex(c)}}}" for c in self.columns) + r" \\"
        note = [r"\par\smallskip\footnotesize " + _tex(self.note)] if self.note else []
        return "\n".join(
            [
                r"\begin{table}[htbp]\centering\small",
                rf"\caption{{{_tex(self.caption)}}}\label{{tab:{self.name}}}",
                rf"\begin{{tabular}}{{{align}}}\toprule",
                head + r"\midrule",
                *body,
                r"\bottomrule\end{tabular}",
                *note,
                r"\end{table}",
                "",
            ]
        )


def cell_text(cell: Cell) -> str:
    """Return a cell as people read it: three significant digits, estimates with their interval, undefined in
    words; a dash where nothing was asked.

    >>> cell_text(Estimate(0.8123, 0.75, 0.861, 100)), cell_text(float("nan")), cell_text(1234.5)
    ('0.812 (0.750–0.861)', 'undefined', '1234')
    """
    if cell is None:
        return "–"
    if isinstance(cell, Estimate):
        if math.isnan(cell.value):
            return UNDEFINED
        if math.isnan(cell.low):
            return f"{number(cell.value)} (no interval)"
        digits = _digits(max(abs(cell.value), abs(cell.high - cell.low)))
        join = " to " if min(cell.low, cell.value) < 0 else "–"
        return f"{cell.value:.{digits}f} ({cell.low:.{digits}f}{join}{cell.high:.{digits}f})"
    return number(cell) if isinstance(cell, float) else str(cell)


def number(value: float) -> str:
    """Return a number with three significant digits, without an exponent unless it is tiny.

    >>> number(1234.5), number(0.0123456), number(0.00001), number(float("nan"))
    ('1234', '0.0123', '1.0e-05', 'undefined')
    """
    if math.isnan(value):
        return UNDEFINED
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value != 0 and abs(value) < 1e-4:
        return f"{value:.1e}"
    return f"{value:.{_digits(abs(value))}f}"


def p_value(p: float) -> str:
    """Return a p value as journals print it.

    >>> p_value(0.00001), p_value(0.0123), p_value(0.4)
    ('< 0.001', '0.012', '0.40')
    """
    if math.isnan(p):
        return "no test"
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _digits(size: float) -> int:
    if size == 0 or not math.isfinite(size):
        return 2
    return int(min(5, max(0, 2 - math.floor(math.log10(size)))))


def _raw(cell: Cell, wide: bool) -> list[str]:
    if isinstance(cell, Estimate):
        return [_plain(v) for v in (cell.value, cell.low, cell.high)]
    text = "" if cell is None else _plain(cell) if isinstance(cell, float) else str(cell)
    return [text, "", ""] if wide else [text]


def _plain(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


_TEX = {
    **{letter: "\\" + letter for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "²": "$^2$",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "<": "$<$",
    ">": "$>$",
    "∞": r"$\infty$",
    "τ": r"$\tau$",
    "κ": r"$\kappa$",
    "ρ": r"$\rho$",
    "χ": r"$\chi$",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)
