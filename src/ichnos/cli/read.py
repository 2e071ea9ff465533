"""`ichnos read PATH… -o OUT`: one scan or a thousand; masks, measures, DICOM SEG and SR, a report each,
and one table over all.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ichnos.errors import UsageError

if TYPE_CHECKING:
    from ichnos.api import Engine
    from ichnos.cli.scans import ScanItem
    from ichnos.runs import Summary

TABLE = "summary.csv"
_EXPECTED = {"InputRefused", "OSError", "PermissionError", "FileNotFoundError", "MemoryError"}


def read(
    paths: Annotated[
        list[Path], typer.Argument(help="DICOM files, folders, zips; NIfTI files or folders of them; cohorts")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for the results; run again to go on")],
    only: Annotated[str, typer.Option(help="any of haematoma,leukoaraiosis,tract,expansion,outcome")] = "",
    facts: Annotated[
        Path | None,
        typer.Option(
            help="table (tab-separated) with id and any of age_years, onset_to_ct_h, anticoagulation, gcs"
        ),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="model folder instead of the default one")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="threads per process; all cores without it")] = None,
    backend: Annotated[str, typer.Option(help="auto, openvino or torch")] = "auto",
    pdf: Annotated[
        bool, typer.Option("--pdf", help="write report.pdf too (needs Chromium or WeasyPrint)")
    ] = False,
    workers: Annotated[int, typer.Option(help="processes on this machine")] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="address of a dask scheduler, such as tcp://host:8786")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Read head CTs; a scan that cannot be read is reported with the reason and does not stop the rest."""
    from ichnos.cli.facts import read_facts
    from ichnos.cli.scans import find_scans, with_facts
    from ichnos.reading import chosen_findings
    from ichnos.report.pdf import printer
    from ichnos.runs import apply

    if out.is_file():
        raise UsageError(f"{out} is a file; give a folder for the results")
    targets = chosen_findings([part.strip() for part in only.split(",") if part.strip()] if only else None)
    engine = _engine(model, device, threads, backend, workers)
    weights = (
        engine.open_model().all_weights()
    )  # a damaged or missing model stops everything before it begins
    if pdf:
        printer()  # likewise
    told_of = read_facts(facts) if facts is not None else {}
    items = with_facts(find_scans(paths, progress=not as_json), told_of)
    settings = _settings(engine, weights, targets, items, pdf=pdf)
    task = partial(read_one, engine=engine, only=targets, pdf=pdf)
    summary = apply(
        task,
        items,
        out=out,
        settings=settings,
        name="read",
        workers=workers,
        scheduler=scheduler,
        progress=not as_json,
    )
    _refuse_another_input(summary, items, out)
    told = _with_failures(summary, items)
    told.save_table(out / TABLE)
    _tell(told, out, as_json=as_json)
    return _exit_code(told)


def _engine(model: Path | None, device: str, threads: int | None, backend: str, workers: int) -> Engine:
    from ichnos.api import Engine
    from ichnos.inference import backend_name

    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads were asked for; give 1 or more")
    if threads is None and workers > 1:
        threads = max(1, (os.cpu_count() or 1) // workers)
    chosen = backend_name(backend, device)  # type: ignore[arg-type]  # what the user typed; it says which names there are
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ichnos" / "openvino"
    folder = str(model.resolve()) if model is not None else ""
    return Engine(model=folder, backend=chosen, device=device, threads=threads, cache=str(cache))


def _settings(
    engine: Engine, weights: str, targets: tuple[str, ...], items: list[ScanItem], *, pdf: bool
) -> dict[str, Any]:
    """Return all that decides a result besides the scan."""
    from ichnos import __version__

    return {
        "ichnos": __version__,
        "model": weights,
        "only": list(targets),
        "device": engine.device,
        "backend": engine.backend,
        "facts": {item.id: dict(item.facts) for item in items if item.facts},
        "pdf": pdf,
    }


def read_one(
    item: ScanItem, folder: Path, *, engine: Engine, only: tuple[str, ...], pdf: bool
) -> dict[str, Any]:
    """Read one scan into a folder of its own; return its row. A refused scan is a result too: it says why."""
    from ichnos.api import read_with, save
    from ichnos.errors import InputRefused
    from ichnos.reading import refused
    from ichnos.report.pdf import write_pdf

    try:
        reading = read_with(engine.predictor(), item.open(), name=item.id, only=only)
    except InputRefused as error:  # without the path, which may name the patient
        reading = refused(item.id, str(error).replace(str(item.place), item.id), only=only)
    place = save(reading, folder / item.id)
    if pdf:
        write_pdf(place / "report.html", place / "report.pdf")
    return _row(item, reading.record)


def _row(item: ScanItem, record: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "input": item.given,
        "status": record.status,
        "reason": record.refusal,
        "warnings": "; ".join(record.warnings),
    }
    for finding in record.findings:
        row[finding.target] = finding.status
        for measure in finding.measures:
            unit = {"[hnsf'U]": "HU", "%": "percent"}.get(measure.unit, measure.unit)
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


# ---- what the user sees
# -------------------------------------------------------------------------------------------------


def _tell(summary: Summary, out: Path, *, as_json: bool) -> None:
    if as_json:
        told = {
            "out": str(out),
            "table": str(out / TABLE),
            "scans": list(summary.rows),
            "done_now": summary.done_now,
        }
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
    elif len(summary.rows) == 1 and summary.rows[0]["status"] != "failed":
        _show_one(out / str(summary.rows[0]["id"]))
    else:
        _show_table(summary, out)


def _show_one(folder: Path) -> None:
    from ichnos.reading import Record

    record = Record.model_validate_json((folder / "reading.json").read_bytes())
    if record.status == "refused":
        typer.echo(f"not read: {record.refusal}", err=True)
    for finding in record.findings if record.status == "read" else ():
        typer.echo(finding.sentence)
    for warning in record.warnings:
        typer.echo(f"warning: {warning}")
    typer.echo(f"{record.use}\nreport: {folder / 'report.html'}")


def _show_table(summary: Summary, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = {
        "ich_volume_mL": "ICH mL",
        "ivh_volume_mL": "IVH mL",
        "phe_volume_mL": "PHE mL",
        "leukoaraiosis_volume_mL": "LA mL",
    }
    table = Table("scan", "status", *columns.values(), "why not, or warnings")
    for row in summary.rows:
        numbers = [f"{row[c]:.1f}" if isinstance(row.get(c), int | float) else "" for c in columns]
        table.add_row(
            str(row["id"]), str(row["status"]), *numbers, str(row.get("reason") or row.get("warnings") or "")
        )
    Console().print(table)
    count = sum(row["status"] == "read" for row in summary.rows)
    typer.echo(
        f"{count} of {len(summary.rows)} scans read, {summary.done_now} of them now in {summary.seconds:.0f}"
        f" s: {out / TABLE}"
    )


def _exit_code(summary: Summary) -> int:
    """Return 0 if every scan was read, 2 if some were refused or the disk would not have them, 1 if
    anything else failed.
    """
    kinds = {failure.kind for failure in summary.failures}
    if kinds - _EXPECTED:
        return 1
    return 2 if kinds or any(row["status"] == "refused" for row in summary.rows) else 0
