"""Templates of the pages, filled in."""

from __future__ import annotations

from typing import Any

import jinja2
from fastapi.responses import HTMLResponse

from ichnos.service.accounts.auth import Visitor
from ichnos.service.web.navigation import entries_for

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("ichnos.service.web"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def fragment(template: str, **values: Any) -> HTMLResponse:
    """Return a piece of a page, or a page that needs nobody signed in."""
    return HTMLResponse(_TEMPLATES.get_template(template).render(visitor=None, **values))


def full_page(
    template: str, visitor: Visitor, *, here: str = "", status: int = 200, **values: Any
) -> HTMLResponse:
    """Return a page for a visitor; `here` is the navigation's entry that it belongs to."""
    text = _TEMPLATES.get_template(template).render(
        visitor=visitor, here=here, entries=entries_for(visitor), **values
    )
    return HTMLResponse(text, status_code=status)
