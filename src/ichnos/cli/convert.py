"""`ichnos convert PATH -o OUT`: the head CT of every study as NIfTI, with a JSON sidecar, without the
patient's identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ichnos.errors import InputRefused, UsageError

if TYPE_CHECKING:
    from ichnos.formats.dicom import DicomStudy
    from ichnos.runs import Summary
    from ichnos.scan import Scan

_OLDEST_YEARS = 90  # higher ages are rare enough to point at a person


def convert_command(
    path: Annotated[Path, typer.Argument(help="folder or zip with any number of studies, or one NIfTI file")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for the results; run again to go on")],
    workers: Annotated[int, typer.Option(help="processes on this machine")] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="address of a dask scheduler, such as tcp://host:8786")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Convert each study's head CT to NIfTI; a study without one is reported and does not stop the rest."""
    from ichnos import __version__
    from ichnos.cli.inspect import file_bar
    from ichnos.formats import nifti
    from ichnos.formats.dicom import studies_in
    from ichnos.runs import apply

    if out.is_file():
        raise UsageError(f"{out} is a file; give a folder for the results")
    items: list[DicomStudy | _NiftiFile]
    if nifti.is_nifti(path) and path.is_file():
        items = [_NiftiFile(path)]
    else:
        with file_bar(show=not as_json) as progress:
            items = [*studies_in(path, progress=progress)]
    settings = {"ichnos": __version__, "as": "nifti"}
    summary = apply(
        convert_one,
        items,
        out=out,
        settings=settings,
        name="convert",
        workers=workers,
        scheduler=scheduler,
        progress=not as_json,
    )
    summary.save_table(out / "convert.tsv")
    _tell(summary, out, as_json=as_json)
    return _exit_code(summary)


@dataclass(frozen=True)
class _NiftiFile:
    """A NIfTI file as an item of a run."""

    path: Path

    @property
    def folder(self) -> Path:
        return self.path

    @property
    def id(self) -> str:
        return "scan-" + hashlib.sha256(self.path.name.encode()).hexdigest()[:12]

    def open(self) -> Scan:
        from ichnos.formats import open_scan

        return open_scan(self.path)


def convert_one(item: DicomStudy | _NiftiFile, folder: Path) -> Mapping[str, Any]:
    """Write one study's head CT and its sidecar into a folder; return its row."""
    from ichnos.formats import nifti
    from ichnos.quality import judge

    try:
        scan = item.open()
    except InputRefused as error:  # the ledger keeps the reason: without the path, which may name the patient
        raise InputRefused(str(error).replace(str(item.folder), item.id)) from None
    scan = scan.judged(judge(scan))
    file = folder / f"{item.id}_ct.nii.gz"
    nifti.save(scan.volume, file)
    nifti.write_sidecar(file, sidecar_without_identity(scan))
    x_mm, y_mm, z_mm = scan.volume.spacing_mm
    level = scan.quality.level if scan.quality is not None else ""
    return {
        "file": file.name,
        "quality": level,
        "x_mm": round(x_mm, 4),
        "y_mm": round(y_mm, 4),
        "z_mm": round(z_mm, 4),
    }


def sidecar_without_identity(scan: Scan) -> dict[str, Any]:
    """Return how a scan was made and how good it is, without names, numbers, dates and free text that
    could tell who it is.
    """
    from ichnos import __version__
    from ichnos.cli.inspect import verdict_as_plain
    from ichnos.formats import nifti

    plain = nifti.sidecar_of(scan.acquisition)
    plain.pop("SeriesDescription", None)
    plain.pop("ContrastBolusAgent", None)
    plain["ContrastDeclared"] = scan.acquisition.contrast_agent is not None
    if "age_years" in scan.facts:
        plain["AgeYears"] = min(float(scan.facts["age_years"]), _OLDEST_YEARS)
    if "sex" in scan.facts:
        plain["Sex"] = scan.facts["sex"]
    if scan.quality is not None:
        plain["Quality"] = verdict_as_plain(scan.quality)
    plain["ConvertedBy"] = f"ichnos {__version__}, research use only"
    return plain


def _tell(summary: Summary, out: Path, *, as_json: bool) -> None:
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
    """Return 0 if all went well, 2 if inputs were refused or the disk would not have them, 1 if anything
    else failed.
    """
    kinds = {failure.kind for failure in summary.failures}
    return (
        0
        if not kinds
        else 2
        if kinds <= {"InputRefused", "OSError", "PermissionError", "FileNotFoundError"}
        else 1
    )
