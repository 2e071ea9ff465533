"""`python -m ichnos.cli.gpu_weights`: the default weights from scratch on one GPU, in two calls of minutes.

`prepare` packs the label maps, so that a machine without them can train; `train` makes the weights there;
`pace` measures a machine; `optimisers` compares three of them at equal time.
"""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ichnos.learning.virtual.accelerated.production import Production
    from ichnos.learning.virtual.accelerated.weights import Run

_FINISH_S = 50.0  # to score the refinement and write it
_TRIED = 4  # algorithms of a convolution: all of them took 8 to 15 s for each new shape
app = typer.Typer(add_completion=False, help="default weights on one GPU, from prepared heads")
Heads = Annotated[Path, typer.Argument(help="folder of prepared heads (see prepare)")]
Out = Annotated[Path, typer.Option("-o", "--out", help="folder of the model")]
Device = Annotated[str, typer.Option(help="cuda or cpu")]
Workers = Annotated[int, typer.Option(help="processes that simulate patients")]
Toy = Annotated[bool, typer.Option("--toy", help="smallest networks and few patients, to try it out")]


@app.command("prepare")
def prepare_heads(
    heads: Annotated[Path, typer.Argument(help="folder of label maps (*.nii.gz)")],
    folder: Annotated[Path, typer.Argument(help="where the prepared heads go")],
    cache: Annotated[Path | None, typer.Option(help="folder of heads made before")] = None,
) -> None:
    """Pack label maps and the MNI head for a machine that has neither."""
    from ichnos.learning.virtual.accelerated.prepared_heads import write_prepared
    from ichnos.simulation.heads.from_labels import labelled_head
    from ichnos.simulation.heads.from_mni import mni_head

    for file in sorted(heads.glob("*.nii.gz")):
        typer.echo(write_prepared(labelled_head(file, cache), folder))
    typer.echo(write_prepared(mni_head(cache), folder))


@app.command("train")
def train_weights(
    heads: Heads,
    out: Out,
    first_minutes: Annotated[float, typer.Option(help="for the first network (0: the one in OUT)")] = 5.0,
    second_minutes: Annotated[float, typer.Option(help="for the refinement (0: none)")] = 3.0,
    until: Annotated[float, typer.Option(help="share of the schedule at which this call ends")] = 1.0,
    width: Annotated[int, typer.Option(help="features of the first stage: 16, 24 or 32")] = 16,
    device: Device = "cuda",
    workers: Workers = 15,
    channels_last: Annotated[bool, typer.Option(help="order of axes in memory")] = False,
    whole_minutes: Annotated[float, typer.Option(help="by which all must be written (0: no end)")] = 0.0,
    toy: Toy = False,
) -> None:
    """Train the first network and its refinement."""
    began = time.monotonic()
    run = _run(heads, out, device, workers, width, channels_last, toy)
    run = replace(run, first_minutes=first_minutes, second_minutes=second_minutes, first_until=until)
    ends = began + whole_minutes * 60 - _FINISH_S if whole_minutes > 0 else float("inf")
    _train_both(run, ends)


def _train_both(run: Run, ends: float) -> None:
    """Train the networks that have minutes; the refinement ends in time, on the monotonic clock."""
    from ichnos.learning.virtual.accelerated.weights import train_first_part, train_second_part
    from ichnos.models import load_model

    production = _production(run)
    try:
        if run.first_minutes > 0:
            model, network = train_first_part(run, production, _echo)
        else:
            model = load_model(run.out)
            network = model.network(device=run.device)
        if run.second_minutes > 0:
            minutes = min(run.second_minutes, (ends - time.monotonic()) / 60)
            train_second_part(replace(run, second_minutes=minutes), production, model, network, _echo)
    finally:
        production.close()


@app.command()
def pace(
    heads: Heads,
    seconds: Annotated[float, typer.Option(help="how long to measure")] = 60.0,
    compiled: Annotated[bool, typer.Option(help="time the compiled network as well")] = False,
    device: Device = "cuda",
    workers: Workers = 15,
    toy: Toy = False,
) -> None:
    """Measure patients a second and milliseconds a step."""
    from ichnos.learning.virtual.accelerated.pace import measure_pace, time_compiled, time_looks

    run = _run(heads, Path(), device, workers, 16, False, toy)
    production = _production(run)
    try:
        feed = measure_pace(production, run.first, device, seconds, _echo)
        time_looks(feed, device, _echo)
        if compiled:
            time_compiled(feed, device, _echo)
    finally:
        production.close()


@app.command()
def optimisers(
    heads: Heads,
    seconds: Annotated[float, typer.Option(help="of training, for each optimiser and seed")] = 12.0,
    patients: Annotated[int, typer.Option(help="to be simulated first")] = 64,
    seeds: Annotated[int, typer.Option(help="how many")] = 3,
    device: Device = "cuda",
    workers: Workers = 15,
    toy: Toy = False,
) -> None:
    """Compare AdamW, SGD and Muon at equal time."""
    from ichnos.learning.virtual.accelerated.first_network import Feed
    from ichnos.learning.virtual.accelerated.pace import compare_optimisers

    run = _run(heads, Path(), device, workers, 16, False, toy)
    production = _production(run)
    try:
        feed = Feed(production, run.first, device)
        while feed.patients < patients or len(feed.held_out) < 2 * run.first.held_out_patients:
            feed.pump(most=4, wait_s=0.5)
        _echo("| optimiser | seed | steps | mean Dice | per target |\n| --- | --- | --- | --- | --- |")
        compare_optimisers(feed, run.first, device, seconds, tuple(range(seeds)), _echo)
    finally:
        production.close()


def _run(
    heads: Path, out: Path, device: str, workers: int, width: int, channels_last: bool, toy: bool
) -> Run:
    from ichnos.learning.virtual.accelerated.weights import Run, toy_run

    run = Run(
        heads=heads,
        out=out,
        first_minutes=0,
        second_minutes=0,
        workers=workers,
        device=device,
        command="ichnos.cli.gpu_weights " + shlex.join(sys.argv[1:]),
    )
    if toy:
        return toy_run(run)
    features = {16: (16, 48, 96, 128, 160), 24: (24, 48, 96, 128, 160), 32: (32, 64, 96, 128, 160)}[width]
    return replace(run, first=replace(run.first, features=features, channels_last=channels_last))


def _production(run: Run) -> Production:
    """Start the workers; what all of them need is loaded once, before they fork."""
    import torch

    from ichnos.learning.virtual.accelerated.prepared_heads import read_all_prepared, split_heads
    from ichnos.learning.virtual.accelerated.production import Production, warmed_up

    torch.set_num_threads(1)
    heads, held_out = split_heads(read_all_prepared(run.heads), run.held_out_heads)
    warmed_up(heads[:1])
    _echo(f"{len(heads)} heads to train on, {len(held_out)} held out; {run.workers} workers")
    production = Production(heads, held_out, run.workers, run.slots, spacings_mm=run.spacings_mm)
    if run.device != "cpu":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.benchmark_limit = _TRIED
        torch.backends.cuda.matmul.allow_tf32 = True
    return production


def _echo(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()


if __name__ == "__main__":
    app()
