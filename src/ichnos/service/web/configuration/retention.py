"""The page of retention: how long studies stay, and which are held."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy import select

from ichnos.service.store.options import set_option
from ichnos.service.store.tables import StudyRow
from ichnos.service.upkeep.retention import KEEP_DAYS, hold_study, keep_days_of, purge_study
from ichnos.service.web.access import AdminForm, AdminPage, NodeOfRequest
from ichnos.service.web.api import StudyId
from ichnos.service.web.rendering import full_page

RETENTION = APIRouter(include_in_schema=False)


@RETENTION.get("/retention")
def retention_page(node: NodeOfRequest, visitor: AdminPage) -> HTMLResponse:
    """Show how long studies stay."""
    with node.database.snapshot() as session:
        held = select(StudyRow.id).where(StudyRow.hold.is_(True), StudyRow.state != "superseded")
        numbers = session.execute(held.order_by(StudyRow.id)).scalars().all()
    days, listed = keep_days_of(node), node.settings.storage.keep_days
    return full_page(
        "retention.html.j2", visitor, here="/retention", days=f"{days:g}", listed=f"{listed:g}", held=numbers
    )


@RETENTION.post("/retention")
def post_retention(
    node: NodeOfRequest, visitor: AdminForm, days: Annotated[float, Form(ge=0, le=36_500)]
) -> RedirectResponse:
    """Change how long studies stay."""
    with node.database.transaction() as session:
        set_option(session, KEEP_DAYS, days, now=node.clock(), actor=visitor.name)
    return RedirectResponse("/retention", status_code=303)


@RETENTION.post("/studies/{study_id}/hold")
def post_hold(
    node: NodeOfRequest, visitor: AdminForm, study_id: StudyId, held: Annotated[bool, Form()]
) -> RedirectResponse:
    """Hold a study, or let retention have it again."""
    hold_study(node, study_id, held=held, actor=visitor.name)
    return RedirectResponse(f"/studies/{study_id}", status_code=303)


@RETENTION.post("/studies/{study_id}/remove")
def post_remove(node: NodeOfRequest, visitor: AdminForm, study_id: StudyId) -> RedirectResponse:
    """Remove a study with all its revisions, images and readings."""
    purge_study(node, study_id, actor=visitor.name)
    return RedirectResponse("/", status_code=303)
