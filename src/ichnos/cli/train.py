"""`ichnos train TARGET COHORT -o MODEL`: a network that reads a target from CT, by our own loop or by
nnU-Net.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ichnos.errors import UsageError

if TYPE_CHECKING:
    from ichnos.cohort import Cohort
    from ichnos.learning.loop.team import Team
    from ichnos.learning.nnunet.engine import NnunetPlan
    from ichnos.learning.segmentation.loop import Progress
    from ichnos.learning.segmentation.training import Means, Plan
    from ichnos.models import Model, TargetSpec

P = TypeVar("P", "Plan", "NnunetPlan")


def train_command(
    target: Annotated[
        str,
        typer.Argument(
            help="comma list of haematoma (ICH, IVH, PHE), leukoaraiosis, tract, brain, ventricles"
        ),
    ],
    cohort: Annotated[
        Path, typer.Argument(help="folder of the cohort; its column split says who trains and who validates")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder of the Model")],
    engine: Annotated[str, typer.Option(help="ichnos or nnunet")] = "ichnos",
    network: Annotated[
        str, typer.Option(help="unet, umamba_bot, umamba_enc; nnunet also plain, resenc_m, resenc_l")
    ] = "",
    begin: Annotated[
        str,
        typer.Option(
            "--from", help="begin with a Model's network, weights, spacing and patch: its folder, or default"
        ),
    ] = "",
    minutes: Annotated[float | None, typer.Option(help="take as many steps as fit into this time")] = None,
    steps: Annotated[
        int | None, typer.Option(help="take this many steps (2000 unless --minutes is given)")
    ] = None,
    spacing: Annotated[str, typer.Option(help="voxel size that the network sees: x,y,z in mm")] = "2,2,2",
    patch: Annotated[
        str, typer.Option(help="voxels of a patch: x,y,z; z of 1 asks for a network of slices")
    ] = "64,64,64",
    simulated_share: Annotated[
        float, typer.Option(help="share of batches from patients simulated meanwhile")
    ] = 0.0,
    anatomy: Annotated[Path | None, typer.Option(help="folder of label maps for simulated patients")] = None,
    pipelines: Annotated[
        str, typer.Option(help="where under derivatives/ targets are looked for")
    ] = "manual,transfer,truth",
    more: Annotated[
        list[str] | None, typer.Option("--set", help="other fields of the plan: batch=4, patience=5")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps")] = "cpu",
    workers: Annotated[int, typer.Option(help="threads that make batches ahead")] = 0,
    seed: Annotated[int, typer.Option(help="same seed, same numbers")] = 0,
    work: Annotated[
        Path | None,
        typer.Option(help="prepared patients, checkpoints, pictures (beside the Model unless given)"),
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(help="also log for TensorBoard into this folder")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> int:
    """Train on a cohort; run the same command again to go on. `torchrun --no-python ichnos train …` trains
    with several processes.
    """
    from ichnos.errors import require
    from ichnos.formats.bids import read_cohort

    for module, extra in (("torch", "learning"), ("safetensors", "learning"), ("matplotlib", "evidence")):
        require(module, extra=extra, purpose="ichnos train")
    from ichnos.learning.segmentation.target_files import target_specs
    from ichnos.learning.segmentation.training import Means, Plan

    if minutes is not None and steps is not None:
        raise UsageError("give --minutes or --steps, not both: either one decides how long to train")
    people, specs = read_cohort(cohort, pipelines=_list(pipelines)), target_specs(target)
    home, quiet = work or out.with_name(f"{out.name}.training"), quiet or as_json
    means = Means(device, workers, pipelines=_list(pipelines), cache=_cache(), command=_command())
    if engine == "nnunet":
        if begin:
            raise UsageError(
                "nnU-Net plans its own network, so it cannot begin with the weights of another: leave out"
                " --from"
            )
        if minutes is not None or steps is not None:
            raise UsageError(
                "nnU-Net counts in epochs: give --set epochs=50 --set iterations=250 instead of --minutes or"
                " --steps"
            )
        return _told(
            _by_nnunet(people, out, specs, network, seed, more, home, means, quiet=quiet),
            home,
            as_json=as_json,
        )
    if engine != "ichnos":
        raise UsageError(f"there is no engine {engine!r}; give ichnos or nnunet")
    sides = {"spacing_mm": _three(spacing, float, "--spacing"), "patch": _three(patch, int, "--patch")}
    plan = Plan(
        specs,
        network=network or "unet",
        steps=steps or 2000,
        simulated_share=simulated_share,
        seed=seed,
        **sides,  # type: ignore[arg-type]
    )
    plan = _changed(plan.begun_from(begin) if begin else plan, more)
    with _team() as team:
        heads = tuple(sorted(anatomy.glob("*.nii.gz"))) if anatomy else ()
        means = replace(means, team=team, anatomies=heads)
        model = _trained(people, out, plan, home, means, minutes, tensorboard, quiet=quiet or not team.leads)
        return _told(model, home, as_json=as_json) if team.leads else 0


def _by_nnunet(
    people: Cohort,
    out: Path,
    specs: tuple[TargetSpec, ...],
    network: str,
    seed: int,
    more: list[str] | None,
    home: Path,
    means: Means,
    *,
    quiet: bool,
) -> Model:
    from ichnos.learning.nnunet.engine import NnunetPlan, train_nnunet

    plan = _changed(NnunetPlan(specs, network=network or "plain", seed=seed), more)
    return train_nnunet(people, out, plan, work=home, means=means, quiet=quiet)


def _changed(plan: P, more: list[str] | None) -> P:
    """Return a plan with fields set as NAME=VALUE says; a number or a word, of the type that the field
    has.
    """
    changes: dict[str, Any] = {}
    plain = {
        f.name: getattr(plan, f.name)
        for f in fields(plan)
        if isinstance(getattr(plan, f.name), (bool, int, float, str))
    }
    for given in more or []:
        name, _, text = given.partition("=")
        if name not in plain:
            raise UsageError(f"--set {given}: there is no such field; there are {', '.join(plain)}")
        kind = type(plain[name])
        try:
            changes[name] = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise UsageError(f"--set {given}: {name} is a {kind.__name__}, as {name}={plain[name]}") from None
    return replace(plan, **changes)


def _trained(
    people: Cohort,
    out: Path,
    plan: Plan,
    home: Path,
    means: Means,
    minutes: float | None,
    tensorboard: Path | None,
    *,
    quiet: bool,
) -> Model:
    from ichnos.learning.segmentation.training import steps_within, train_on_cohort

    with _shown(quiet) as (prepared, follow):
        means = replace(means, prepared=prepared)
        if minutes is not None:
            plan = steps_within(people, plan, work=home, means=means, seconds=60 * minutes)
            means = replace(means, seconds=60 * minutes)
        with _logged(tensorboard, follow) as report:
            return train_on_cohort(people, out, plan, work=home, means=replace(means, report=report))


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
    """Return the user's own folder for what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ichnos"


@contextmanager
def _team() -> Iterator[Team]:
    """Join the processes that torchrun has started, if it has."""
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
    """Show who is prepared, then the step with its loss, the Dice of each target and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
    )
    console = Console(stderr=True)
    with Bar(*columns, console=console, disable=quiet) as bar:
        line = bar.add_task("preparing", total=None, told="")

        def prepared(patient: str) -> None:
            bar.update(line, advance=1, told=f"sub-{patient}")

        def follow(progress: Progress) -> None:
            dice = "  ".join(f"{name} {value:.2f}" for name, value in progress.dice.items())
            left = f"{progress.seconds_left / 60:.0f} min left"
            told = f"loss {progress.loss:.3f}  {dice}  {left}"
            bar.update(line, description="training", completed=progress.step, total=progress.steps, told=told)
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
            for name, value in progress.dice.items():
                writer.add_scalar(f"dice/{name}", value, progress.step)
            if progress.score is not None:
                writer.add_scalar("validation", progress.score, progress.step)
            follow(progress)

        yield report


def _told(model: Model, home: Path, *, as_json: bool) -> int:
    provenance = model.manifest.provenance
    if as_json:
        told = {
            "model": str(model.folder),
            "steps": provenance.steps,
            "validation": provenance.validation,
            "work": str(home),
        }
        typer.echo(json.dumps(told, indent=2))
        return 0
    found = ", ".join(f"{name} {value:.3f}" for name, value in provenance.validation.items())
    typer.echo(
        f"{model.folder}: best at step {provenance.steps}; validation: {found or 'no patient has a target'}"
    )
    typer.echo(f"worst cases: {home / 'worst'}")
    return 0
