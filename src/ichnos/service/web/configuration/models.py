"""The page of models: which are installed, which one reads, and the card of each."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse

from ichnos.service import installed
from ichnos.service.web.access import AdminForm, AdminPage, NodeOfRequest
from ichnos.service.web.rendering import full_page

MODELS = APIRouter(prefix="/models", include_in_schema=False)


@MODELS.get("")
def models_page(node: NodeOfRequest, visitor: AdminPage) -> HTMLResponse:
    """Show the installed models."""
    with node.database.snapshot() as session:
        models = installed.installed_models(session, node.settings)
    folder = node.settings.home / "models"
    return full_page("models.html.j2", visitor, here="/models", models=models, folder=folder)


@MODELS.get("/{name}")
def model_page(node: NodeOfRequest, visitor: AdminPage, name: str) -> HTMLResponse:
    """Show the card of a model."""
    card = installed.model_card(node.settings, name)
    if card is None:
        raise HTTPException(404, "there is no such model")
    return full_page("model.html.j2", visitor, here="/models", name=name, blocks=card_blocks(card))


@MODELS.post("")
def post_model(node: NodeOfRequest, visitor: AdminForm, name: Annotated[str, Form()]) -> RedirectResponse:
    """Read new studies with another model."""
    with node.database.transaction() as session:
        installed.choose_model(session, node.settings, name, now=node.clock(), actor=visitor.name)
    return RedirectResponse("/models", status_code=303)


def card_blocks(card: str) -> list[tuple[str, str]]:
    """Split a card (Markdown of headings, list items and paragraphs) into what the page shows.

    >>> card_blocks("# multi 1\\n\\n**Research use**\\n## What it reads\\n- ICH")
    [('h2', 'multi 1'), ('p', 'Research use'), ('h3', 'What it reads'), ('li', 'ICH')]
    """
    kinds = (("## ", "h3"), ("# ", "h2"), ("- ", "li"), ("", "p"))
    blocks = []
    for line in filter(None, (line.strip() for line in card.splitlines())):
        mark, kind = next((mark, kind) for mark, kind in kinds if line.startswith(mark))
        blocks.append((kind, line.removeprefix(mark).replace("**", "").replace("`", "")))
    return blocks
