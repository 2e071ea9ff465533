"""`ichnos fit MODEL`: the prognostic and calibration models beside a model's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from ichnos.cli.terminal.settings import EXECUTION, SettingsTree, save_settings, with_settings
from ichnos.errors import UsageError

if TYPE_CHECKING:
    from ichnos.learning.fit.parts import Fitted

_PARTS = ("growth", "outcome", "volumes", "fazekas")
_ON_HEADS = {"volumes", "fazekas"}  # parts whose patients are made of the user's label maps


class FitSettings(SettingsTree):
    """What is fitted, and on how many simulated patients."""

    parts: tuple[str, ...] = Field(_PARTS, description="what to fit (default: all four)")
    readings: int = Field(68, ge=1, description="patients read, for volumes and fazekas")
    growth_patients: int = Field(500, ge=1, description="patients for growth")
    anatomies: int = Field(300, ge=1, description="patients in voxels, for outcome")
    trial_patients: int = Field(3000, ge=1, description="patients of the simulated trial")
    heads: Path | None = Field(None, description="label maps, for volumes and fazekas")
    workers: Annotated[int, EXECUTION] = Field(1, ge=1, description="processes on this machine")


@with_settings(FitSettings)
def fit_command(
    model: Annotated[str, typer.Argument(help="model folder, or `default`")],
    settings: FitSettings,
    work: Annotated[Path, typer.Option(help="measured patients; re-run to resume")] = Path("build/fit"),
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Fit a model's prognostic and calibration models on simulated patients."""
    from ichnos.cli.inputs.models import named_model
    from ichnos.cli.terminal.threads import single_thread
    from ichnos.learning.fit.parts import FitPlan, FitResources, fit_model
    from ichnos.simulation.heads.from_labels import head_files

    if unknown := [part for part in settings.parts if part not in _PARTS]:
        raise UsageError(f"--parts {unknown[0]} is unknown; give any of {', '.join(_PARTS)}")
    if settings.heads and not _ON_HEADS & set(settings.parts):
        raise UsageError(f"--heads serves {' and '.join(sorted(_ON_HEADS))} alone: leave it out")
    heads = head_files(settings.heads) if settings.heads else ()
    plan = FitPlan(
        **settings.model_dump(exclude={"heads", "workers"}), heads=heads, command=f"ichnos fit {model}"
    )
    resources = FitResources(work, settings.workers, not as_json, single_thread)
    fitted = fit_model(named_model(model), plan, resources)
    save_settings(settings, work / "settings.yaml", verb="fit")
    _show(fitted, as_json=as_json)
    return 0


def _show(fitted: list[Fitted], *, as_json: bool) -> None:
    if as_json:
        rows = [{"part": f.part, "file": str(f.file), "cohort": f.cohort, **f.measures} for f in fitted]
        typer.echo(json.dumps(rows, indent=2))
        return
    for one in fitted:
        typer.echo(f"{one.part}: {one.cohort}\n  written: {one.file}")
        for name, value in one.measures.items():
            typer.echo(f"  {name:40} {value:.4g}")
