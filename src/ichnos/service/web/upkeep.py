"""The REST API of upkeep: export a cohort, hold a study, remove one, the audit messages."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from ichnos.errors import UsageError
from ichnos.service.node import Node
from ichnos.service.upkeep.audit_trail import audit_messages
from ichnos.service.upkeep.export import ExportResult, export_studies
from ichnos.service.upkeep.retention import hold_study, purge_study
from ichnos.service.web.access import Admin, NodeOfRequest, Researcher
from ichnos.service.web.api import StudyId

_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"description": "no session and no valid token"},
    403: {"description": "the role, or the token's scope, does not include this"},
    404: {"description": "there is no such study"},
    409: {"description": "the study's state does not allow this now; `detail` says why"},
}
UPKEEP = APIRouter(responses=_REFUSALS)


class ExportRequest(BaseModel):
    """What to export."""

    studies: list[int] = Field(default=[], max_length=10_000, description="numbers; empty: all that are read")
    centre: str = Field(default="", max_length=32, pattern="^[A-Za-z0-9 _-]*$")


@UPKEEP.post("/exports")
def export_studies_here(node: NodeOfRequest, visitor: Researcher, wanted: ExportRequest) -> dict[str, Any]:
    """Write a de-identified cohort below the node's home; return its folder and what was left out."""
    result = export_here(node, wanted.studies, actor=visitor.name, centre=wanted.centre)
    return {
        "folder": str(result.folder.relative_to(node.settings.home)),
        "patients": result.patients,
        "exams": result.exams,
        "left_out": {str(number): why for number, why in result.left_out.items()},
    }


def export_here(node: Node, study_ids: Sequence[int], *, actor: str, centre: str = "") -> ExportResult:
    """Export into a new folder below the node's home, or answer 409 with the reason."""
    try:
        return export_studies(node, export_folder(node), study_ids=study_ids, actor=actor, centre=centre)
    except UsageError as problem:
        raise HTTPException(409, str(problem)) from None


def export_folder(node: Node) -> Path:
    """Return a new folder for an export, below the node's home."""
    when = datetime.fromtimestamp(node.clock(), UTC).strftime("%Y%m%d-%H%M%S")
    return node.settings.home / "exports" / f"{when}-{uuid.uuid4().hex[:6]}"


@UPKEEP.put("/studies/{study_id}/hold")
def hold(node: NodeOfRequest, visitor: Admin, study_id: StudyId) -> dict[str, bool]:
    """Protect a study from retention and removal."""
    return _set_hold(node, study_id, held=True, actor=visitor.name)


@UPKEEP.delete("/studies/{study_id}/hold")
def end_hold(node: NodeOfRequest, visitor: Admin, study_id: StudyId) -> dict[str, bool]:
    """Let retention have a study again."""
    return _set_hold(node, study_id, held=False, actor=visitor.name)


def _set_hold(node: Node, study_id: StudyId, *, held: bool, actor: str) -> dict[str, bool]:
    try:
        hold_study(node, study_id, held=held, actor=actor)
    except UsageError as problem:
        raise HTTPException(404, str(problem)) from None
    return {"held": held}


@UPKEEP.delete("/studies/{study_id}")
def remove(node: NodeOfRequest, visitor: Admin, study_id: StudyId) -> dict[str, str]:
    """Remove a study with all its revisions, images and readings."""
    try:
        purge_study(node, study_id, actor=visitor.name)
    except UsageError as problem:
        raise HTTPException(404 if "there is no" in str(problem) else 409, str(problem)) from None
    return {"state": "purged"}


@UPKEEP.get("/audit", response_class=PlainTextResponse)
def audit(node: NodeOfRequest, visitor: Admin, since: float = 0.0) -> PlainTextResponse:
    """Return audit messages (DICOM PS3.15 A.5), one XML element a line, without identities."""
    with node.database.snapshot() as session:
        lines = list(audit_messages(session, source=node.settings.receiver.ae_title, since=since))
    return PlainTextResponse("\n".join([*lines, ""]))
