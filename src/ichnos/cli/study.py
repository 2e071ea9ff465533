"""`ichnos study NAME`: a whole paper on a cohort, its table beside ours."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichnos.cli.terminal.threads import single_thread
from ichnos.errors import UsageError

if TYPE_CHECKING:
    from ichnos.cohort import Cohort
    from ichnos.studies import Study
    from ichnos.studies.page import Effort

_FEW = 0.1  # scale up to which a study on processors is kept short


def study_command(
    name: Annotated[str, typer.Argument(help="murray2024, ryu2025, abramova2024 or yu2025")],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", help="folder for the page, the models and what a later call takes up again"
        ),
    ],
    cohort: Annotated[Path | None, typer.Option(help="folder of your own cohort")] = None,
    simulate: Annotated[
        float | None,
        typer.Option(help="make a virtual cohort instead, of this share of the paper's patients"),
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="every stage at its smallest, on a few virtual patients")
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option(
            help=(
                "of training, for each network; 10, or 3 to 10 where few patients are simulated and there is"
                " no GPU"
            )
        ),
    ] = None,
    with_nnunet: Annotated[
        bool, typer.Option("--with-nnunet", help="train nnU-Net itself too, as one more arm (extra nnunet)")
    ] = False,
    voxel_mm: Annotated[
        float, typer.Option(help="finest grid of simulated anatomy; 2 or 3 for quick looks")
    ] = 1.0,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps")] = "cpu",
    workers: Annotated[int, typer.Option(help="processes for simulating and transferring")] = 1,
    seed: Annotated[int, typer.Option(help="of the virtual cohort and the trainings")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print studies.json instead of the table")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="say nothing meanwhile")] = False,
) -> int:
    """Run a paper's design on a cohort and write its page."""
    from ichnos.errors import require
    from ichnos.studies import study as find
    from ichnos.studies.page import Effort, write_page

    for module, extra in (("torch", "learning"), ("pandas", "evidence"), ("jinja2", "evidence")):
        require(module, extra=extra, purpose="ichnos study")
    if (cohort is not None) + (simulate is not None) + smoke != 1:
        raise UsageError(
            "give one of --cohort DIR, --simulate SCALE and --smoke: whose patients the study is about"
        )
    if with_nnunet:
        require("nnunetv2", extra="nnunet", purpose="ichnos study --with-nnunet")
    small = simulate is not None and simulate <= _FEW and device == "cpu"
    chosen = find(name)
    spent = _Spent(out / "minutes.json")
    effort = Effort(
        scale=simulate,
        device=device,
        minutes=minutes if minutes is not None else (chosen.SMALL_MINUTES if small else 10.0),
        smoke=smoke,
        workers=workers,
        seed=seed,
        cache=Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ichnos",
        nnunet=with_nnunet,
        say=_teller(spent, silent=quiet or as_json),
        spent=spent,
    )
    page = chosen.run(_patients(chosen, name, cohort, out, effort, voxel_mm), out, effort)
    html = write_page(page, out)
    if as_json:
        typer.echo((out / "studies.json").read_text(encoding="utf-8"), nl=False)
        return 0
    for table in page.tables:
        typer.echo(table.markdown())
    typer.echo(f"page: {html}")
    return 0


class _Spent:
    """Minutes of all calls of one study; noted at each stage, so that a call that is killed counts up to
    its last one.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.began = file, time.monotonic()
        self.before = float(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else 0.0

    def __call__(self) -> float:
        from ichnos.files import atomic_file

        total = self.before + (time.monotonic() - self.began) / 60
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.file) as temporary:
            temporary.write_text(f"{total:.3f}\n", encoding="utf-8")
        return total


def _teller(spent: Callable[[], float], *, silent: bool) -> Callable[[str], None]:
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True, quiet=silent)
    return lambda sentence: console.print(f"{spent():5.1f} min  {sentence}", markup=False, style="dim")


def _patients(
    chosen: Study, name: str, given: Path | None, out: Path, effort: Effort, voxel_mm: float
) -> Cohort:
    """Return the user's cohort, or make a virtual one in OUT/cohort; an unfinished one is completed."""
    from ichnos.formats.bids import read_cohort

    if given is not None:
        return read_cohort(given)
    from ichnos.simulation.cohort.design import RenderSettings, preset
    from ichnos.simulation.cohort.write import check_made, simulate_cohort

    design = chosen.SMOKE if effort.smoke else preset(name, scale=effort.scale or 1.0, fewest=chosen.FEWEST)
    render = (
        RenderSettings(voxel_mm=3.0, oracle_samples=4) if effort.smoke else RenderSettings(voxel_mm=voxel_mm)
    )
    patients = sum(group.patients for group in design.groups)
    effort.say(f"making {patients} virtual patients; what an earlier call has made is kept")
    folder, title = out / "cohort", f"virtual patients after {name}"
    made = simulate_cohort(
        design,
        folder,
        seed=effort.seed,
        render=render,
        name=title,
        workers=effort.workers,
        progress=False,
        cache=effort.cache,
        worker_context=single_thread,
    )
    check_made(made)
    return read_cohort(folder)
