"""`ichnos read PATH… -o OUT`: one scan or a thousand; masks, measures, DICOM SEG and SR, a report each,
and one table over all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import Field

from ichnos.cli.terminal.folders import cache_folder
from ichnos.cli.terminal.settings import EXECUTION, SettingsTree, save_settings, with_settings
from ichnos.errors import InputRefused, UsageError
from ichnos.formats.limits import Limits

if TYPE_CHECKING:
    from ichnos.api import Engine
    from ichnos.cli.inputs.names import NameBook
    from ichnos.cli.inputs.scans import ScanItem
    from ichnos.reading import Record
    from ichnos.runs import Summary

TABLE = "summary.csv"
_EXPECTED = {
    "InputRefused",
    "LimitExceeded",
    "OSError",
    "PermissionError",
    "FileNotFoundError",
    "MemoryError",
}
_UNITS = {"[hnsf'U]": "HU", "%": "percent"}
_SHOWN_VOLUMES = {
    "ich_volume_mL": "ICH mL",
    "ivh_volume_mL": "IVH mL",
    "phe_volume_mL": "PHE mL",
    "leukoaraiosis_volume_mL": "LA mL",
}


class ReadSettings(SettingsTree):
    """How scans are read."""

    only: tuple[str, ...] = Field((), description="findings to read (default: all)")
    facts: Path | None = Field(None, description="table of clinical facts, tab-separated")
    model: Path | None = Field(None, description="model folder (default: the one that ships)")
    device: str = Field("cpu", description="where to compute: cpu, cuda or mps")
    backend: Literal["auto", "openvino", "torch"] = Field("auto", description="inference engine")
    pdf: bool = Field(False, description="also write report.pdf (needs Chromium or WeasyPrint)")
    keep_names: bool = Field(False, description="name outputs and refusals after the input files")
    limits: Limits = Limits()
    threads: Annotated[int | None, EXECUTION] = Field(
        None, ge=1, description="threads per process (default: all cores)"
    )
    workers: Annotated[int, EXECUTION] = Field(1, ge=1, description="processes on this machine")
    scheduler: Annotated[str | None, EXECUTION] = Field(None, description="dask scheduler, tcp://host:port")


@with_settings(ReadSettings)
def read_command(
    paths: Annotated[list[Path], typer.Argument(help="DICOM or NIfTI files, folders, zips; cohorts")],
    out: Annotated[Path, typer.Option("--out", "-o", help="output folder; re-run to resume")],
    settings: ReadSettings,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Read head CTs; a scan that cannot be read is reported with the reason and does not stop the rest."""
    from ichnos.cli.inputs.names import name_book
    from ichnos.report.pdf import printer

    if out.is_file():
        raise UsageError(f"{out} is a file; give a folder for the results")
    engine = engine_of(settings)
    weights = engine.open_model().all_weights()  # a damaged model stops everything before it begins
    if settings.pdf:
        printer()  # so does the lack of one
    names = None if settings.keep_names else name_book()
    items = _items(paths, settings, names, progress=not as_json)
    if not items:
        raise InputRefused(f"no CT was found in {', '.join(path.name for path in paths)}")
    decisive = _decisive(engine, weights, items, settings, names.mark if names is not None else "")
    summary = _read_all(items, out, engine, settings, decisive, progress=not as_json)
    _refuse_another_input(summary, items, out)
    whole = _with_failures(summary, items)
    whole.save_table(out / TABLE)
    _save(settings, out)
    _show(whole, out, as_json=as_json)
    return _exit_code(whole)


def _save(settings: ReadSettings, out: Path) -> None:
    """Save the settings; the name of the facts' table may be a patient's."""
    kept = settings if settings.keep_names else settings.model_copy(update={"facts": None})
    save_settings(kept, out / "settings.yaml", verb="read")


def _decisive(
    engine: Engine, weights: str, items: list[ScanItem], settings: ReadSettings, names: str
) -> dict[str, Any]:
    """Return all that decides a result besides the scan."""
    from ichnos import __version__

    return {
        "ichnos": __version__,
        "model": weights,
        "only": list(_targets(settings)),
        "device": engine.device,
        "backend": engine.backend,
        "facts": {item.id: dict(item.facts) for item in items if item.facts},
        "pdf": settings.pdf,
        "limits": settings.limits.model_dump(),
        "names": names,
    }


def _targets(settings: ReadSettings) -> tuple[str, ...]:
    from ichnos.reading import chosen_findings

    return chosen_findings(list(settings.only) or None)


def _read_all(
    items: list[ScanItem],
    out: Path,
    engine: Engine,
    settings: ReadSettings,
    decisive: dict[str, Any],
    *,
    progress: bool,
) -> Summary:
    from ichnos.runs import apply

    only, keep_names = _targets(settings), settings.keep_names
    return apply(
        partial(read_one, engine=engine, only=only, pdf=settings.pdf, keep_names=keep_names),
        items,
        out=out,
        settings=decisive,
        name="read",
        workers=settings.workers,
        scheduler=settings.scheduler,
        progress=progress,
        keep_names=keep_names,
    )


def _items(
    paths: list[Path], settings: ReadSettings, names: NameBook | None, *, progress: bool
) -> list[ScanItem]:
    """List the scans of some places, with their facts; which name stands for which is kept in `names`."""
    from ichnos.cli.inputs.facts import read_facts
    from ichnos.cli.inputs.scans import find_scans, with_facts

    items = find_scans(paths, progress=progress, names=names, limits=settings.limits)
    items = with_facts(items, read_facts(settings.facts) if settings.facts is not None else {})
    if names is None:
        return items
    names.keep({item.id: item.given for item in items if not item.cohort})
    return [replace(item, given=item.id) for item in items]


def engine_of(settings: ReadSettings) -> Engine:
    """Return which model reads under the settings, with the user's folder of compiled networks."""
    from ichnos.api import Engine
    from ichnos.inference import backend_name

    threads = settings.threads
    if threads is None and settings.workers > 1:
        threads = max(1, (os.cpu_count() or 1) // settings.workers)
    backend = backend_name(settings.backend, settings.device)
    folder = str(settings.model.resolve()) if settings.model is not None else ""
    cache = str(cache_folder() / "openvino")
    return Engine(model=folder, backend=backend, device=settings.device, threads=threads, cache=cache)


def read_one(
    item: ScanItem,
    folder: Path,
    *,
    engine: Engine,
    only: tuple[str, ...],
    pdf: bool,
    keep_names: bool = False,
) -> dict[str, Any]:
    """Read one scan into a folder of its own; return its row. A refused scan is a result too: it says why."""
    from ichnos.api import read_with, save_reading
    from ichnos.errors import InputRefused
    from ichnos.reading import refused
    from ichnos.report.pdf import write_pdf

    predictor = engine.predictor()
    try:
        reading = read_with(predictor, item.open(), name=item.id, only=only)
    except InputRefused as error:
        reason, limits = str(error) if keep_names else error.without_names, predictor.model.manifest.limits
        reading = refused(item.id, reason, only=only, limits=limits)
    place = save_reading(reading, folder / item.id)
    if pdf:
        write_pdf(place / "report.html", place / "report.pdf")
    return _row(item, _saved(place))


def _saved(folder: Path) -> Record:
    """Return the record of a saved reading, which may hold one warning more: why there is no SEG and SR."""
    from ichnos.reading import Record

    return Record.model_validate_json((folder / "reading.json").read_bytes())


def _row(item: ScanItem, record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {
        "input": item.given,
        "status": record.status,
        "reason": record.refusal,
        "warnings": "; ".join(record.warnings),
    }
    for finding in record.findings:
        row[finding.target] = finding.status
        for measure in finding.measures:
            unit = _UNITS.get(measure.unit, measure.unit)
            row[f"{measure.name}_{unit}" if unit else measure.name] = (
                "n/a" if measure.value is None else measure.value
            )
    return row


def _refuse_another_input(summary: Summary, items: list[ScanItem], out: Path) -> None:
    """Refuse to show a reading of an earlier file as that of another one of the same name."""
    given = {item.id: item.given for item in items}
    other = [row for row in summary.rows if row["input"] != given[row["id"]]]
    if other:
        first = other[0]
        raise UsageError(
            f"{out} already holds a reading named {first['id']} of another input ({first['input']}, not"
            f" {given[first['id']]}); give another output folder"
        )


def _with_failures(summary: Summary, items: list[ScanItem]) -> Summary:
    """Return the summary with a row for every scan, in the order of the scans: those that failed too."""
    failed = {f.id: {"status": "failed", "reason": f.why} for f in summary.failures}
    done = {row["id"]: row for row in summary.rows}
    rows = [
        done.get(item.id) or {"id": item.id, "input": item.given, **failed.get(item.id, {})} for item in items
    ]
    return replace(summary, rows=tuple(rows))


# ---- what the user sees --------------------------------------------------------------------------


def _show(summary: Summary, out: Path, *, as_json: bool) -> None:
    if as_json:
        result = {
            "out": str(out),
            "table": str(out / TABLE),
            "scans": list(summary.rows),
            "done_now": summary.done_now,
        }
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
    elif len(summary.rows) == 1 and summary.rows[0]["status"] != "failed":
        _show_one(out / str(summary.rows[0]["id"]))
    else:
        _show_table(summary, out)


def _show_one(folder: Path) -> None:
    record = _saved(folder)
    if record.status == "refused":
        typer.echo(f"not read: {record.refusal}", err=True)
    for finding in record.findings if record.status == "read" else ():
        typer.echo(finding.sentence)
    for warning in record.warnings:
        typer.echo(f"warning: {warning}")
    typer.echo(f"{record.use}\nreport: {folder / 'report.html'}")


def _show_table(summary: Summary, out: Path) -> None:
    from ichnos.cli.terminal.tables import print_table

    header = ("scan", "status", *_SHOWN_VOLUMES.values(), "reason or warnings")
    print_table(header, [_line(row) for row in summary.rows])
    count = sum(row["status"] == "read" for row in summary.rows)
    typer.echo(
        f"{count} of {len(summary.rows)} scans read, {summary.done_now} of them now in {summary.seconds:.0f}"
        f" s: {out / TABLE}"
    )


def _line(row: Mapping[str, Any]) -> list[object]:
    volumes = [f"{row[c]:.1f}" if isinstance(row.get(c), int | float) else "" for c in _SHOWN_VOLUMES]
    return [row["id"], row["status"], *volumes, row.get("reason") or row.get("warnings")]


def _exit_code(summary: Summary) -> int:
    """Return 0 if every scan was read, 2 if some were refused or the disk failed, 1 for anything else."""
    kinds = {failure.kind for failure in summary.failures}
    if kinds - _EXPECTED:
        return 1
    return 2 if kinds or any(row["status"] == "refused" for row in summary.rows) else 0
