"""ichnos evaluate: the evidence pack of a folder of predictions on one or more cohorts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ichnos.errors import UsageError


def evaluate_command(
    predictions: Annotated[
        Path, typer.Argument(help="folder with predictions.csv, and the masks that it names")
    ],
    cohorts: Annotated[list[Path], typer.Argument(help="one or more cohorts that hold the truth")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for the evidence pack")],
    plan: Annotated[Path | None, typer.Option(help="evaluation plan, JSON or TOML")] = None,
    expansion: Annotated[
        str | None,
        typer.Option(help="definition of haematoma expansion: 33%-or-6ml, 6ml, 3ml, 12.5ml, revised"),
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="split to evaluate; may be given more than once")
    ] = None,
    training: Annotated[
        Path | None, typer.Option(help="list of training images (CSV), to prove that nothing leaks")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="second folder of predictions, to compare with on the same cases")
    ] = None,
    workers: Annotated[int, typer.Option(help="processes that measure cases")] = 1,
    json: Annotated[bool, typer.Option("--json", help="print evidence.json")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress bar")] = False,
) -> int:
    """Write tables, figures, a methods paragraph, checklists and one page that say how far a model can be
    believed.
    """
    from ichnos.errors import require
    from ichnos.formats.bids import read_cohort

    for module in ("pandas", "statsmodels", "sklearn", "matplotlib", "jinja2"):
        require(module, extra="evidence", purpose="ichnos evaluate")
    from ichnos.evidence.pack import pack as packs
    from ichnos.evidence.pack.plan import load_plan

    if not predictions.is_dir():
        raise UsageError(f"{predictions} is not a folder; give the folder that holds predictions.csv")
    chosen = load_plan(plan, expansion=expansion, splits=tuple(split or ()))
    held = [read_cohort(folder) for folder in cohorts]
    pack = packs.evaluate(
        predictions,
        held,
        out,
        plan=chosen,
        training=training,
        against=against,
        workers=workers,
        progress=not (quiet or json),
    )
    if json:
        sys.stdout.write((pack.out / "evidence.json").read_text(encoding="utf-8"))
    else:
        _tell(pack)
    return 2 if pack.failures else 0


def _tell(pack: object) -> None:
    from rich.console import Console

    from ichnos.evidence.pack.pack import Pack

    assert isinstance(pack, Pack)
    console = Console(soft_wrap=True)
    console.print(f"{pack.cases} patients evaluated: {pack.page}", markup=False)
    for flag in pack.flags:
        console.print(f"{flag.level}: {flag.text}", markup=False)
