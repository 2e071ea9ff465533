"""`ichnos train TARGET COHORT -o MODEL`: train a network to read a target from CT."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichnos.errors import UsageError

if TYPE_CHECKING:
    from ichnos.cohort import Cohort
    from ichnos.learning.loop.resources import Resources
    from ichnos.learning.loop.team import Team
    from ichnos.learning.loop.training import Progress
    from ichnos.learning.segmentation.settings import TrainSettings
    from ichnos.models import Model, TargetSpec


def train_command(
    target: Annotated[
        str,
        typer.Argument(help="haematoma, leukoaraiosis, tract, brain, ventricles, …"),
    ],
    cohort: Annotated[Path, typer.Argument(help="cohort folder with splits train and validation")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder of the Model")],
    engine: Annotated[str, typer.Option(help="ichnos or nnunet")] = "ichnos",
    network: Annotated[str, typer.Option(help="unet, umamba_bot, umamba_enc, unetr [unet]")] = "",
    begin: Annotated[
        str,
        typer.Option("--from", help="fine-tune from this model folder, or `default`"),
    ] = "",
    minutes: Annotated[float | None, typer.Option(help="train as many steps as fit into this time")] = None,
    steps: Annotated[int | None, typer.Option(help="optimiser steps [2000]")] = None,
    spacing: Annotated[str, typer.Option(help="voxel size of the network, x,y,z in mm")] = "2,2,2",
    patch: Annotated[str, typer.Option(help="voxels of a patch, x,y,z; z of 1: slices")] = "64,64,64",
    simulated_share: Annotated[
        float, typer.Option(help="fraction of batches simulated during training")
    ] = 0.0,
    anatomy: Annotated[Path | None, typer.Option(help="folder of label maps for simulated patients")] = None,
    pipelines: Annotated[
        str, typer.Option(help="folders under derivatives/ with targets")
    ] = "manual,transfer,truth",
    more: Annotated[
        list[str] | None, typer.Option("--set", help="any other setting: batch=4, patience=5")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps")] = "cpu",
    workers: Annotated[int, typer.Option(help="threads that prefetch batches")] = 0,
    seed: Annotated[int, typer.Option(help="same seed, same numbers")] = 0,
    work: Annotated[
        Path | None,
        typer.Option(help="folder for checkpoints [MODEL.training]"),
    ] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="log for TensorBoard into this folder")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="hide progress messages")] = False,
) -> int:
    """Train on a cohort; re-run to resume. Several processes: `torchrun --no-python ichnos train …`."""
    from ichnos.errors import require
    from ichnos.formats.bids import read_cohort

    for module, extra in (("torch", "learning"), ("safetensors", "learning"), ("matplotlib", "evidence")):
        require(module, extra=extra, purpose="ichnos train")
    from ichnos.learning.loop.resources import Resources
    from ichnos.learning.segmentation.target_files import target_specs

    if minutes is not None and steps is not None:
        raise UsageError("give --minutes or --steps, not both: either one decides how long to train")
    patients, specs = read_cohort(cohort, pipelines=_list(pipelines)), target_specs(target)
    home, quiet = work or out.with_name(f"{out.name}.training"), quiet or as_json
    resources = Resources(device, workers, pipelines=_list(pipelines), cache=_cache(), command=_command())
    if engine == "nnunet":
        _check_nnunet_options(begin, minutes, steps)
        model = _by_nnunet(patients, out, specs, network, seed, more, home, resources, quiet=quiet)
        return _show(model, home, as_json=as_json)
    if engine != "ichnos":
        raise UsageError(f"there is no engine {engine!r}; give ichnos or nnunet")
    settings = _settings(target, network, spacing, patch, steps, simulated_share, seed, begin, more)
    with _team() as team:
        heads = tuple(sorted(anatomy.glob("*.nii.gz"))) if anatomy else ()
        resources = replace(resources, team=team, anatomies=heads)
        quiet = quiet or not team.leads
        model = _trained(patients, out, settings, home, resources, minutes, tensorboard, quiet=quiet)
        return _show(model, home, as_json=as_json) if team.leads else 0


def _check_nnunet_options(begin: str, minutes: float | None, steps: int | None) -> None:
    if begin:
        raise UsageError(
            "nnU-Net plans its own network, so it cannot start from the weights of another: leave out --from"
        )
    if minutes is not None or steps is not None:
        raise UsageError(
            "nnU-Net counts in epochs: give --set epochs=50 --set iterations=250 instead of --minutes or"
            " --steps"
        )


def _settings(
    target: str,
    network: str,
    spacing: str,
    patch: str,
    steps: int | None,
    simulated_share: float,
    seed: int,
    begin: str,
    more: list[str] | None,
) -> TrainSettings:
    """Return the settings that the options ask for."""
    from ichnos.learning.segmentation.settings import TrainSettings

    settings = TrainSettings(targets=target).changed(  # type: ignore[arg-type]  # a validator reads the names
        network=network or "unet",
        spacing_mm=_three(spacing, float, "--spacing"),
        patch=_three(patch, int, "--patch"),
        steps=steps or 2000,
        simulated_share=simulated_share,
        seed=seed,
    )
    return (settings.starting_from(begin) if begin else settings).changed(**_pairs(more))


def _pairs(more: list[str] | None) -> dict[str, str]:
    """Return what `--set NAME=VALUE` options give."""
    pairs = [given.partition("=") for given in more or []]
    return {name.strip(): value.strip() for name, _, value in pairs}


def _by_nnunet(
    patients: Cohort,
    out: Path,
    specs: tuple[TargetSpec, ...],
    network: str,
    seed: int,
    more: list[str] | None,
    home: Path,
    resources: Resources,
    *,
    quiet: bool,
) -> Model:
    from ichnos.learning.nnunet.engine import train_nnunet
    from ichnos.learning.nnunet.settings import NnunetSettings

    settings = NnunetSettings(targets=specs).changed(network=network or "plain", seed=seed, **_pairs(more))
    return train_nnunet(patients, out, settings, work=home, resources=resources, quiet=quiet)


def _trained(
    patients: Cohort,
    out: Path,
    settings: TrainSettings,
    home: Path,
    resources: Resources,
    minutes: float | None,
    tensorboard: Path | None,
    *,
    quiet: bool,
) -> Model:
    from ichnos.learning.segmentation.budget import settings_within
    from ichnos.learning.segmentation.training import train_on_cohort

    with _shown(quiet) as (prepared, follow):
        resources = replace(resources, prepared=prepared)
        if minutes is not None:
            seconds = 60 * minutes
            settings = settings_within(patients, settings, work=home, resources=resources, seconds=seconds)
            resources = replace(resources, seconds=seconds)
        with _logged(tensorboard, follow) as report:
            resources = replace(resources, report=report)
            return train_on_cohort(patients, out, settings, work=home, resources=resources)


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _three(text: str, kind: type, option: str) -> tuple[float, ...]:
    try:
        values = tuple(kind(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3 or min(values) <= 0:
        raise UsageError(
            f"{option} {text!r} is not understood; give three positive numbers, as {option} 2,2,2"
        )
    return values


def _command() -> str:
    return " ".join(
        ["ichnos", *(os.path.basename(part) if os.path.isabs(part) else part for part in sys.argv[1:])]
    )


def _cache() -> Path:
    """Return the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ichnos"


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

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    console = Console(stderr=True)
    with Bar(*columns, console=console, disable=quiet) as bar:
        line = bar.add_task("preparing", total=None, detail="")

        def prepared(patient: str) -> None:
            bar.update(line, advance=1, detail=f"sub-{patient}")

        def follow(progress: Progress) -> None:
            dice = "  ".join(f"{name} {value:.2f}" for name, value in progress.measures.items())
            left = f"{progress.seconds_left / 60:.0f} min left"
            detail = f"loss {progress.loss:.3f}  {dice}  {left}"
            bar.update(
                line, completed=progress.step, total=progress.steps, description="training", detail=detail
            )
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
                writer.add_scalar(f"dice/{name}", value, progress.step)
            if progress.score is not None:
                writer.add_scalar("validation", progress.score, progress.step)
            follow(progress)

        yield report


def _show(model: Model, home: Path, *, as_json: bool) -> int:
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
