"""The web application of a node."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

import ichnos
from ichnos.service.auth import RateLimit
from ichnos.service.node import Node
from ichnos.service.web import api, dicomweb, operation, pages
from ichnos.service.web.access import SignInNeeded

_STATIC = Path(__file__).parent / "static"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def create_app(node: Node) -> FastAPI:
    """Return the application: pages, API, live stream, health and metrics."""
    app = FastAPI(title="ichnos node", version=ichnos.__version__, docs_url=None, redoc_url=None)
    app.state.node = node
    app.state.sign_in_limit = RateLimit()
    app.add_middleware(BaseHTTPMiddleware, dispatch=_with_headers)
    app.add_exception_handler(SignInNeeded, _to_sign_in)
    app.include_router(pages.PAGES)
    app.include_router(api.API, prefix="/api/v1")
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
