"""`ichnos evaluate READINGS COHORT… -o OUT`: how far readings, or predictions, can be trusted."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from pydantic import Field

from ichnos.cli.terminal.settings import EXECUTION, SettingsTree, save_settings, with_settings
from ichnos.errors import UsageError

if TYPE_CHECKING:
    from ichnos.cohort import Cohort
    from ichnos.evidence.pack.pack import Pack
    from ichnos.evidence.pack.plan import EvidencePlan

_READINGS = "readings"  # folder inside OUT for what `--model` reads first


class EvaluateSettings(SettingsTree):
    """What is evaluated, and on whom."""

    model: str = Field("", description="read first with this model folder, or `default`")
    plan: Path | None = Field(None, description="evaluation plan, JSON or TOML")
    expansion: str | None = Field(None, description="33%-or-6ml, 6ml, 3ml, 12.5ml, revised")
    splits: tuple[str, ...] = Field((), description="splits (default: test, external, none)")
    training: Path | None = Field(None, description="list of training images, CSV")
    against: Path | None = Field(None, description="readings of a second model")
    device: str = Field("cpu", description="of --model: cpu, cuda or mps")
    workers: Annotated[int, EXECUTION] = Field(1, ge=1, description="processes on this machine")


@with_settings(EvaluateSettings)
def evaluate_command(
    folders: Annotated[list[Path], typer.Argument(help="folder of readings, then the cohorts")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for the evidence pack")],
    settings: EvaluateSettings,
    as_json: Annotated[bool, typer.Option("--json", help="print evidence.json")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="hide progress messages")] = False,
) -> int:
    """Compare readings with the ground truth of cohorts: tables, figures, methods, checklists, one page."""
    from ichnos.formats.bids import read_cohort

    given, folders = _sides(folders, settings.model)
    cohorts = [read_cohort(folder) for folder in folders]
    pack = _pack(given, cohorts, out, settings, progress=not (quiet or as_json))
    save_settings(settings, out / "settings.yaml", verb="evaluate")
    _show(pack, as_json=as_json)
    return 2 if pack.failures else 0


def _pack(
    given: Path | None, cohorts: list[Cohort], out: Path, settings: EvaluateSettings, *, progress: bool
) -> Pack:
    """Write the evidence of readings; without any, the cohorts' scans are read first."""
    from ichnos.evidence.pack.pack import claim_folder, write_evidence
    from ichnos.evidence.pack.plan import load_plan

    plan = load_plan(settings.plan, expansion=settings.expansion, splits=settings.splits)
    _refuse_unknown(plan, cohorts)
    if given is None:
        _refuse_leaks(cohorts, plan, settings.training)
        claim_folder(out)
        _read(cohorts, plan, out / _READINGS, settings, progress=progress)
    return write_evidence(
        given or out / _READINGS,
        cohorts,
        out,
        plan=plan,
        training=settings.training,
        against=settings.against,
        workers=settings.workers,
        progress=progress,
    )


def _refuse_unknown(plan: EvidencePlan, cohorts: list[Cohort]) -> None:
    """Refuse splits and targets that are in no cohort and nowhere else: one misspelt would be left out."""
    from ichnos.cohort import Split
    from ichnos.targets import label_maps

    people = [patient for cohort in cohorts for patient in cohort]
    splits = {*get_args(Split), *(patient.split for patient in people)}
    targets = {*label_maps(), "expansion", *plan.labels, *(name for p in people for name in p.targets)}
    for kind, asked, known in (("split", plan.splits, splits), ("target", plan.targets, targets)):
        if unknown := [name for name in asked if name not in known]:
            there = ", ".join(sorted(filter(None, known)))
            raise UsageError(f"{kind} {unknown[0]!r} is unknown; there are {there}")


def _refuse_leaks(cohorts: list[Cohort], plan: EvidencePlan, training: Path | None) -> None:
    """Compare the patients with a list of training images before any of them is read."""
    from ichnos.evidence.leakage import Evaluated, leakage_proof, read_training

    if training is not None:
        people = [p for cohort in cohorts for p in cohort if p.split in plan.splits]
        leakage_proof([Evaluated(p.id, p.centre, p.split) for p in people], read_training(training))


def _sides(folders: list[Path], model: str) -> tuple[Path | None, list[Path]]:
    """Return the folder of readings (None: they are made first) and those of the cohorts."""
    given, cohorts = (None, folders) if model else (folders[0], folders[1:])
    if not cohorts:
        raise UsageError(
            "no cohort was given; give the folder of readings and then the cohort, or a cohort and --model"
        )
    if given is not None and not given.is_dir():
        raise UsageError(f"{given} is not a folder; give the folder that `ichnos read` wrote")
    return given, cohorts


def _read(
    cohorts: list[Cohort], plan: EvidencePlan, out: Path, settings: EvaluateSettings, *, progress: bool
) -> None:
    """Read the baseline CT of every patient of the evaluated splits, and of the validation split."""
    from ichnos.api import Engine
    from ichnos.cli.inputs.scans import find_scans
    from ichnos.cli.read import read_one
    from ichnos.reading import READERS
    from ichnos.runs import apply

    splits = {*plan.splits, "validation"}
    people = [p for cohort in cohorts for p in cohort if p.split in splits and "ct" in p.exams]
    baseline = {str(patient.exams["ct"]) for patient in people}
    scans = find_scans([cohort.root for cohort in cohorts if cohort.root], progress=progress)
    items = [item for item in scans if str(item.place) in baseline]
    model = "" if settings.model == "default" else str(Path(settings.model).resolve())
    engine = Engine(model=model, device=settings.device)
    decisive = {"model": engine.open_model().all_weights(), "device": engine.device}
    task = partial(read_one, engine=engine, only=tuple(READERS), pdf=False)
    apply(task, items, out=out, settings=decisive, name="read", workers=settings.workers, progress=progress)


def _show(pack: Pack, *, as_json: bool) -> None:
    from rich.console import Console

    if as_json:
        typer.echo((pack.out / "evidence.json").read_text(encoding="utf-8"), nl=False)
        return
    console = Console(soft_wrap=True)
    console.print(f"{pack.cases} patients evaluated: {pack.page}", markup=False)
    for flag in pack.flags:
        console.print(f"{flag.level}: {flag.text}", markup=False)
