"""`ichnos inspect PATH`: the series of a place, its head CT, and the quality of that."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field

from ichnos.cli.terminal.settings import SettingsTree, asked_for, with_settings
from ichnos.errors import InputRefused, UsageError
from ichnos.formats.limits import Limits

if TYPE_CHECKING:
    from ichnos.formats.dicom import Inspection, SeriesSummary
    from ichnos.scan import Scan
    from ichnos.verdict import Verdict
    from ichnos.volume import Array, Volume

_WINDOW_HU = (0.0, 80.0)
_PICTURE_PIXELS = 160  # height of one slice in the row
_BAR_FROM_FILES = 500


class InspectSettings(SettingsTree):
    """What is judged."""

    series: str | None = Field(None, description="judge this SeriesInstanceUID")
    limits: Limits = Limits()


@with_settings(InspectSettings)
def inspect_command(
    path: Annotated[Path, typer.Argument(help="file, folder, zip or DICOMDIR; NIfTI; cohort")],
    settings: InspectSettings,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    montage: Annotated[Path | None, typer.Option(help="write a row of slices to this PNG file")] = None,
) -> int:
    """Find the head CT and check its quality."""
    if montage is not None and montage.suffix.lower() != ".png":
        raise UsageError(f"--montage writes PNG; give a file that ends in .png, not {montage.name}")
    if (path / "participants.tsv").is_file():
        if given := asked_for(settings, ["series", "limits"]) + ["--montage"] * (montage is not None):
            raise UsageError(f"{path} is a cohort, for which {', '.join(given)} cannot be used: leave it out")
        return _inspect_cohort(path, as_json=as_json)
    found = _inspected(path, settings, progress=not as_json)
    if as_json:
        typer.echo(json.dumps(_as_plain(found), indent=2))
    else:
        _show(found)
    if montage is not None and found.scan is not None:
        save_row(found.scan.volume, montage)
    if found.refusal is not None:
        raise InputRefused(found.refusal)
    return 2 if found.verdict is not None and found.verdict.level == "refuse" else 0


@dataclass(frozen=True)
class _Inspected:
    """What lies in a place: its series, the head CT if it could be opened, and how good that is."""

    listing: Inspection
    scan: Scan | None = None
    verdict: Verdict | None = None
    refusal: str | None = None

    @property
    def chosen(self) -> str | None:
        """The SeriesInstanceUID of the scan; the best series where none could be opened."""
        if self.scan is not None and self.scan.source is not None:
            return self.scan.source.series_uid
        return self.listing.pick


def _inspected(path: Path, settings: InspectSettings, *, progress: bool) -> _Inspected:
    from ichnos.formats import inspect_path
    from ichnos.quality import judge

    with file_bar(show=progress) as advance:
        listing = inspect_path(path, progress=advance, limits=settings.limits)
    try:
        scan = listing.open(settings.series)
        return _Inspected(listing, scan, judge(scan))
    except InputRefused as error:
        return _Inspected(listing, refusal=str(error))


def _inspect_cohort(root: Path, *, as_json: bool) -> int:
    """Say what is in a cohort and what is wrong with it, one finding per line; 2 when there is an error."""
    from ichnos.formats.bids_check import validate

    findings = validate(root)
    facts = _cohort_facts(root)
    if as_json:
        rows = [asdict(finding) for finding in findings]
        typer.echo(json.dumps({"path": str(root), "cohort": facts, "findings": rows}, indent=2))
    else:
        if facts:
            exams = ", ".join(f"{count} {exam}" for exam, count in facts["exams"].items())
            typer.echo(
                f"cohort of {facts['patients']} patients, centres {', '.join(facts['centres'])}; {exams}"
            )
        for finding in findings:
            typer.echo(str(finding))
        typer.echo(f"{len(findings)} finding(s)" if findings else "no problem found")
    return 2 if not facts or any(finding.level == "error" for finding in findings) else 0


def _cohort_facts(root: Path) -> dict[str, Any]:
    """Count patients, centres and exams; nothing of a cohort that cannot be read."""
    from collections import Counter

    from ichnos.formats.bids import read_cohort

    try:
        cohort = read_cohort(root)
    except InputRefused:
        return {}
    exams = Counter(exam for patient in cohort for exam in patient.exams)
    return {"patients": len(cohort), "centres": list(cohort.centres), "exams": dict(exams)}


@contextmanager
def file_bar(*, show: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar of files on standard error, from a few hundred files on."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not show) as bar:
        task = None

        def advance(done: int, total: int) -> None:
            nonlocal task
            if total < _BAR_FROM_FILES:
                return
            if task is None:
                task = bar.add_task("reading headers", total=total)
            if done % 50 == 0 or done == total:
                bar.update(task, completed=done)

        yield advance


def _as_plain(found: _Inspected) -> dict[str, Any]:
    from ichnos.formats.deidentified import verdict_as_plain

    listing, scan, verdict = found.listing, found.scan, found.verdict
    return {
        "path": str(listing.path),
        "patients": listing.patients,
        "studies": listing.studies,
        "skipped_files": listing.skipped,
        "pick": found.chosen if scan is not None else None,
        "refusal": found.refusal,
        "series": [asdict(series) for series in listing.series],
        "grid": None if scan is None else _grid(scan.volume),
        "verdict": None if verdict is None else verdict_as_plain(verdict),
    }


def _grid(volume: Volume) -> dict[str, Any]:
    return {"shape": volume.shape, "spacing_mm": volume.spacing_mm, "axes": volume.orientation}


# ---- for the terminal ----------------------------------------------------------------------------


def _show(found: _Inspected) -> None:
    listing = found.listing
    _show_series(listing, found.chosen)
    for series in listing.series:
        number = series.number if series.number is not None else "?"
        typer.echo(f"  {number} {series.description or '(none)'}: {_why(series)}")
    if listing.skipped:
        skipped = ", ".join(f"{count} {why}" for why, count in sorted(listing.skipped.items()))
        typer.echo(f"  skipped: {skipped}")
    if listing.patients > 1 or listing.studies > 1:
        typer.echo(f"  {listing.patients} patient(s), {listing.studies} studies")
    if found.verdict is not None:
        _show_verdict(found.verdict)


def _show_series(listing: Inspection, pick: str | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "no.", "description", "images", "pixels", "step mm", "tilt", "kernel", "points"):
        right = name in ("no.", "images", "tilt", "points")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "description")
    picked = next((k for k, series in enumerate(listing.series) if series.uid == pick), None)
    for position, series in enumerate(listing.series):
        table.add_row(*[Text(cell) for cell in ("→" if position == picked else "", *_series_cells(series))])
    console = Console(highlight=False, soft_wrap=False)
    console.print(table)
    console.print()


def _series_cells(series: SeriesSummary) -> tuple[str, ...]:
    steps = ", ".join(f"{step:g}" for step in series.steps_mm[:3])
    return (
        "" if series.number is None else str(series.number),
        series.description or "(none)",
        str(series.images),
        f"{series.shape[0]}×{series.shape[1]}",
        steps + ("…" if len(series.steps_mm) > 3 else ""),
        f"{series.tilt_deg:+.1f}°" if abs(series.tilt_deg) >= 0.05 else "",
        series.kernel,
        f"{series.score:g}" if series.usable else "–",
    )


def _why(series: SeriesSummary) -> str:
    """Return what counted: for a series that cannot be picked, only what stands against it."""
    mark = " (cannot be picked)"
    against = [reason.removesuffix(mark) for reason in series.reasons if reason.endswith(mark)]
    return f"cannot be picked: {'; '.join(against)}" if against else "; ".join(series.reasons)


def _show_verdict(verdict: Verdict) -> None:
    typer.echo(f"\nquality: {verdict.level}")
    for reason in verdict.reasons:
        known = reason.value is not None and reason.value == reason.value
        unit = f" {reason.unit}" if reason.unit else ""
        number = f" [{reason.value:.4g}{unit}]" if known else ""
        typer.echo(f"  {reason.level:6} {reason.name}: {reason.text}{number}")


# ---- a row of slices -----------------------------------------------------------------------------


def save_row(volume: Volume, path: Path, *, count: int = 8) -> None:
    """Write slices from feet to head as one PNG row: brain window, the patient's right at left, front on
    top.
    """
    import numpy as np
    from PIL import Image

    from ichnos.files import atomic_file

    ras = volume.reoriented("RAS")
    body = np.flatnonzero((ras.array[::4, ::4] > -300).mean(axis=(0, 1)) > 0.02)
    first, last = (int(body[0]), int(body[-1])) if len(body) else (0, ras.shape[2] - 1)
    planes = np.linspace(first, last, min(count, last - first + 1) + 2).round().astype(int)[1:-1]
    pictures = [_picture(ras.array[..., k], ras.spacing_mm[:2]) for k in planes]
    row = Image.fromarray(np.concatenate(pictures, axis=1))
    with atomic_file(path) as temporary:
        row.save(temporary, format="PNG")


def _picture(plane: Array, spacing_mm: tuple[float, ...]) -> Array:
    """Return one slice (x, y) in HU as grey bytes (rows, columns), square pixels."""
    import numpy as np
    from PIL import Image

    low, high = _WINDOW_HU
    grey = np.clip((plane.astype(np.float32) - low) / (high - low), 0, 1) * 255
    image = Image.fromarray(np.ascontiguousarray(grey[::-1, ::-1].T.astype(np.uint8)))
    width = max(1, round(_PICTURE_PIXELS * plane.shape[0] * spacing_mm[0] / (plane.shape[1] * spacing_mm[1])))
    return np.asarray(image.resize((width, _PICTURE_PIXELS), Image.Resampling.BILINEAR))
