"""The evidence page and its API: what partner exams say of the models that read here."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query
from fastapi.responses import HTMLResponse, RedirectResponse

from ichnos.audit.monitoring.change import ALPHA
from ichnos.audit.monitoring.page import live_plain
from ichnos.errors import UsageError
from ichnos.evidence.tables import cell_text
from ichnos.service import installed
from ichnos.service.node import Node
from ichnos.service.partners.evidence import node_evidence
from ichnos.service.partners.recalibrating import recalibrate_here
from ichnos.service.partners.shadow import set_shadow, shadow_of
from ichnos.service.partners.tuning import SHOWN_BY, TunedTarget, TuningStatus, request_tuning, tuning_status
from ichnos.service.web.access import Admin, AdminForm, FormVisitor, NodeOfRequest, PageVisitor, Reader
from ichnos.service.web.rendering import full_page

EVIDENCE_PAGES = APIRouter(include_in_schema=False)
EVIDENCE = APIRouter(
    responses={400: {"description": "there is no such model; `detail` says which there are"}}
)
_Model = Annotated[str, Query(max_length=255)]


@EVIDENCE_PAGES.get("/evidence")
def evidence_page(
    node: NodeOfRequest, visitor: PageVisitor, champion: _Model = "", challenger: _Model = ""
) -> HTMLResponse:
    """Show what partner exams say, what moved, and what is not known."""
    found = node_evidence(node, champion=champion, challenger=challenger)
    with node.database.snapshot() as session:
        shadow, tuning = shadow_of(session), tuning_status(session, node.settings.home)
        models = [
            model.name for model in installed.installed_models(session, node.settings) if not model.problem
        ]
    return full_page(
        "evidence.html.j2",
        visitor,
        here="/evidence",
        evidence=found.evidence,
        pairs=found.pairs,
        to_outline=found.to_outline,
        left_out=found.left_out,
        shadow=shadow,
        tuning=tuning,
        tuned_targets=tuple(SHOWN_BY),
        hours=node.settings.partners,
        models=models,
        shown=cell_text,
        alpha=ALPHA,
    )


@EVIDENCE_PAGES.post("/evidence/shadow")
def post_shadow(
    node: NodeOfRequest, visitor: FormVisitor, model: Annotated[str, Form(max_length=64)] = ""
) -> RedirectResponse:
    """Let a model read in the shadow, or none."""
    if not visitor.may("admin"):
        raise UsageError("this needs the role admin")
    _set_shadow(node, model, visitor.name)
    return RedirectResponse("/evidence", status_code=303)


@EVIDENCE_PAGES.post("/evidence/recalibrate")
def post_recalibration(node: NodeOfRequest, visitor: FormVisitor) -> RedirectResponse:
    """Recalibrate the model that reads; the card of the new one is shown."""
    if not visitor.may("admin"):
        raise UsageError("this needs the role admin")
    made = recalibrate_here(node, actor=visitor.name)
    return RedirectResponse(f"/models/{made.folder.name}", status_code=303)


@EVIDENCE_PAGES.post("/evidence/fine-tune")
def post_tuning(
    node: NodeOfRequest, visitor: AdminForm, target: Annotated[TunedTarget, Form()]
) -> RedirectResponse:
    """Have the model that reads fine-tuned in the background; the page says how far it is."""
    request_tuning(node, target, actor=visitor.name)
    return RedirectResponse("/evidence#fine-tuning", status_code=303)


@EVIDENCE.get("/evidence")
def show_evidence(
    node: NodeOfRequest, visitor: Reader, champion: _Model = "", challenger: _Model = ""
) -> dict[str, Any]:
    """Return the evidence: tables, alarms, states of pairs, studies to outline, who is left out, limits."""
    found = node_evidence(node, champion=champion, challenger=challenger)
    tasks = [asdict(task) for task in found.to_outline]
    more = {"states": found.pairs, "to_outline": tasks, "left_out": found.left_out}
    return {**live_plain(found.evidence), **more}


@EVIDENCE.put("/evidence/shadow/{model}")
def put_shadow(node: NodeOfRequest, visitor: Admin, model: str) -> dict[str, str]:
    """Let a model read new studies in the shadow of the one that reads; `none` ends it."""
    name = "" if model == "none" else model
    _set_shadow(node, name, visitor.name)
    return {"shadow": name}


@EVIDENCE.post("/evidence/recalibration", status_code=201)
def create_recalibration(node: NodeOfRequest, visitor: Admin) -> dict[str, Any]:
    """Recalibrate the model that reads by the node's own pairs; a new model, which reads nothing yet."""
    made = recalibrate_here(node, actor=visitor.name)
    return {"model": made.folder.name, "patients": len(made.taught), "said": made.said}


@EVIDENCE.get("/evidence/fine-tuning")
def show_tuning(node: NodeOfRequest, visitor: Reader) -> TuningStatus:
    """Return what has become of the fine-tuning that was asked for last."""
    with node.database.snapshot() as session:
        return tuning_status(session, node.settings.home)


@EVIDENCE.post("/evidence/fine-tuning", status_code=202)
def create_tuning(node: NodeOfRequest, visitor: Admin, target: TunedTarget = "leukoaraiosis") -> TuningStatus:
    """Have the model that reads fine-tuned on the node's own pairs, in the background."""
    request_tuning(node, target, actor=visitor.name)
    return show_tuning(node, visitor)


def _set_shadow(node: Node, model: str, actor: str) -> None:
    with node.database.transaction() as session:
        names = [one.name for one in installed.installed_models(session, node.settings) if not one.problem]
        if model and model not in names:
            raise UsageError(f"there is no model called {model}; the installed models are {', '.join(names)}")
        set_shadow(session, model, now=node.clock(), actor=actor)
