"""`ichnos study NAME`: a published study on a cohort, its table beside ours."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from ichnos.cli.terminal.settings import EXECUTION, SettingsTree, save_settings, with_settings
from ichnos.cli.terminal.threads import single_thread
from ichnos.errors import UsageError

if TYPE_CHECKING:
    from ichnos.cohort import Cohort
    from ichnos.studies.designs import StudyDesign
    from ichnos.studies.shared.budget import StudyBudget
    from ichnos.studies.shared.page import StudyPage

_LESIONS = "lesions"  # the study of lesion masks of people, which needs a folder
_HOSPITAL = "hospital"  # the simulated hospital, which needs nothing
_SMALL = 0.1  # scale up to which a study without a GPU is kept short
_MINUTES = 10.0  # of training per network, otherwise


class StudySettings(SettingsTree):
    """Whose patients a study is about, and what it may spend."""

    cohort: Path | None = Field(None, description="folder of your own cohort")
    simulate: float | None = Field(None, gt=0, le=1, description="simulate this fraction of the patients")
    smoke: bool = Field(False, description="every stage at its smallest, simulated")
    minutes: float | None = Field(None, gt=0, description="training minutes per network")
    with_nnunet: bool = Field(False, description="train nnU-Net too, as one more arm")
    voxel_mm: float = Field(1.0, description="voxel size of simulated anatomy, mm")
    seed: int = Field(1, description="seed of simulation and training")
    device: str = Field("cpu", description="where to compute: cpu, cuda or mps")
    workers: Annotated[int, EXECUTION] = Field(1, ge=1, description="processes on this machine")


@with_settings(StudySettings)
def study_command(
    name: Annotated[str, typer.Argument(help="one of the four papers, lesions, or hospital")],
    out: Annotated[Path, typer.Option("-o", "--out", help="output folder; re-run to resume")],
    settings: StudySettings,
    folder: Annotated[Path | None, typer.Argument(help="lesion masks and table, for lesions")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print studies.json")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="hide progress messages")] = False,
) -> int:
    """Run the design of a published study on a cohort and write its page."""
    from ichnos.studies.shared.page import write_page

    if (name == _LESIONS) != (folder is not None):
        raise UsageError(
            "give FOLDER, with lesion masks and their table, to the study lesions and to no other: "
            "ichnos study lesions FOLDER -o OUT"
        )
    if name == _HOSPITAL:
        page = _hospital_page(out, settings, silent=quiet or as_json)
    elif folder is not None:
        from ichnos.studies.lesions import lesion_study

        page = lesion_study(folder, out, workers=settings.workers)
    else:
        page = _paper_page(name, out, settings, silent=quiet or as_json)
    html = write_page(page, out)
    save_settings(settings, out / "settings.yaml", verb="study")
    if as_json:
        typer.echo((out / "studies.json").read_text(encoding="utf-8"), nl=False)
        return 0
    for table in page.tables:
        typer.echo(table.markdown())
    typer.echo(f"page: {html}")
    return 0


def _hospital_page(out: Path, settings: StudySettings, *, silent: bool) -> StudyPage:
    """Run the simulated hospitals: twenty of 1,500 patients each, or with --smoke two small ones."""
    from ichnos.studies.hospital.study import HospitalBudget, hospital_study

    budget = HospitalBudget(count=2, patients=600) if settings.smoke else HospitalBudget()
    return hospital_study(budget, out, workers=settings.workers, progress=not silent)


def _paper_page(name: str, out: Path, settings: StudySettings, *, silent: bool) -> StudyPage:
    """Run the design of a paper on the cohort that the settings ask for."""
    from ichnos.errors import require
    from ichnos.studies import design_named, study_run

    if (settings.cohort is not None) + (settings.simulate is not None) + settings.smoke != 1:
        raise UsageError("give one of --cohort DIR, --simulate FRACTION and --smoke: whose patients to study")
    if settings.with_nnunet:
        require("nnunetv2", extra="nnunet", purpose="ichnos study --with-nnunet")
    design = design_named(name)
    budget = _budget(design, settings, _Stopwatch(out / "minutes.json"), silent=silent)
    return study_run(design)(_patients(design, settings, out, budget), out, budget)


def _budget(
    design: StudyDesign, settings: StudySettings, stopwatch: _Stopwatch, *, silent: bool
) -> StudyBudget:
    from ichnos.studies.shared.budget import StudyBudget

    small = settings.simulate is not None and settings.simulate <= _SMALL and settings.device == "cpu"
    return StudyBudget(
        scale=settings.simulate,
        device=settings.device,
        minutes=settings.minutes or (design.small_minutes if small else _MINUTES),
        smoke=settings.smoke,
        workers=settings.workers,
        seed=settings.seed,
        cache=Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ichnos",
        nnunet=settings.with_nnunet,
        say=_messages(stopwatch, silent=silent),
        spent=stopwatch,
    )


class _Stopwatch:
    """Minutes of all calls of one study; saved at each stage, so that an interrupted call counts up to it."""

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


def _messages(stopwatch: _Stopwatch, *, silent: bool) -> Callable[[str], None]:
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True, quiet=silent)
    return lambda sentence: console.print(f"{stopwatch():5.1f} min  {sentence}", markup=False, style="dim")


def _patients(design: StudyDesign, settings: StudySettings, out: Path, budget: StudyBudget) -> Cohort:
    """Return the user's cohort, or simulate one in OUT/cohort; an unfinished one is completed."""
    from ichnos.formats.bids import read_cohort

    if settings.cohort is not None:
        return read_cohort(settings.cohort)
    from ichnos.simulation.cohort.design import RenderSettings, preset
    from ichnos.simulation.cohort.write import check_made, simulate_cohort

    scale = settings.simulate or 1.0
    groups = (
        design.smoke if settings.smoke else preset(design.name, scale=scale, fewest=design.least_per_group)
    )
    coarse, fine = RenderSettings(voxel_mm=3.0, oracle_samples=4), RenderSettings(voxel_mm=settings.voxel_mm)
    patients = sum(group.patients for group in groups.groups)
    budget.say(f"simulating {patients} patients; those of an earlier call are kept")
    summary = simulate_cohort(
        groups,
        out / "cohort",
        seed=budget.seed,
        render=coarse if settings.smoke else fine,
        name=f"virtual patients after {design.name}",
        workers=budget.workers,
        progress=False,
        cache=budget.cache,
        worker_context=single_thread,
    )
    check_made(summary)
    return read_cohort(out / "cohort")
