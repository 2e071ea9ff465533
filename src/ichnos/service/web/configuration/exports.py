"""The page of research exports: read studies as a de-identified cohort."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form
from fastapi.responses import HTMLResponse

from ichnos.errors import IchnosError, UsageError
from ichnos.service.accounts.auth import Visitor
from ichnos.service.node import Node
from ichnos.service.upkeep.export import ExportResult, export_studies
from ichnos.service.web.access import NodeOfRequest, ResearcherForm, ResearcherPage
from ichnos.service.web.rendering import full_page
from ichnos.service.web.upkeep import export_folder

EXPORTS = APIRouter(prefix="/exports", include_in_schema=False)


@EXPORTS.get("")
def exports_page(node: NodeOfRequest, visitor: ResearcherPage) -> HTMLResponse:
    """Show earlier exports and a form for a new one."""
    return _page(node, visitor)


@EXPORTS.post("")
def post_export(
    node: NodeOfRequest,
    visitor: ResearcherForm,
    studies: Annotated[str, Form(max_length=20_000)] = "",
    centre: Annotated[str, Form(max_length=32, pattern="^[A-Za-z0-9 _-]*$")] = "",
) -> HTMLResponse:
    """Export studies by number, or all that have been read."""
    try:
        numbers = study_numbers(studies)
        folder = export_folder(node)
        result = export_studies(node, folder, study_ids=numbers, actor=visitor.name, centre=centre)
    except IchnosError as problem:
        return _page(node, visitor, problem=str(problem))
    return _page(node, visitor, result=result)


def study_numbers(text: str) -> list[int]:
    """Return the numbers in a list that somebody typed.

    >>> study_numbers("3, 4  7")
    [3, 4, 7]
    """
    words = text.replace(",", " ").split()
    if wrong := [word for word in words if not word.isdecimal()]:
        raise UsageError(f"{wrong[0]} is no number of a study; give numbers such as 3, 4, 7")
    return [int(word) for word in words]


def _page(
    node: Node, visitor: Visitor, *, problem: str = "", result: ExportResult | None = None
) -> HTMLResponse:
    root = node.settings.home / "exports"
    earlier = sorted((folder.name for folder in root.glob("*") if folder.is_dir()), reverse=True)
    return full_page(
        "exports.html.j2", visitor, here="/exports", status=400 if problem else 200,
        earlier=earlier, root=root, problem=problem, result=result,
    )  # fmt: skip
