"""`ichnos inspect PATH`: which series are here, which is the head CT, may it be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ichnos.errors import InputRefused, UsageError

if TYPE_CHECKING:
    from ichnos.formats.dicom import Inspection, SeriesSummary
    from ichnos.scan import Scan
    from ichnos.verdict import Verdict
    from ichnos.volume import Array, Volume

_WINDOW_HU = (0.0, 80.0)
_PICTURE_PIXELS = 160  # height of one slice in the row
_BAR_FROM_FILES = 500


def inspect_command(
    path: Annotated[Path, typer.Argument(help="file, folder, zip or DICOMDIR; a NIfTI file; or a cohort")],
    series: Annotated[
        str | None, typer.Option(help="judge this SeriesInstanceUID instead of the best one")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    montage: Annotated[Path | None, typer.Option(help="write a row of slices to this PNG file")] = None,
) -> int:
    """List the series, name the head CT, say whether it may be read."""
    from ichnos.formats import inspect_path as list_series
    from ichnos.quality import judge

    if montage is not None and montage.suffix.lower() != ".png":
        raise UsageError(f"--montage writes PNG; give a file that ends in .png, not {montage.name}")
    if (path / "participants.tsv").is_file():
        return _inspect_cohort(path, as_json=as_json)
    with file_bar(show=not as_json) as progress:
        found = list_series(path, progress=progress)
    scan, verdict, refusal = None, None, None
    try:
        scan = found.open(series)
        verdict = judge(scan)
    except InputRefused as error:
        refusal = str(error)
    chosen = scan.source.series_uid if scan is not None and scan.source is not None else None
    if as_json:
        typer.echo(
            json.dumps(
                _as_plain(found, chosen or (found.pick if scan else None), scan, verdict, refusal), indent=2
            )
        )
    else:
        _show(found, chosen or found.pick, verdict)
    if montage is not None and scan is not None:
        save_row(scan.volume, montage)
    if refusal is not None:
        raise InputRefused(refusal)
    return 2 if verdict is not None and verdict.level == "refuse" else 0


def _inspect_cohort(root: Path, *, as_json: bool) -> int:
    """Say what is in a cohort and what is wrong with it, one finding per line; 2 when there is an error."""
    from collections import Counter

    from ichnos.formats.bids import read_cohort
    from ichnos.formats.bids_check import validate

    findings = validate(root)
    broken = any(finding.level == "error" for finding in findings)
    try:
        cohort = read_cohort(root)
        exams = Counter(exam for patient in cohort for exam in patient.exams)
        facts = {"patients": len(cohort), "centres": list(cohort.centres), "exams": dict(exams)}
    except InputRefused:
        facts, broken = {}, True
    if as_json:
        typer.echo(
            json.dumps(
                {"path": str(root), "cohort": facts, "findings": [asdict(f) for f in findings]}, indent=2
            )
        )
        return 2 if broken else 0
    if facts:
        typer.echo(
            f"cohort of {len(cohort)} patients, centres {', '.join(cohort.centres)}; "
            + ", ".join(f"{n} {e}" for e, n in exams.items())
        )
    for finding in findings:
        typer.echo(str(finding))
    typer.echo("nothing is wrong with it" if not findings else f"{len(findings)} finding(s)")
    return 2 if broken else 0


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


def _as_plain(
    found: Inspection, pick: str | None, scan: Scan | None, verdict: Verdict | None, refusal: str | None
) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "patients": found.patients,
        "studies": found.studies,
        "skipped_files": found.skipped,
        "pick": pick,
        "refusal": refusal,
        "series": [asdict(series) for series in found.series],
        "grid": None if scan is None else _grid(scan.volume),
        "verdict": None if verdict is None else verdict_as_plain(verdict),
    }


def _grid(volume: Volume) -> dict[str, Any]:
    return {"shape": volume.shape, "spacing_mm": volume.spacing_mm, "axes": volume.orientation}


def verdict_as_plain(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as plain data; an undefined number is None, as JSON knows no NaN."""
    rows = [asdict(reason) for reason in verdict.reasons]
    for row in rows:
        if row["value"] is not None:
            row["value"] = None if row["value"] != row["value"] else round(row["value"], 3)
    return {"level": verdict.level, "reasons": rows}


# ---- for the terminal
# -------------------------------------------------------------------------------------------------


def _show(found: Inspection, pick: str | None, verdict: Verdict | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "no.", "description", "images", "pixels", "step mm", "tilt", "kernel", "points"):
        right = name in ("no.", "images", "tilt", "points")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "description")
    marked = False
    for series in found.series:
        picked = series.uid == pick and not marked
        marked = marked or picked
        table.add_row(
            "→" if picked else "",
            "" if series.number is None else str(series.number),
            series.description or "(none)",
            str(series.images),
            f"{series.shape[0]}×{series.shape[1]}",
            ", ".join(f"{step:g}" for step in series.steps_mm[:3])
            + ("…" if len(series.steps_mm) > 3 else ""),
            f"{series.tilt_deg:+.1f}°" if abs(series.tilt_deg) >= 0.05 else "",
            series.kernel,
            f"{series.score:g}" if series.usable else "–",
        )
    console.print(table)
    console.print()
    for series in found.series:
        typer.echo(
            f"  {series.number if series.number is not None else '?'} {series.description or '(none)'}:"
            f" {_why(series)}"
        )
    if found.skipped:
        typer.echo(
            "  left aside: " + ", ".join(f"{count} {why}" for why, count in sorted(found.skipped.items()))
        )
    if found.patients > 1 or found.studies > 1:
        typer.echo(f"  {found.patients} patient(s), {found.studies} studies")
    if verdict is not None:
        _show_verdict(verdict)


def _why(series: SeriesSummary) -> str:
    """Return what counted: for a series that cannot be picked, only what stands against it."""
    mark = " (cannot be picked)"
    against = [reason.removesuffix(mark) for reason in series.reasons if reason.endswith(mark)]
    return f"cannot be picked: {'; '.join(against)}" if against else "; ".join(series.reasons)


def _show_verdict(verdict: Verdict) -> None:
    typer.echo(f"\nmay it be read? {verdict.level}")
    for reason in verdict.reasons:
        number = (
            ""
            if reason.value is None or reason.value != reason.value
            else f" [{reason.value:.4g}{' ' + reason.unit if reason.unit else ''}]"
        )
        typer.echo(f"  {reason.level:6} {reason.name}: {reason.text}{number}")


# ---- a row of slices
# ------------------------------------------------------------------------------------------


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
