"""The web application of a node."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

import ichnos
from ichnos.errors import IchnosError
from ichnos.service.accounts.rate_limit import RateLimit
from ichnos.service.node import Node
from ichnos.service.web import (
    api,
    api_configuration,
    dicomweb,
    evidence,
    ohif,
    operation,
    opinions,
    pages,
    sessions,
    upkeep,
)
from ichnos.service.web.access import SignInNeeded
from ichnos.service.web.configuration import destinations, exports, models, retention, tokens, users
from ichnos.service.web.rendering import fragment

_STATIC = Path(__file__).parent / "static"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_FOR_PROGRAMS = ("/api/", "/dicom-web/", "/healthz", "/readyz", "/metrics", "/openapi.json")
_PAGES = (
    pages.PAGES, evidence.EVIDENCE_PAGES, opinions.OPINION_PAGES, sessions.SESSIONS,
    destinations.DESTINATIONS, models.MODELS, tokens.TOKENS, users.USERS, retention.RETENTION,
    exports.EXPORTS, ohif.OHIF,
)  # fmt: skip


def create_app(node: Node) -> FastAPI:
    """Return the application: pages, API, live stream, health and metrics."""
    app = FastAPI(title="ichnos node", version=ichnos.__version__, docs_url=None, redoc_url=None)
    app.state.node = node
    app.state.sign_in_limit = RateLimit()
    app.add_middleware(BaseHTTPMiddleware, dispatch=_with_headers)
    app.add_exception_handler(SignInNeeded, _to_sign_in)
    app.add_exception_handler(IchnosError, _problem)
    app.add_exception_handler(HTTPException, _refusal)
    for router in _PAGES:
        app.include_router(router)
    app.include_router(api.API, prefix="/api/v1")
    app.include_router(evidence.EVIDENCE, prefix="/api/v1")
    app.include_router(opinions.OPINIONS, prefix="/api/v1")
    app.include_router(api_configuration.CONFIGURATION, prefix="/api/v1")
    app.include_router(upkeep.UPKEEP, prefix="/api/v1")
    app.include_router(dicomweb.DICOMWEB, prefix="/dicom-web")
    app.include_router(operation.OPERATION)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    return app


async def _with_headers(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


async def _to_sign_in(request: Request, _error: Exception) -> Response:
    return RedirectResponse("/sign-in", status_code=303)


async def _problem(request: Request, error: Exception) -> Response:
    """Answer what cannot be done with its sentence."""
    return _said(request, 400, str(error))


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if request.url.path.startswith(_FOR_PROGRAMS):
        return await http_exception_handler(request, error)
    return _said(request, error.status_code, str(error.detail))


def _said(request: Request, code: int, sentence: str) -> Response:
    if request.url.path.startswith(_FOR_PROGRAMS):
        return JSONResponse({"detail": sentence}, status_code=code)
    answer = fragment("problem.html.j2", sentence=sentence)
    answer.status_code = code
    return answer
