"""`ichnos simulate OUT`: a virtual paired, multi-centre cohort; `--check OUT`: its realism sheet."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from ichnos.cli.terminal.settings import EXECUTION, SettingsTree, save_settings, with_settings
from ichnos.cli.terminal.threads import single_thread
from ichnos.errors import UsageError

if TYPE_CHECKING:
    from ichnos.runs import Summary
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
    out: Annotated[Path, typer.Argument(help="folder of the cohort; re-run to resume")],
    settings: SimulateSettings,
    check: Annotated[bool, typer.Option("--check", help="write the realism sheet of a cohort")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Simulate virtual patients with every exam and the ground truth."""
    if check:
        return _check(out, as_json=as_json)
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
        cache=_cache(),
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


def _cache() -> Path:
    """Return the user's own folder for what can be computed again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ichnos"


def _design(settings: SimulateSettings) -> Design:
    from ichnos.simulation.cohort.design import free_design
    from ichnos.simulation.cohort.design import preset as preset_design

    if settings.preset is not None:
        if settings.patients is not None:
            raise UsageError(
                "--preset has its own number of patients; shrink it with --scale, or give --patients without"
                " a preset"
            )
        return preset_design(settings.preset, scale=settings.scale)
    if settings.patients is None:
        raise UsageError("give --patients N, or a --preset")
    return free_design(
        patients=settings.patients,
        centres=list(settings.centres),
        exams=list(settings.exams),
        haematoma_share=settings.haematoma_share,
    )


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


def _check(out: Path, *, as_json: bool) -> int:
    from ichnos.simulation.check.page import write_sheet

    page = write_sheet(out)
    typer.echo(json.dumps({"sheet": str(page)}) if as_json else f"realism sheet: {page}")
    return 0
