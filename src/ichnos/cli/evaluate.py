"""`ichnos evaluate READINGS COHORT… -o OUT`: how far readings, or predictions, can be trusted."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichnos.errors import UsageError

if TYPE_CHECKING:
    from ichnos.cohort import Cohort
    from ichnos.evidence.pack.pack import Pack
    from ichnos.evidence.pack.plan import EvidencePlan

READINGS = "readings"  # folder inside OUT for what `--model` reads first


def evaluate(
    folders: Annotated[list[Path], typer.Argument(help="folder of readings, then the cohort or cohorts")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for the evidence pack")],
    model: Annotated[
        Path | None, typer.Option(help="read the cohorts first with this model, or `default`")
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="evaluation plan, JSON or TOML")] = None,
    expansion: Annotated[str | None, typer.Option(help="33%-or-6ml, 6ml, 3ml, 12.5ml or revised")] = None,
    split: Annotated[list[str] | None, typer.Option(help="split to evaluate (repeatable)")] = None,
    training: Annotated[Path | None, typer.Option(help="list of training images, against leakage")] = None,
    against: Annotated[Path | None, typer.Option(help="readings of a second model, same patients")] = None,
    workers: Annotated[int, typer.Option(help="processes")] = 1,
    device: Annotated[str, typer.Option(help="with --model: cpu, cuda, …")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="print evidence.json")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="hide progress messages")] = False,
) -> int:
    """Compare readings with ground truth: tables, figures, methods, checklists, one page.

    Example: ichnos evaluate readings/ cohort/ -o evidence/
    """
    from ichnos.errors import require
    from ichnos.formats.bids import read_cohort

    for module in ("pandas", "statsmodels", "sklearn", "matplotlib", "jinja2"):
        require(module, extra="evidence", purpose="ichnos evaluate")
    from ichnos.evidence.pack import pack as packs
    from ichnos.evidence.pack.plan import load_plan

    given, cohorts = ([], folders) if model is not None else (folders[:1], folders[1:])
    if not cohorts:
        raise UsageError(
            "no cohort was given; give the folder of readings and then the cohort, or a cohort and --model"
        )
    for folder in given:
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder; give the folder that `ichnos read` wrote")
    chosen = load_plan(plan, expansion=expansion, splits=tuple(split or ()))
    held = [read_cohort(folder) for folder in cohorts]
    if model is not None:
        packs.claim_folder(out)
        _read(held, chosen, out / READINGS, model, device=device, workers=workers, quiet=quiet or json)
    pack = packs.write_evidence(
        given[0] if given else out / READINGS,
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
        _print_pack(pack)
    return 2 if pack.failures else 0


def _read(
    cohorts: list[Cohort],
    plan: EvidencePlan,
    out: Path,
    model: Path,
    *,
    device: str,
    workers: int,
    quiet: bool,
) -> None:
    """Read the baseline CT of every patient of the evaluated splits, and of the validation split."""
    from ichnos.api import Engine
    from ichnos.cli.read import read_one
    from ichnos.cli.scans import find_scans
    from ichnos.reading import READERS
    from ichnos.runs import apply

    splits = {*plan.splits, "validation"}
    wanted = {
        str(patient.exams["ct"])
        for cohort in cohorts
        for patient in cohort
        if patient.split in splits and "ct" in patient.exams
    }
    scans = find_scans([c.root for c in cohorts if c.root], progress=not quiet)
    items = [item for item in scans if str(item.place) in wanted]
    engine = Engine(model="" if str(model) == "default" else str(model.resolve()), device=device)
    settings = {"model": engine.open_model().all_weights(), "device": device, "backend": engine.backend}
    task = partial(read_one, engine=engine, only=tuple(READERS), pdf=False)
    apply(task, items, out=out, settings=settings, name="read", workers=workers, progress=not quiet)


def _print_pack(pack: Pack) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True)
    console.print(f"{pack.cases} patients evaluated: {pack.page}", markup=False)
    for flag in pack.flags:
        console.print(f"{flag.level}: {flag.text}", markup=False)
