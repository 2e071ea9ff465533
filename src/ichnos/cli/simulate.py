"""`ichnos simulate OUT`: a virtual paired, multi-centre cohort; `--check [OUT]`: how real it is."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from ichnos.cli.terminal.folders import cache_folder
from ichnos.cli.terminal.settings import EXECUTION, SettingsTree, asked_for, save_settings, with_settings
from ichnos.cli.terminal.threads import single_thread
from ichnos.errors import UsageError

if TYPE_CHECKING:
    from ichnos.runs import Summary
    from ichnos.simulation.check.realism import RealismRow
    from ichnos.simulation.cohort.design import Design, RenderSettings

_EXAMS = ("ct", "followup", "flair", "t1", "diffusion")


class SimulateSettings(SettingsTree):
    """Who a virtual cohort consists of, and how it is rendered."""

    patients: int | None = Field(None, ge=1, description="number of patients (without a preset)")
    seed: int = Field(1, description="same seed, same cohort")
    preset: str | None = Field(None, description="demo, or a study: yu2025, ryu2025, …")
    scale: float = Field(1.0, description="fraction of a preset's patients")
    centres: tuple[str, ...] = Field(("A", "B", "C"), description="imaging centres")
    exams: tuple[str, ...] = Field(_EXAMS, description="exams (default: all five)")
    haematoma_share: float = Field(1.0, ge=0, le=1, description="fraction of patients who bleed")
    dicom: bool = Field(False, description="also write the CTs as DICOM series")
    compact: bool = Field(False, description="blood's piece of the CT, outlines and facts only")
    anatomy: Path | None = Field(None, description="folder of label maps (default: MNI head)")
    voxel_mm: float | None = Field(None, description="anatomy's voxels, mm (default: 1, compact 2)")
    workers: Annotated[int, EXECUTION] = Field(1, ge=1, description="processes on this machine")
    scheduler: Annotated[str | None, EXECUTION] = Field(None, description="dask scheduler, tcp://host:port")


@with_settings(SimulateSettings)
def simulate_command(
    settings: SimulateSettings,
    out: Annotated[Path | None, typer.Argument(help="folder of the cohort; re-run to resume")] = None,
    check: Annotated[bool, typer.Option("--check", help="compare with published figures")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Simulate virtual patients with every exam and the ground truth."""
    if check:
        return _check(out, settings, as_json=as_json)
    if out is None:
        raise UsageError("give the folder of the cohort, or --check to compare with published figures")
    from ichnos.simulation.cohort.write import simulate_cohort

    summary = simulate_cohort(
        _design(settings),
        out,
        seed=settings.seed,
        render=_render(settings),
        name=f"virtual patients after {settings.preset}" if settings.preset else "virtual patients",
        workers=settings.workers,
        scheduler=settings.scheduler,
        progress=not as_json,
        cache=cache_folder(),
        worker_context=single_thread,
    )
    save_settings(settings, out / ".ichnos" / "simulate" / "settings.yaml", verb="simulate")
    return _show(summary, out, as_json=as_json)


def _render(settings: SimulateSettings) -> RenderSettings:
    from ichnos.simulation.cohort.design import RenderSettings

    heads = str(settings.anatomy) if settings.anatomy else None
    if settings.compact:
        if settings.dicom:
            raise UsageError("--compact writes pieces of CTs, which are no DICOM series; leave out --dicom")
        return RenderSettings(heads, settings.voxel_mm or 2.0, oracle_samples=0, compact=True)
    return RenderSettings(anatomy=heads, voxel_mm=settings.voxel_mm or 1.0, dicom=settings.dicom)


def _design(settings: SimulateSettings) -> Design:
    from ichnos.simulation.cohort.design import free_design
    from ichnos.simulation.cohort.design import preset as preset_design

    if settings.preset is not None:
        if settings.patients is not None:
            raise UsageError(
                "--preset has its own number of patients; shrink it with --scale, or give --patients without"
                " a preset"
            )
        _refuse_beside(settings, ("centres", "exams", "haematoma_share"), "--preset, which says who they are")
        return preset_design(settings.preset, scale=settings.scale)
    if settings.patients is None:
        raise UsageError("give --patients N, or a --preset")
    _refuse_beside(settings, ("scale",), "--patients: give fewer of them")
    return free_design(
        patients=settings.patients,
        centres=list(settings.centres),
        exams=list(settings.exams),
        haematoma_share=settings.haematoma_share,
    )


def _refuse_beside(settings: SimulateSettings, names: tuple[str, ...], what: str) -> None:
    """Refuse flags that say nothing about the design that was chosen."""
    if given := asked_for(settings, names):
        raise UsageError(f"leave out {', '.join(given)} beside {what}")


def _show(summary: Summary, out: Path, *, as_json: bool) -> int:
    failures = [{"id": f.id, "why": f.why} for f in summary.failures]
    if as_json:
        result = {
            "out": str(out),
            "patients": len(summary),
            "made_now": summary.done_now,
            "failures": failures,
        }
        typer.echo(json.dumps(result | {"seconds": round(summary.seconds, 1)}, indent=2))
    else:
        typer.echo(
            f"{len(summary)} virtual patients in {out}, {summary.done_now} of them simulated now in"
            f" {summary.seconds:.0f} s"
        )
        for failure in failures:
            typer.echo(f"  {failure['id']} could not be simulated: {failure['why']}", err=True)
    return 2 if failures else 0


def _check(out: Path | None, settings: SimulateSettings, *, as_json: bool) -> int:
    """Print the realism table: of a cohort's masks, or of patients simulated for the purpose."""
    started = time.process_time()
    if out is None:
        rows, sheet = _simulated_rows(settings, progress=not as_json), None
    else:
        from ichnos.simulation.check.measure import measure
        from ichnos.simulation.check.page import write_sheet

        found = measure(out)
        rows, sheet = list(found.realism), write_sheet(out, found)
    seconds = time.process_time() - started
    if as_json:
        result = {"sheet": str(sheet) if sheet else None, "cpu_seconds": round(seconds, 1)}
        typer.echo(json.dumps(result | {"realism": [row.as_row() for row in rows]}, indent=2))
        return 0
    _print_realism(rows)
    typer.echo(f"measured in {seconds:.0f} s of processor time")
    if sheet:
        typer.echo(f"realism sheet: {sheet}")
    return 0


def _simulated_rows(settings: SimulateSettings, *, progress: bool) -> list[RealismRow]:
    from ichnos.simulation.check.measure import drawn_rows
    from ichnos.simulation.check.voxels import PATIENTS, simulated_rows
    from ichnos.simulation.heads.from_mni import mni_head

    count = settings.patients or PATIENTS

    def each(done: int) -> None:
        if progress and done % 20 == 0:
            typer.echo(f"{done} of {count} patients simulated", err=True)

    if progress:
        typer.echo(f"simulating {count} patients at low resolution, about 1.5 s of processor each", err=True)
    seeds = range(1000 * settings.seed, 1000 * settings.seed + count)
    return [*drawn_rows(), *simulated_rows(mni_head(cache_folder() / "heads"), seeds, each=each)]


def _print_realism(rows: list[RealismRow]) -> None:
    from ichnos.cli.terminal.tables import print_table

    sources = list(dict.fromkeys(row.source for row in rows))
    header = ["quantity", "simulated (95 %)", "quartiles", "published", "band", "in band", "n", "source"]
    cells = [
        [
            row.quantity,
            row.shown,
            row.shown_quartiles,
            row.published,
            row.shown_band,
            row.verdict,
            row.n,
            f"[{1 + sources.index(row.source)}]",
        ]
        for row in rows
    ]
    print_table(header, cells)
    for number, source in enumerate(sources, 1):
        typer.echo(f"[{number}] {source}")
