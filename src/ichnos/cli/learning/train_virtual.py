"""`ichnos train default` and `ichnos train refinement`: the weights that ship, from virtual patients."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field

from ichnos.cli.terminal.settings import EXECUTION, SettingsTree, save_settings, with_settings

if TYPE_CHECKING:
    from ichnos.learning.loop.resources import Resources
    from ichnos.models import Model

_EVERY_S = 20.0  # between two lines of progress


class DefaultSettings(SettingsTree):
    """How the default network is trained."""

    heads: Path | None = Field(None, description="folder of label maps (default: MNI head)")
    minutes: float = Field(10.0, gt=0, description="training time")
    steps: int = Field(20_000, ge=1, description="steps of the whole schedule")
    restart: bool = Field(False, description="start from random weights")
    device: Annotated[str, EXECUTION] = Field("cpu", description="where to compute: cpu or cuda")


class RefinementSettings(DefaultSettings):
    """How the refinement of a model is trained."""

    minutes: float = Field(60.0, gt=0, description="training time, after simulation")
    steps: int = Field(6000, ge=1, description="steps of the whole schedule")
    patients: int = Field(160, ge=1, description="patients read, two scans each")
    workers: Annotated[int, EXECUTION] = Field(2, ge=1, description="processes that simulate")


@with_settings(DefaultSettings)
def train_default_command(
    settings: DefaultSettings,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="model folder (default: shipped)")] = None,
    work: Annotated[Path, typer.Option(help="checkpoint; re-run to resume")] = Path("build/weights"),
    cache: Annotated[Path, typer.Option(help="folder of prepared heads")] = Path("build/heads"),
) -> int:
    """Train the default network on virtual patients."""
    from ichnos.learning.virtual.default_model import train_default
    from ichnos.models.store import DEFAULT, MANIFEST, SHIPPED

    _end_children_on_sigterm()
    folder, heads = out or SHIPPED / DEFAULT, _label_maps(settings.heads)
    model = train_default(
        folder,
        heads=heads,
        work=work,
        steps=settings.steps,
        go_on_from=None if settings.restart or not (folder / MANIFEST).is_file() else folder,
        resources=_resources("default", settings, f"{len(heads)} label maps", cache),
    )
    save_settings(settings, work / "settings.yaml", verb="train default")
    return _show(model)


@with_settings(RefinementSettings)
def train_refinement_command(
    settings: RefinementSettings,
    model: Annotated[str, typer.Option(help="model folder to refine")] = "default",
    work: Annotated[Path, typer.Option(help="scans, checkpoint; re-run to resume")] = Path(
        "build/refinement"
    ),
    cache: Annotated[Path, typer.Option(help="folder of prepared heads")] = Path("build/heads"),
) -> int:
    """Train the refinement of a model on virtual patients that it has read."""
    from ichnos.cli.inputs.models import named_model
    from ichnos.learning.virtual.default_model import taught_heads
    from ichnos.learning.virtual.refinement import scans_of, train_refinement

    _end_children_on_sigterm()
    first, heads = named_model(model), _label_maps(settings.heads)
    pool, used = work / "pool", taught_heads(heads)
    _read_patients(first, used, pool, cache, settings)
    scans = tuple(file for n in range(settings.patients) for file in scans_of(pool, n))
    who = f"{len(used)} label maps, {settings.patients} patients"
    how = _resources("refinement", settings, who, cache)
    refined = train_refinement(
        first, scans, heads=heads, work=work, steps=settings.steps, anew=settings.restart, resources=how
    )
    save_settings(settings, work / "settings.yaml", verb="train refinement")
    return _show(refined)


def _resources(part: str, settings: DefaultSettings, who: str, cache: Path) -> Resources:
    """Return what a training may use; `who` are the patients, as a card names them."""
    from ichnos.learning.loop.resources import Resources

    return Resources(
        settings.device,
        seconds=60 * settings.minutes,
        cache=cache,
        command=f"ichnos train {part} ({who}, schedule of {settings.steps} steps)",
        report=_line_of_progress(),
    )


def _read_patients(
    first: Model, heads: tuple[Path, ...], pool: Path, cache: Path, settings: RefinementSettings
) -> None:
    """Simulate the patients that the refinement learns from, and let the first network read them."""
    from ichnos.learning.virtual.refinement import looks
    from ichnos.runs import Numbered, apply

    apply(
        partial(looks, model=first.folder, heads=heads, cache=cache),
        [Numbered(number) for number in range(settings.patients)],
        out=pool,
        settings={"model": first.manifest.weights_sha256, "heads": [head.name for head in heads]},
        name="pool",
        workers=settings.workers,
    )


def _label_maps(folder: Path | None) -> tuple[Path, ...]:
    from ichnos.simulation.heads.from_labels import head_files

    return head_files(folder) if folder is not None else ()


def _end_children_on_sigterm() -> None:
    """Leave by an exception when terminated, so that the process that simulates ends with this one."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def _line_of_progress() -> Callable[[Any], None]:
    """Return a report that prints a line now and then."""
    last = 0.0

    def report(progress: Any) -> None:
        nonlocal last
        if time.monotonic() - last > _EVERY_S:
            last = time.monotonic()
            typer.echo(str(progress), err=True)

    return report


def _show(model: Model) -> int:
    manifest = model.manifest
    steps, digest = manifest.provenance.steps, manifest.weights_sha256[:16]
    typer.echo(f"{model.folder}: {steps} steps, SHA-256 {digest}…")
    return 0
