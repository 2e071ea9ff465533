"""The page of a study: the paper's table beside ours, written as one self-contained HTML file, as JSON,
and as CSV.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ichnos import __version__
from ichnos.errors import InputRefused, require
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.tables import Cell, Table, cell_text
from ichnos.files import atomic_file
from ichnos.studies.shared.curves import CURVE_PICTURE, TrainingCurve, curves_csv

_UNSAID = ("", "-", "–", "todo", "tbd", "nan", "none", "n/a")


class PagePicture(Protocol):
    """A picture of the page; `evidence.figures.Figure` is one."""

    @property
    def name(self) -> str: ...
    @property
    def caption(self) -> str: ...
    @property
    def png(self) -> bytes: ...


@dataclass(frozen=True)
class PngPicture:
    """A picture that is pixels already."""

    name: str  # file stem
    caption: str
    png: bytes


@dataclass(frozen=True)
class StudyPage:
    """All that a study found. A cell of a table is a number, an estimate with its interval, or words that
    say why there is none.
    """

    name: str  # "ryu2025"
    title: str
    paper: str  # the citation
    design: tuple[str, ...]  # paragraphs, as a methods section
    tables: tuple[Table, ...]  # the first is the paper's table beside ours
    pictures: tuple[PagePicture, ...] = ()
    limits: tuple[str, ...] = ()  # what these numbers do not say
    provenance: Mapping[str, str | float | int] = field(default_factory=dict)
    curves: tuple[TrainingCurve, ...] = ()  # of its trainings
    simulated: bool = False  # its patients are

    @property
    def uses(self) -> str:
        """Return what stands at the top of page and tables."""
        who = " Its patients are simulated; only numbers of a paper are of people." if self.simulated else ""
        return f"Research use only.{who}"

    def __post_init__(self) -> None:
        for table in self.tables:
            for row in table.rows:
                for column, cell in zip(table.columns, row, strict=True):
                    if not _says_something(cell):
                        raise ValueError(
                            f"{self.name}, table {table.name}, row {row[0]!r}: {column!r} is {cell!r} and"
                            " does not say why"
                        )


def comparison(name: str, caption: str, rows: Sequence[Mapping[str, Cell]], *, note: str = "") -> Table:
    """Lay rows out as a table: columns in the order in which they first appear ("measure", "paper", "ours",
    …).

    >>> comparison("t", "Overlap", [{"measure": "Dice", "paper": 0.57, "ours": 0.6}]).columns
    ('measure', 'paper', 'ours')
    """
    columns = tuple(dict.fromkeys(column for row in rows for column in row))
    return Table(
        name,
        caption,
        columns,
        tuple(tuple(row.get(column, "does not apply") for column in columns) for row in rows),
        note,
    )


def cell(compute: Callable[[], Cell]) -> Cell:
    """Return what `compute` gives, or in words why it gives nothing.

    >>> from ichnos.evidence.metrics.agreement import concordance
    >>> cell(lambda: concordance([1.0], [2.0]))
    'the first measurement holds 1 value(s); at least 3 are needed'
    """
    try:
        value = compute()
    except InputRefused as refusal:
        return str(refusal)
    if _says_something(value):
        return value
    cases = f" from {value.n} case(s)" if isinstance(value, Estimate) else ""
    return f"undefined{cases}: the data do not determine it"


def _says_something(value: Cell) -> bool:
    if isinstance(value, Estimate):
        return math.isfinite(value.value)
    if isinstance(value, str):
        return value.strip().lower() not in _UNSAID
    return value is not None and math.isfinite(value)


def write_page(page: StudyPage, out: Path) -> Path:
    """Write study.html (one file, no link), studies.json, and a CSV per table; return the HTML file."""
    out.mkdir(parents=True, exist_ok=True)
    for table in page.tables:
        with atomic_file(out / f"{table.name}.csv") as temporary:
            temporary.write_text(table.csv(), encoding="utf-8")
    with atomic_file(out / "studies.json") as temporary:
        temporary.write_text(
            json.dumps(page_json(page), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    html = out / "study.html"
    with atomic_file(html) as temporary:
        temporary.write_text(_html(page), encoding="utf-8")
    return html


def write_results(page: StudyPage, folder: Path) -> None:
    """Write what is small of a page: tables as CSV and Markdown, curves with their pictures, a ledger."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {f"{table.name}.csv": table.csv() for table in page.tables}
    texts["tables.md"] = "\n".join((f"{page.uses}\n", *(table.markdown() for table in page.tables)))
    ledger = {key: value for key, value in page_json(page).items() if key not in ("tables", "pictures")}
    texts["ledger.json"] = json.dumps(ledger, indent=2, ensure_ascii=False) + "\n"
    if page.curves:
        texts["curves.csv"] = curves_csv(page.curves)
    for name, text in texts.items():
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    for picture in page.pictures:
        if picture.name.startswith(CURVE_PICTURE):
            with atomic_file(folder / f"{picture.name}.png") as temporary:
                temporary.write_bytes(picture.png)


def page_json(page: StudyPage) -> dict[str, Any]:
    """Return the page as plain data; an estimate becomes value, low, high and n, a missing cell its words."""
    return {
        "study": page.name,
        "title": page.title,
        "paper": page.paper,
        "ichnos": __version__,
        "use": page.uses,
        "design": list(page.design),
        "limits": list(page.limits),
        "provenance": dict(page.provenance),
        "tables": [_table(table) for table in page.tables],
        "pictures": [{"name": picture.name, "caption": picture.caption} for picture in page.pictures],
    }


def _table(table: Table) -> dict[str, Any]:
    rows = [
        {column: _plain(value) for column, value in zip(table.columns, row, strict=True)}
        for row in table.rows
    ]
    return {"name": table.name, "caption": table.caption, "note": table.note, "rows": rows}


def _plain(value: Cell) -> Any:
    if not isinstance(value, Estimate):
        return value
    bounds = (
        (value.low, value.high) if math.isfinite(value.low) and math.isfinite(value.high) else (None, None)
    )
    return {"value": value.value, "low": bounds[0], "high": bounds[1], "n": value.n, "level": value.level}


def _html(page: StudyPage) -> str:
    jinja2 = require("jinja2", extra="evidence", purpose="the page of a study")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ichnos.studies.shared"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = cell_text
    environment.filters["is_words"] = lambda value: isinstance(value, str)
    environment.filters["inline"] = lambda picture: (
        "data:image/png;base64," + base64.b64encode(picture.png).decode("ascii")
    )
    text: str = environment.get_template("study.html.j2").render(page=page, version=__version__)
    return text
