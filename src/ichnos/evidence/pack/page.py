"""The page: one HTML file with every table and figure inside, that opens offline and prints well."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ichnos import __version__
from ichnos.errors import require
from ichnos.evidence.figures import Figure
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.pack.evaluation import Evaluation
from ichnos.evidence.pack.flags import ReviewFlag
from ichnos.evidence.pack.section import Section
from ichnos.evidence.tables import Cell, Table, cell_text


def render_page(
    evaluation: Evaluation,
    sections: Sequence[Section],
    *,
    flags: Sequence[ReviewFlag],
    methods: str,
    lists: Sequence[Table],
) -> str:
    """Return the page as HTML text."""
    order = {"alarm": 0, "warn": 1, "note": 2}
    page: str = _template().render(
        evaluation=evaluation,
        sections=sections,
        flags=sorted(flags, key=lambda flag: order[flag.level]),
        methods=methods,
        lists=lists,
        version=__version__,
    )
    return page


def _template() -> Any:
    jinja2 = require("jinja2", extra="evidence", purpose="the evidence page")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ichnos.evidence.pack"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = cell_text
    environment.filters["stacked"] = lambda cell: _stacked(jinja2, cell)
    environment.filters["inline"] = _inline
    return environment.get_template("evidence.html.j2")


def _stacked(jinja2: ModuleType, cell: Cell) -> str:
    """Put the interval under the value, so that wide tables fit the page."""
    value, bracket, interval = cell_text(cell).partition(" (")
    if not isinstance(cell, Estimate) or not bracket:
        return cell_text(cell)
    markup: str = jinja2.utils.markupsafe.Markup('{}<span class="ci">({}</span>').format(value, interval)
    return markup


def _inline(figure: Figure) -> str:
    return "data:image/png;base64," + base64.b64encode(figure.png).decode()
