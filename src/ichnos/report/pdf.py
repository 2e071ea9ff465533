"""The report as PDF, by a browser or WeasyPrint where one is installed."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from ichnos.errors import InputRefused, MissingExtra, require
from ichnos.files import atomic_file

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
_QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-pdf-header-footer",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
_SCRIPT = re.compile(r"<script>.*?</script>", re.DOTALL)
_HEADER = re.compile(rb"\(node\d{8}\)")
_PATIENCE_S = 120


def printer() -> str:
    """Return what prints: the path of a browser, or "weasyprint"; refuse where neither is installed."""
    for name in _BROWSERS:
        if (found := shutil.which(name)) is not None:
            return found
    if importlib.util.find_spec("weasyprint") is not None:
        return "weasyprint"
    raise MissingExtra(
        "--pdf needs Chromium (or Chrome, Edge) or WeasyPrint, and none is installed; report.html prints from"
        " any browser"
    )


def write_pdf(page: Path, pdf: Path) -> Path:
    """Print a report to PDF; the same report gives the same bytes: clock and chance are taken out."""
    with atomic_file(pdf) as temporary:
        program = printer()
        if program == "weasyprint":
            weasyprint = require("weasyprint", extra="report", purpose="printing to PDF")
            weasyprint.HTML(filename=str(page)).write_pdf(str(temporary))
        else:
            _by_browser(program, page, temporary)
        temporary.write_bytes(_renumbered(_timeless(temporary.read_bytes())))
    return pdf


def _by_browser(program: str, page: Path, pdf: Path) -> None:
    with tempfile.TemporaryDirectory() as profile:
        still = Path(profile) / page.name
        # the viewer is not printed
        still.write_text(_SCRIPT.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")
        command = [
            program,
            *_QUIET,
            f"--user-data-dir={profile}",
            f"--print-to-pdf={pdf.resolve()}",
            still.as_uri(),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
        except subprocess.TimeoutExpired:
            raise InputRefused(f"{program} did not print {page} within {_PATIENCE_S} s") from None
    if not pdf.is_file():
        raise InputRefused(
            f"{program} wrote no PDF of {page} (exit code {done.returncode}): {done.stderr.strip()[-300:]}"
        )


def _timeless(pdf: bytes) -> bytes:
    """Put a fixed date, of the same length, in the place of the dates of creation and change.

    >>> _timeless(b"/CreationDate (D:20260102030405+00'00')")
    b"/CreationDate (D:20000101000000+00'00')"
    """
    return re.sub(rb"(/(?:Creation|Mod)Date ?\(D:)\d{14}", rb"\g<1>20000101000000", pdf)


def _renumbered(pdf: bytes) -> bytes:
    """Number the headers that table cells name from 1: a browser counts on from whatever it made before.

    >>> _renumbered(b"/ID (node00000168) /Headers [(node00000168) (node00000240)]")
    b'/ID (node00000001) /Headers [(node00000001) (node00000002)]'
    """
    found = sorted(set(_HEADER.findall(pdf)))
    numbers = {name: b"(node%08d)" % number for number, name in enumerate(found, 1)}
    return _HEADER.sub(lambda match: numbers[match.group()], pdf)
