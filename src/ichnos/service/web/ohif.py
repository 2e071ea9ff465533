"""The installed viewer's files, under their own path and its own content policy."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, RedirectResponse

from ichnos.service.viewer import VIEWER_BASE, viewer_folder
from ichnos.service.web.access import NodeOfRequest, PageVisitor

OHIF = APIRouter(include_in_schema=False)
# OHIF decodes pixels in WebAssembly, starts workers, and styles elements by script; only its own path may.
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval' 'unsafe-eval' blob:; worker-src 'self' blob:;"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:;"
    " connect-src 'self' data: blob:; manifest-src 'self'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'self'"
)
_LONGEST_CACHE_S = 7 * 86400  # names of its bundles hold a hash of their content


@OHIF.get(VIEWER_BASE)
def to_viewer(visitor: PageVisitor) -> RedirectResponse:
    """Lead to the viewer's start page."""
    return RedirectResponse(f"{VIEWER_BASE}/", status_code=303)


@OHIF.get(VIEWER_BASE + "/{path:path}")
def viewer_file(node: NodeOfRequest, visitor: PageVisitor, path: str) -> FileResponse:
    """Return a file of the viewer; its start page for every address that it makes itself."""
    folder = viewer_folder(node.settings.home)
    if folder is None:
        raise HTTPException(404, "OHIF is not installed; `ichnos serve ohif PACKAGE` installs it")
    file = (folder / path).resolve()
    if not file.is_relative_to(folder.resolve()) or not file.is_file():
        if "." in path.rsplit("/", 1)[-1]:
            raise HTTPException(404, "the viewer has no such file")
        file = folder / "index.html"
    headers = {"Content-Security-Policy": _POLICY}
    if ".bundle." in file.name:
        headers["Cache-Control"] = f"private, max-age={_LONGEST_CACHE_S}"
    return FileResponse(file, headers=headers)
