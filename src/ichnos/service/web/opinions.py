"""Confirm or reject a finding with one key: an event with its author, shown in the study's timeline."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Form, HTTPException
from fastapi.responses import RedirectResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from ichnos.service.node import Node
from ichnos.service.store import events
from ichnos.service.store.tables import EventRow, StudyRow
from ichnos.service.web.access import FormVisitor, NodeOfRequest, Reader
from ichnos.service.web.api import StudyId

OPINION_PAGES = APIRouter(include_in_schema=False)
OPINIONS = APIRouter(
    responses={
        400: {"description": "what was asked for cannot be; `detail` says why"},
        404: {"description": "there is no such study"},
        409: {"description": "the study's state does not allow this now"},
    }
)
Opinion = Literal["confirmed", "rejected"]
_KINDS = ("confirmed", "rejected")


@OPINION_PAGES.post("/studies/{study_id}/opinion")
def post_opinion(
    node: NodeOfRequest, visitor: FormVisitor, study_id: StudyId, opinion: Annotated[Opinion, Form()]
) -> RedirectResponse:
    """Note what the visitor thinks of a study's finding."""
    _note(node, study_id, opinion, visitor.name)
    return RedirectResponse(f"/studies/{study_id}", status_code=303)


@OPINIONS.put("/studies/{study_id}/opinion/{opinion}")
def put_opinion(node: NodeOfRequest, visitor: Reader, study_id: StudyId, opinion: Opinion) -> dict[str, str]:
    """Note what the caller thinks of a study's finding; the last opinion of a person counts."""
    _note(node, study_id, opinion, visitor.name)
    return {"opinion": opinion, "by": visitor.name}


@OPINIONS.get("/opinions")
def count_opinions(node: NodeOfRequest, visitor: Reader) -> dict[str, int]:
    """Return how many studies are confirmed and rejected, by each person's last opinion."""
    with node.database.snapshot() as session:
        return opinion_counts(session)


def _note(node: Node, study_id: StudyId, opinion: Opinion, actor: str) -> None:
    with node.database.transaction() as session:
        study = session.get(StudyRow, study_id)
        if study is None:
            raise HTTPException(404, "there is no such study")
        if study.state != "ready":
            raise HTTPException(409, f"this study is {study.state}; only what was read can be judged")
        events.append_event(session, opinion, at=node.clock(), actor=actor, study_id=study.id)


def opinion_counts(session: Session) -> dict[str, int]:
    """Count studies by the last opinion of each person who gave one."""
    wanted = select(EventRow).where(EventRow.kind.in_(_KINDS)).order_by(EventRow.id)
    last = {(event.study_id, event.actor): event.kind for event in session.execute(wanted).scalars()}
    return {kind: sum(said == kind for said in last.values()) for kind in _KINDS}
