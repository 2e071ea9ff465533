"""The evidence page as one HTML file, and the same as plain data for the API."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ichnos import __version__
from ichnos.audit.monitoring.change import ALPHA
from ichnos.audit.monitoring.live import LiveEvidence
from ichnos.errors import require
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.tables import Cell, cell_text
from ichnos.files import atomic_file

LIVE_PAGE, LIVE_JSON = "evidence.html", "evidence.json"


def live_html(evidence: LiveEvidence) -> str:
    """Return the page as HTML text without links or scripts."""
    jinja2 = require("jinja2", extra="report", purpose="the evidence page")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ichnos.audit.monitoring"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = cell_text
    text: str = environment.get_template("live.html.j2").render(
        evidence=evidence, version=__version__, alpha=ALPHA
    )
    return text


def live_plain(evidence: LiveEvidence) -> dict[str, Any]:
    """Return the evidence as plain data; an undefined number is null.

    >>> live_plain(LiveEvidence(0, 0, (), (), ()))["pairs"]
    0
    """
    tables = {
        table.name: [
            {column: _plain(value) for column, value in zip(table.columns, row, strict=True)}
            for row in table.rows
        ]
        for table in evidence.tables
    }
    return {
        "pairs": evidence.pairs,
        "patients": evidence.patients,
        "models": list(evidence.models),
        "alarms": [asdict(alarm) for alarm in evidence.alarms],
        "tables": tables,
        "limits": list(evidence.limits),
    }


def _plain(value: Cell) -> Any:
    if isinstance(value, Estimate):
        return {key: _plain(getattr(value, key)) for key in ("value", "low", "high", "n", "level")}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_live(evidence: LiveEvidence, out: Path) -> Path:
    """Write page and JSON into a folder; return the page."""
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (
        (LIVE_PAGE, live_html(evidence)),
        (LIVE_JSON, json.dumps(live_plain(evidence), indent=1) + "\n"),
    ):
        with atomic_file(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return out / LIVE_PAGE
