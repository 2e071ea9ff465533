"""`ichnos simulate OUT`: a virtual paired, multi-centre cohort; `--check OUT`: its realism sheet."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichnos.cli.threads import single_thread
from ichnos.errors import UsageError

if TYPE_CHECKING:
    from ichnos.runs import Summary
    from ichnos.simulation.cohort.design import Design


def simulate(
    out: Annotated[Path, typer.Argument(help="folder of the cohort; an unfinished one is completed")],
    patients: Annotated[int | None, typer.Option(help="how many (without a preset)")] = None,
    seed: Annotated[int, typer.Option(help="same seed, same cohort")] = 1,
    preset: Annotated[
        str | None, typer.Option(help="demo, yu2025, ryu2025, murray2024 or abramova2024")
    ] = None,
    scale: Annotated[float, typer.Option(help="share of a preset's patients")] = 1.0,
    centres: Annotated[str, typer.Option(help="which centres, as A,B,C")] = "A,B,C",
    exams: Annotated[
        str, typer.Option(help="ct and any of followup,flair,t1,diffusion")
    ] = "ct,followup,flair,t1,diffusion",
    haematoma_share: Annotated[float, typer.Option(help="share of patients who bleed, 0 to 1")] = 1.0,
    dicom: Annotated[bool, typer.Option("--dicom", help="write the CTs as DICOM series too")] = False,
    anatomy: Annotated[
        Path | None, typer.Option(help="folder of label maps to use as heads instead of the MNI head")
    ] = None,
    voxel_mm: Annotated[float, typer.Option(help="the patients' own voxel size")] = 1.0,
    workers: Annotated[int, typer.Option(help="processes")] = 1,
    scheduler: Annotated[str | None, typer.Option(help="address of a dask scheduler instead")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="write the realism sheet of a finished cohort")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Make virtual patients with every exam and the truth."""
    if check:
        return _check(out, as_json=as_json)
    from ichnos.simulation.cohort.design import RenderSettings
    from ichnos.simulation.cohort.write import simulate_cohort

    design = _design(preset, patients, scale, centres, exams, haematoma_share)
    render = RenderSettings(anatomy=str(anatomy) if anatomy else None, voxel_mm=voxel_mm, dicom=dicom)
    name = f"virtual patients after {preset}" if preset else "virtual patients"
    summary = simulate_cohort(
        design,
        out,
        seed=seed,
        render=render,
        name=name,
        workers=workers,
        scheduler=scheduler,
        progress=not as_json,
        cache=_cache(),
        worker_context=single_thread,
    )
    return _told(summary, out, as_json=as_json)


def _cache() -> Path:
    """Return the user's own folder for what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ichnos"


def _design(
    preset: str | None, patients: int | None, scale: float, centres: str, exams: str, haematoma_share: float
) -> Design:
    from ichnos.simulation.cohort.design import free_design
    from ichnos.simulation.cohort.design import preset as preset_design

    if preset is not None:
        if patients is not None:
            raise UsageError(
                "--preset brings its own number of patients; shrink it with --scale, or give --patients"
                " without a preset"
            )
        return preset_design(preset, scale=scale)
    if patients is None:
        raise UsageError("give --patients N, or a --preset")
    return free_design(
        patients=patients, centres=_list(centres), exams=_list(exams), haematoma_share=haematoma_share
    )


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _told(summary: Summary, out: Path, *, as_json: bool) -> int:
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
            f"{len(summary)} virtual patients in {out}, {summary.done_now} of them made now in"
            f" {summary.seconds:.0f} s"
        )
        for failure in failures:
            typer.echo(f"  {failure['id']} could not be made: {failure['why']}", err=True)
    return 2 if failures else 0


def _check(out: Path, *, as_json: bool) -> int:
    from ichnos.simulation.check.page import write_sheet

    page = write_sheet(out)
    typer.echo(json.dumps({"sheet": str(page)}) if as_json else f"realism sheet: {page}")
    return 0
