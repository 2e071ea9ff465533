"""`ichnos convert PATH -o OUT`: the head CT of every study as NIfTI, with a JSON sidecar, without the
patient's identity.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field

from ichnos.cli.terminal.settings import EXECUTION, SettingsTree, save_settings, with_settings
from ichnos.errors import UsageError
from ichnos.formats.limits import Limits

if TYPE_CHECKING:
    from ichnos.cli.inputs.names import NameBook
    from ichnos.cli.inputs.scans import ScanItem
    from ichnos.runs import Summary

_EXPECTED = {"InputRefused", "LimitExceeded", "OSError", "PermissionError", "FileNotFoundError"}


class ConvertSettings(SettingsTree):
    """What is kept of the studies, and how they are worked through."""

    keep_names: bool = Field(False, description="keep names and scanner texts")
    workers: Annotated[int, EXECUTION] = Field(1, ge=1, description="processes on this machine")
    scheduler: Annotated[str | None, EXECUTION] = Field(None, description="dask scheduler, tcp://host:port")
    limits: Limits = Limits()


@with_settings(ConvertSettings)
def convert_command(
    path: Annotated[Path, typer.Argument(help="folder or zip of DICOM studies, or a NIfTI file")],
    out: Annotated[Path, typer.Option("--out", "-o", help="output folder; re-run to resume")],
    settings: ConvertSettings,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Convert each study's head CT to NIfTI; a study without one is reported and does not stop the rest."""
    from ichnos.cli.inputs.names import name_book

    if out.is_file():
        raise UsageError(f"{out} is a file; give a folder for the results")
    names = None if settings.keep_names else name_book()
    items = _items(path, names, settings.limits, progress=not as_json)
    mark = names.mark if names is not None else ""
    summary = _converted(items, out, settings, mark, progress=not as_json)
    summary.save_table(out / "convert.tsv")
    save_settings(settings, out / "settings.yaml", verb="convert")
    _show(summary, out, as_json=as_json)
    return _exit_code(summary)


def _converted(
    items: list[ScanItem], out: Path, settings: ConvertSettings, mark: str, *, progress: bool
) -> Summary:
    from ichnos import __version__
    from ichnos.runs import apply

    limits = settings.limits.model_dump()
    return apply(
        partial(convert_one, keep_names=settings.keep_names),
        items,
        out=out,
        settings={"ichnos": __version__, "as": "nifti", "names": mark, "limits": limits},
        name="convert",
        workers=settings.workers,
        scheduler=settings.scheduler,
        progress=progress,
        keep_names=settings.keep_names,
    )


def _items(path: Path, names: NameBook | None, limits: Limits, *, progress: bool) -> list[ScanItem]:
    """List the studies of a place; which name stands for which is kept in the user's own book."""
    from ichnos.cli.inputs.scans import find_studies

    items = find_studies(path, progress=progress, names=names, limits=limits)
    if names is not None:
        names.keep({item.id: item.given for item in items})
    return items


def convert_one(item: ScanItem, folder: Path, *, keep_names: bool = False) -> Mapping[str, Any]:
    """Write one study's head CT and its sidecar into a folder; return its row."""
    from ichnos.formats import nifti
    from ichnos.formats.deidentified import sidecar_without_identity
    from ichnos.quality import judge

    scan = item.open()
    scan = scan.judged(judge(scan))
    file = folder / f"{item.id}_ct.nii.gz"
    nifti.save(scan.volume, file)
    nifti.write_sidecar(file, sidecar_without_identity(scan, keep_names=keep_names))
    x_mm, y_mm, z_mm = scan.volume.spacing_mm
    level = scan.quality.level if scan.quality is not None else ""
    return {
        "file": file.name,
        "quality": level,
        "x_mm": round(x_mm, 4),
        "y_mm": round(y_mm, 4),
        "z_mm": round(z_mm, 4),
    }


def _show(summary: Summary, out: Path, *, as_json: bool) -> None:
    failures = [{"id": failure.id, "why": failure.why} for failure in summary.failures]
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "out": str(out),
                    "rows": list(summary.rows),
                    "done_now": summary.done_now,
                    "failures": failures,
                },
                indent=2,
            )
        )
        return
    typer.echo(
        f"{len(summary)} head CTs in {out}, {summary.done_now} of them converted now in"
        f" {summary.seconds:.0f} s"
    )
    for failure in failures:
        typer.echo(f"  {failure['id']}: {failure['why']}", err=True)


def _exit_code(summary: Summary) -> int:
    """Return 0 if all went well, 2 if inputs were refused or the disk failed, 1 for anything else."""
    kinds = {failure.kind for failure in summary.failures}
    if kinds - _EXPECTED:
        return 1
    return 2 if kinds else 0
