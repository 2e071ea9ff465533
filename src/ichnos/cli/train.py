"""`ichnos train TARGET COHORT -o MODEL`: train a network to read a target from CT."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import Field

from ichnos.cli.terminal.folders import cache_folder
from ichnos.cli.terminal.settings import EXECUTION, Flag, asked_for, with_settings
from ichnos.errors import UsageError
from ichnos.files import remove_partials, sole_writer
from ichnos.formats.bids import TRUSTED_PIPELINES
from ichnos.learning.expansion.settings import ExpansionSettings
from ichnos.learning.nnunet.settings import NnunetSettings
from ichnos.learning.segmentation.settings import TrainSettings

if TYPE_CHECKING:
    from ichnos.cohort import Cohort
    from ichnos.learning.loop.resources import Resources
    from ichnos.learning.loop.steps import Progress
    from ichnos.learning.loop.team import Team
    from ichnos.models import Model


class TrainCommandSettings(TrainSettings):
    """What `ichnos train` takes: the settings of a training, and short flags for the commonest of them."""

    recipe: str = Field("", description="small, published, or a settings file")
    engine: Literal["ichnos", "nnunet"] = Field("ichnos", description="training engine")
    network: str | None = Field(None, description="unet, umamba_bot, umamba_enc, unetr, …")
    start: Annotated[str, Flag(("--from",))] = Field(
        "", description="fine-tune from this model, or `default`"
    )
    minutes: float | None = Field(None, gt=0, description="train as many steps as fit into this time")
    steps: int | None = Field(None, ge=1, description="optimiser steps (default: 2000)")
    spacing: tuple[float, float, float] | None = Field(None, description="voxel size in mm (default: 2,2,2)")
    patch: tuple[int, int, int] | None = Field(None, description="voxels of a patch; z of 1: slices")
    simulated_share: float | None = Field(None, description="fraction of batches simulated meanwhile")
    folds: int = Field(0, ge=0, description="k-fold training, averaged; 0: none")
    mirror: bool = Field(False, description="with --folds: also read mirror images")
    seed: int | None = Field(None, description="same seed, same numbers (default: 0)")
    pipelines: tuple[str, ...] = Field(TRUSTED_PIPELINES, description="folders with targets")
    anatomy: Path | None = Field(None, description="folder of label maps to simulate from")
    nnunet: NnunetSettings = NnunetSettings()
    expansion: ExpansionSettings = ExpansionSettings()
    device: Annotated[str, EXECUTION] = Field("cpu", description="cpu, cuda or mps")
    workers: Annotated[int, EXECUTION] = Field(0, ge=0, description="threads that prefetch batches")
    work: Annotated[Path | None, EXECUTION] = Field(None, description="checkpoints (default: MODEL.training)")
    tensorboard: Annotated[Path | None, EXECUTION] = Field(None, description="log for TensorBoard there")


@with_settings(TrainCommandSettings)
def train_command(
    target: Annotated[str, typer.Argument(help="haematoma, leukoaraiosis, tract, brain, …; expansion")],
    cohort: Annotated[Path, typer.Argument(help="cohort folder with splits train and validation")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder of the Model")],
    settings: TrainCommandSettings,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="hide progress messages")] = False,
) -> int:
    """Train on a cohort; re-run to resume. Several processes: `torchrun --no-python ichnos train …`."""
    from ichnos.formats.bids import read_cohort

    patients = read_cohort(cohort, pipelines=settings.pipelines)
    home, quiet = settings.work or out.with_name(f"{out.name}.training"), quiet or as_json
    with _team() as team, sole_writer(home) if team.leads else nullcontext():
        if team.leads:
            remove_partials(out.parent.glob(f"{out.name}.????????.partial"))
        resources = _resources(settings, team)
        if target == "expansion":
            model = _expansion(patients, out, settings, home, resources)
            return _show(model, home, as_json=as_json)
        train = _by_nnunet if _engine(target, settings) == "nnunet" else _by_ichnos
        model = train(target, patients, out, settings, home, resources, quiet=quiet or not team.leads)
        return _show(model, home, as_json=as_json) if team.leads else 0


def _resources(settings: TrainCommandSettings, team: Team) -> Resources:
    from ichnos.learning.loop.resources import Resources
    from ichnos.simulation.heads.from_labels import head_files

    return Resources(
        settings.device,
        settings.workers,
        team=team,
        pipelines=settings.pipelines,
        anatomies=head_files(settings.anatomy) if settings.anatomy else (),
        cache=cache_folder(),
        command=_command(),
        warn=_warn if team.leads else lambda sentence: None,
    )


def _expansion(
    patients: Cohort, out: Path, settings: TrainCommandSettings, home: Path, resources: Resources
) -> Model:
    from ichnos.learning.expansion.chain import train_expansion
    from ichnos.learning.loop.settings import changed

    if resources.team.size > 1:
        raise UsageError("the expansion chain trains in one process; run it without torchrun")
    unused = ("engine", "network", "steps", "spacing", "patch", "simulated_share", "mirror", "seed")
    _refuse_unused(settings, (*unused, "tensorboard"), "the expansion chain", "expansion")
    given = {"reader": settings.start, "recipe": settings.recipe, "folds": settings.folds}
    chosen = changed(settings.expansion, {name: value for name, value in given.items() if value})
    if settings.minutes is not None:
        resources = replace(resources, seconds=60 * settings.minutes)
    return train_expansion(patients, out, chosen, work=home, resources=resources)


def _engine(target: str, settings: TrainCommandSettings) -> str:
    """Return the engine; a recipe decides it."""
    from ichnos.learning.recipes import segmentation_recipe

    if not settings.recipe:
        return settings.engine
    own = segmentation_recipe(target, settings.recipe)
    return "nnunet" if isinstance(own, NnunetSettings) else "ichnos"


def _by_ichnos(
    target: str,
    patients: Cohort,
    out: Path,
    settings: TrainCommandSettings,
    home: Path,
    resources: Resources,
    *,
    quiet: bool,
) -> Model:
    from ichnos.learning.segmentation.budget import settings_within

    if settings.minutes is not None and settings.steps is not None:
        raise UsageError("give --minutes or --steps, not both: either one decides how long to train")
    chosen = _chosen(target, settings)
    with _shown(quiet) as (prepared, follow):
        resources = replace(resources, prepared=prepared)
        if settings.minutes is not None:
            seconds = 60 * settings.minutes
            chosen = settings_within(patients, chosen, work=home, resources=resources, seconds=seconds)
            resources = replace(resources, seconds=seconds)
        with _logged(settings.tensorboard, follow) as report:
            how = replace(resources, report=report)
            return _once_or_folds(patients, out, chosen, settings, home, how)


def _once_or_folds(
    patients: Cohort,
    out: Path,
    chosen: TrainSettings,
    settings: TrainCommandSettings,
    home: Path,
    resources: Resources,
) -> Model:
    from ichnos.learning.segmentation.folds import train_folds
    from ichnos.learning.segmentation.training import train_on_cohort

    if not settings.folds:
        return train_on_cohort(patients, out, chosen, work=home, resources=resources)
    folds, mirrored = settings.folds, settings.mirror
    return train_folds(patients, out, chosen, folds, work=home, resources=resources, mirrored=mirrored)


def _chosen(target: str, settings: TrainCommandSettings) -> TrainSettings:
    """Return the settings of the training that the command asks for."""
    from ichnos.learning.segmentation.fine_tuning import starting_from

    own = settings.model_dump(include=set(TrainSettings.model_fields), exclude_unset=True)
    recipe = _recipe(target, settings, TrainSettings)
    chosen = TrainSettings.model_validate(_merged(recipe, own) | {"targets": target})
    if settings.start:
        parent = starting_from(chosen, settings.start)
        chosen = TrainSettings.model_validate(_merged(parent.model_dump(), own) | {"targets": target})
    names = {"spacing_mm": settings.spacing} | {
        name: getattr(settings, name) for name in ("network", "steps", "patch", "simulated_share", "seed")
    }
    chosen = chosen.changed(**{name: value for name, value in names.items() if value is not None})
    if settings.start and chosen.preprocessing.spacing_mm != parent.preprocessing.spacing_mm:
        had, asked = (" x ".join(f"{mm:g}" for mm in p.preprocessing.spacing_mm) for p in (parent, chosen))
        _warn(f"{settings.start} was trained at voxels of {had} mm, and {asked} mm were asked for")
    return chosen


def _by_nnunet(
    target: str,
    patients: Cohort,
    out: Path,
    settings: TrainCommandSettings,
    home: Path,
    resources: Resources,
    *,
    quiet: bool,
) -> Model:
    from ichnos.learning.nnunet.engine import train_nnunet
    from ichnos.learning.segmentation.folds import train_folds

    if settings.start:
        raise UsageError(
            "nnU-Net plans its own network, so it cannot start from the weights of another: leave out --from"
        )
    if settings.mirror:
        raise UsageError("--mirror reads mirror images with networks of our own loop: leave it out")
    if settings.minutes is not None or settings.steps is not None:
        raise UsageError(
            "nnU-Net counts in epochs: give --set nnunet.epochs=50 --set nnunet.iterations=250 instead of"
            " --minutes or --steps"
        )
    _refuse_unused(settings, ("simulated_share", "tensorboard"), "nnU-Net", "nnunet")
    chosen = _chosen_nnunet(target, settings)
    if not settings.folds:
        return train_nnunet(patients, out, chosen, work=home, resources=resources, quiet=quiet)
    engine = partial(train_nnunet, quiet=quiet)
    return train_folds(patients, out, chosen, settings.folds, work=home, resources=resources, engine=engine)


def _chosen_nnunet(target: str, settings: TrainCommandSettings) -> NnunetSettings:
    """Return nnU-Net's settings that the command asks for."""
    names = {name: getattr(settings, name) for name in ("network", "seed")} | {
        name: ",".join(f"{side:g}" for side in sides)
        for name in ("spacing", "patch")
        if (sides := getattr(settings, name)) is not None
    }
    own = settings.nnunet.model_dump(exclude_unset=True)
    recipe = _recipe(target, settings, NnunetSettings)
    chosen = NnunetSettings.model_validate(_merged(recipe, own) | {"targets": target})
    return chosen.changed(**{name: value for name, value in names.items() if value is not None})


def _refuse_unused(settings: TrainCommandSettings, flags: tuple[str, ...], trainer: str, group: str) -> None:
    """Refuse what a trainer has no use for: a setting that is taken and ignored would mislead."""
    groups = [name for name in TrainSettings.model_fields if name not in ("targets", "start")]
    given = asked_for(settings, flags) + [flag.lstrip("-") for flag in asked_for(settings, groups)]
    if given:
        raise UsageError(
            f"{trainer} has no use for {', '.join(given)}: leave it out. Its settings are in `{group}` in"
            " `ichnos config train`"
        )


def _recipe(
    target: str, settings: TrainCommandSettings, kind: type[TrainSettings] | type[NnunetSettings]
) -> dict[str, Any]:
    """Return the recipe that the command names as plain data; empty where it names none."""
    from ichnos.learning.recipes import segmentation_recipe

    own = segmentation_recipe(target, settings.recipe) if settings.recipe else None
    return own.model_dump() if isinstance(own, kind) else {}


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay settings over others, group by group."""
    merged = dict(below)
    for name, value in above.items():
        inside = below.get(name)
        both = isinstance(value, dict) and isinstance(inside, dict)
        merged[name] = _merged(inside, value) if both and isinstance(inside, dict) else value
    return merged


def _warn(sentence: str) -> None:
    typer.echo(f"note: {sentence}", err=True)


def _command() -> str:
    return " ".join(
        ["ichnos", *(os.path.basename(part) if os.path.isabs(part) else part for part in sys.argv[1:])]
    )


@contextmanager
def _team() -> Iterator[Team]:
    """Join the processes that torchrun has started, if any."""
    from ichnos.learning.loop.team import ALONE, Team

    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        yield Team(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


@contextmanager
def _shown(quiet: bool) -> Iterator[tuple[Callable[[str], None], Callable[[Progress], None]]]:
    """Show the patient being prepared, then the step, its loss, each target's Dice and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    text, detail = TextColumn("{task.description}"), TextColumn("{task.fields[detail]}")
    console = Console(stderr=True)
    columns = (text, BarColumn(bar_width=20), MofNCompleteColumn(), detail)
    with Bar(*columns, console=console, disable=quiet) as bar:
        line = bar.add_task("preparing", total=None, detail="")

        def prepared(patient: str) -> None:
            bar.update(line, advance=1, detail=f"sub-{patient}")

        def follow(progress: Progress) -> None:
            measures = "  ".join(f"{name} {value:.2f}" for name, value in progress.measures.items())
            left = f"{progress.seconds_left / 60:.0f} min left"
            bar.update(line, description="training", completed=progress.step, total=progress.steps)
            bar.update(line, detail=f"loss {progress.loss:.3f}  {measures}  {left}")
            if progress.score is not None:
                bar.console.print(f"step {progress.step}: validation Dice {progress.score:.3f}", markup=False)

        yield prepared, follow


@contextmanager
def _logged(folder: Path | None, follow: Callable[[Progress], None]) -> Iterator[Callable[[Progress], None]]:
    """Log into a folder for TensorBoard too, if one is given."""
    if folder is None:
        yield follow
        return
    from ichnos.errors import require

    require("tensorboard", extra="logging", purpose="logging for TensorBoard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:

        def report(progress: Progress) -> None:
            writer.add_scalar("loss", progress.loss, progress.step)
            for name, value in progress.measures.items():
                writer.add_scalar(f"measure/{name}", value, progress.step)
            if progress.score is not None:
                writer.add_scalar("validation", progress.score, progress.step)
            follow(progress)

        yield report


def _show(model: Model, home: Path, *, as_json: bool) -> int:
    expansion = model.folder / "expansion"
    if (expansion / "model.json").is_file() and not (home / "worst").is_dir():
        return _show_expansion(model, expansion, home, as_json=as_json)
    provenance = model.manifest.provenance
    if as_json:
        result = {
            "model": str(model.folder),
            "steps": provenance.steps,
            "validation": provenance.validation,
            "work": str(home),
        }
        typer.echo(json.dumps(result, indent=2))
        return 0
    values = ", ".join(f"{name} {value:.3f}" for name, value in provenance.validation.items())
    typer.echo(
        f"{model.folder}: best at step {provenance.steps}; validation: {values or 'no patient has a target'}"
    )
    typer.echo(f"worst cases: {home / 'worst'}")
    return 0


def _show_expansion(model: Model, folder: Path, home: Path, *, as_json: bool) -> int:
    from ichnos.models import load_model

    validation = load_model(folder).manifest.provenance.validation
    if as_json:
        result = {"model": str(model.folder), "validation": validation, "work": str(home)}
        typer.echo(json.dumps(result, indent=2))
        return 0
    values = ", ".join(f"{name} {value:.3f}" for name, value in validation.items())
    typer.echo(f"{model.folder}: reads scans with P(expansion); {values}")
    return 0
