"""For whoever runs the node: health, readiness, metrics. No identity of a patient appears here."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from ichnos.service.store.images import free_gib
from ichnos.service.store.tables import DeliveryRow, StudyRow, TaskRow
from ichnos.service.web.access import NodeOfRequest

OPERATION = APIRouter()


@OPERATION.get("/healthz", response_class=PlainTextResponse)
def healthz() -> PlainTextResponse:
    """Say that the process answers.

    >>> healthz().status_code
    200
    """
    return PlainTextResponse("ok\n")


@OPERATION.get("/readyz", responses={503: {"description": "the node takes no work now"}})
def readyz(node: NodeOfRequest) -> JSONResponse:
    """Say whether the node can take work: database reachable, disk above the limit."""
    free, least = free_gib(node.settings.home), node.settings.storage.refuse_below_gib
    try:
        with node.database.snapshot() as session:
            session.execute(select(func.count()).select_from(TaskRow).limit(1))
        database = True
    except SQLAlchemyError:
        database = False
    ready = database and free >= least and not node.stopping.is_set()
    body = {"ready": ready, "database": database, "free_gib": round(free, 1), "refuse_below_gib": least}
    return JSONResponse(body, status_code=200 if ready else 503)


@OPERATION.get("/metrics", response_class=PlainTextResponse)
def metrics(node: NodeOfRequest) -> PlainTextResponse:
    """Return counts by state in Prometheus' text format."""
    registry = CollectorRegistry()
    tables = {
        "ichnos_studies": ("Studies by state", StudyRow.state),
        "ichnos_tasks": ("Tasks by state", TaskRow.state),
        "ichnos_deliveries": ("Deliveries by state", DeliveryRow.state),
    }
    with node.database.snapshot() as session:
        for name, (text, column) in tables.items():
            gauge = Gauge(name, text, ["state"], registry=registry)
            for state, count in session.execute(select(column, func.count()).group_by(column)):
                gauge.labels(state=state).set(count)
    Gauge("ichnos_free_gib", "Free disk space, GiB", registry=registry).set(free_gib(node.settings.home))
    return PlainTextResponse(generate_latest(registry).decode(), media_type="text/plain; version=0.0.4")
