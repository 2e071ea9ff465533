"""`ichnos doctor`: what is installed, what an extra would add, and whether this installation works."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ichnos.cli.installation.selftest import SelfCheck

# Extra -> what it adds, in the words of someone who does not know it yet.
EXTRAS: dict[str, str] = {
    "learning": "train networks; read scans with torch",
    "logging": "follow a training in TensorBoard",
    "simulation": "simulate virtual patients",
    "acceleration": "read scans several times as fast on a CPU (OpenVINO)",
    "registration": "deformable registration of partner exams",
    "diffusion": "tractography from diffusion MRI",
    "evidence": "evaluation tables, intervals, calibration",
    "report": "the HTML report and its pictures",
    "distributed": "work on many machines (--scheduler)",
    "service": "the node next to an archive: DICOM, queue, web pages",
    "nnunet": "train through nnU-Net",
    "fuzzing": "coverage-guided fuzzing of the parsers (benchmarks/fuzz.py --guided)",
}
_ENGINES = {"torch": "torch", "openvino": "openvino"}
_PROGRAMS = {"dciodvfy": "checks DICOM files in the tests (Debian: dicom3tools)"}
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)")
_OF_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")


@dataclass(frozen=True)
class InstalledPart:
    """The core or an extra: which of its libraries are there."""

    name: str  # "core" or the extra's name
    adds: str
    found: dict[str, str]  # library -> version
    missing: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Say whether everything of it is installed."""
        return not self.missing


def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Check this installation: libraries, weights, printer, a self-test; leaves with 1 if a check fails."""
    from rich.console import Console

    from ichnos.cli.installation.selftest import run_checks

    parts = installed_parts()
    engines = tuple(name for name, package in _ENGINES.items() if _version(package) is not None)
    with Console(stderr=True).status("testing") as status:
        checks = run_checks(engines, lambda name: status.update(f"testing {name}"))
    findings = Findings(parts, installed_weights(), installed_printer(), checks)
    if as_json:
        typer.echo(json.dumps(findings.plain(), indent=2))
    else:
        _show(findings)
    return 0 if findings.healthy else 1


@dataclass(frozen=True)
class Findings:
    """All that the doctor found."""

    parts: list[InstalledPart]
    weights: list[str]
    printer: str  # "": none
    checks: list[SelfCheck]

    @property
    def healthy(self) -> bool:
        """Say whether the core is complete and every check passed; what an extra would add is no fault."""
        return self.parts[0].complete and all(check.passed for check in self.checks)

    def plain(self) -> dict[str, Any]:
        """Return the findings as plain data."""
        return {
            "ichnos": _version("ichnos"),
            "machine": _machine(),
            "parts": [{**asdict(part), "complete": part.complete} for part in self.parts],
            "weights": self.weights,
            "printer": self.printer,
            "programs": {name: shutil.which(name) is not None for name in _PROGRAMS},
            "checks": [asdict(check) for check in self.checks],
            "healthy": self.healthy,
        }


def installed_weights() -> list[str]:
    """Return the models that ship, each as a line; damaged ones by what is wrong with them."""
    from ichnos.errors import InputRefused
    from ichnos.models import read_manifest, shipped_models
    from ichnos.models.store import DEFAULT

    lines = []
    for folder in shipped_models():
        try:
            manifest = read_manifest(folder)
        except InputRefused as error:
            lines.append(str(error))
            continue
        default = ", the default" if folder.name == DEFAULT else ""
        lines.append(f"{folder.name}{default}: {manifest.name} {manifest.version}")
    return lines


def installed_printer() -> str:
    """Return what `ichnos read --pdf` prints with; "" where nothing can."""
    from ichnos.errors import MissingExtra
    from ichnos.report.pdf import printer

    try:
        return printer()
    except MissingExtra:
        return ""


def installed_parts() -> list[InstalledPart]:
    """Return the core and every extra, with the libraries that are there and those that are not.

    >>> core = installed_parts()[0]
    >>> core.name, "numpy" in core.found
    ('core', True)
    """
    wanted: dict[str, list[str]] = {"core": [], **{extra: [] for extra in EXTRAS}}
    for line in metadata.requires("ichnos") or []:
        name, extra = _REQUIREMENT.match(line), _OF_EXTRA.search(line)
        part = extra.group(1) if extra else "core"
        if name is not None and part in wanted and name.group(1) != "ichnos":
            wanted[part].append(name.group(1))
    # installed without its own requirements, so that no extra can list it
    wanted["nnunet"].append("nnunetv2")
    return [_part(name, libraries) for name, libraries in wanted.items()]


def _part(name: str, libraries: list[str]) -> InstalledPart:
    versions = {library: _version(library) for library in libraries}
    found = {library: version for library, version in versions.items() if version is not None}
    return InstalledPart(
        name,
        EXTRAS.get(name, "files in and out, geometry, quality"),
        found,
        tuple(sorted(set(libraries) - set(found))),
    )


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": str(os.cpu_count()),
        "interpreter": sys.executable,
    }


def _show(findings: Findings) -> None:
    machine = _machine()
    typer.echo(
        f"ichnos {_version('ichnos')} on Python {machine['python']}, {machine['cores']} cores,"
        f" {machine['system']}\n"
    )
    for part in findings.parts:
        typer.echo(f"{part.name:13} {_state(part)}; {part.adds}")
    typer.echo(f"\nweights       {'; '.join(findings.weights) or 'none: `make weights` trains them'}")
    typer.echo(f"printer       {findings.printer or 'none: --pdf needs Chromium or WeasyPrint'}")
    for name, use in _PROGRAMS.items():
        typer.echo(f"{name:13} {'found' if shutil.which(name) else 'not found'}; {use}")
    typer.echo("")
    for check in findings.checks:
        state = "ok    " if check.passed else "FAILED"
        typer.echo(f"{state} {check.name} ({check.seconds:.1f} s): {check.text}")


def _state(part: InstalledPart) -> str:
    if part.complete:
        return "installed"
    wanted = ", ".join((*part.missing[:3], *(("…",) if len(part.missing) > 3 else ())))
    if part.name == "core":
        return f"BROKEN, without {wanted}: install ichnos again"
    if part.missing == ("nnunetv2",):
        return "without nnunetv2: pip install --no-deps nnunetv2"
    return f'without {wanted}: pip install "ichnos[{part.name}]"'
