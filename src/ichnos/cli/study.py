"""`ichnos study NAME`: a published study on a cohort, its table beside ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from ichnos.cli.terminal.folders import cache_folder
from ichnos.cli.terminal.settings import EXECUTION, SettingsTree, asked_for, save_settings, with_settings
from ichnos.cli.terminal.stopwatch import Stopwatch
from ichnos.cli.terminal.threads import single_thread
from ichnos.errors import UsageError

if TYPE_CHECKING:
    from ichnos.cohort import Cohort
    from ichnos.simulation.cohort.design import Design, RenderSettings
    from ichnos.studies.designs import StudyDesign
    from ichnos.studies.shared.budget import StudyBudget
    from ichnos.studies.shared.page import StudyPage

_LESIONS = "lesions"  # the study of lesion masks of people, which needs a folder
_HOSPITAL = "hospital"  # the simulated hospital, which needs nothing


class StudySettings(SettingsTree):
    """Whose patients a study is about, and what it may spend."""

    cohort: Path | None = Field(None, description="folder of your own cohort")
    simulate: float | None = Field(None, gt=0, le=1, description="simulate this fraction of the patients")
    compact: bool = Field(False, description="simulate pieces of CTs (ichnos simulate --compact)")
    smoke: bool = Field(False, description="every stage at its smallest, simulated")
    recipe: str = Field("small", description="small, published, or a settings file")
    parts: tuple[str, ...] = Field((), description="parts of the study to run (default: all)")
    seeds: int = Field(1, ge=1, description="seeds each classifier is trained with")
    with_nnunet: bool = Field(False, description="train nnU-Net too, as one more arm")
    voxel_mm: float | None = Field(None, description="anatomy's voxels, mm (default: 1, compact 2)")
    seed: int = Field(1, description="seed of simulation and training")
    device: str = Field("cpu", description="where to compute: cpu, cuda or mps")
    workers: Annotated[int, EXECUTION] = Field(1, ge=1, description="processes on this machine")


@with_settings(StudySettings)
def study_command(
    name: Annotated[str, typer.Argument(help="one of the four papers, lesions, or hospital")],
    out: Annotated[Path, typer.Option("-o", "--out", help="output folder; re-run to resume")],
    settings: StudySettings,
    folder: Annotated[Path | None, typer.Argument(help="lesion masks and table, for lesions")] = None,
    from_run: Annotated[Path | None, typer.Option(help="write the page of an earlier run's folder")] = None,
    results: Annotated[Path | None, typer.Option(help="also write tables and curves as small files")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print studies.json")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="hide progress messages")] = False,
) -> int:
    """Run the design of a published study on a cohort and write its page."""
    from ichnos.studies.shared.page import write_page, write_results

    page = _page(name, out, settings, folder, from_run, silent=quiet or as_json)
    html = write_page(page, out)
    if from_run is None:
        save_settings(settings, out / "settings.yaml", verb="study")
    if results is not None:
        write_results(page, results)
    if as_json:
        typer.echo((out / "studies.json").read_text(encoding="utf-8"), nl=False)
        return 0
    for table in page.tables:
        typer.echo(table.markdown())
    typer.echo(f"page: {html}")
    return 0


def _page(
    name: str, out: Path, settings: StudySettings, folder: Path | None, from_run: Path | None, *, silent: bool
) -> StudyPage:
    """Return the page of a stored run, of lesion masks, of the simulated hospital, or of a paper."""
    if (name == _LESIONS) != (folder is not None):
        raise UsageError(
            "give FOLDER, with lesion masks and their table, to the study lesions and to no other: "
            "ichnos study lesions FOLDER -o OUT"
        )
    if name in (_LESIONS, _HOSPITAL) and from_run is not None:
        raise UsageError(f"the study {name} stores no run; its page is made by running it")
    if folder is not None:
        from ichnos.studies.lesions import lesion_study

        _refuse_unused(name, settings, ("workers",))

        return lesion_study(folder, out, workers=settings.workers)
    if name == _HOSPITAL:
        return _hospital_page(out, settings, silent=silent)
    if from_run is not None:
        return _stored_page(name, from_run)
    return _paper_page(name, out, settings, silent=silent)


def _refuse_unused(name: str, settings: StudySettings, used: tuple[str, ...]) -> None:
    """Refuse settings that are not those of a study: what is taken and ignored would mislead."""
    if given := asked_for(settings, [field for field in StudySettings.model_fields if field not in used]):
        raise UsageError(f"the study {name} has no use for {', '.join(given)}: leave it out")


def _stored_page(name: str, folder: Path) -> StudyPage:
    from ichnos.studies import stored_run_page
    from ichnos.studies.shared.record import load_record

    record = load_record(folder)
    if record.study != name:
        raise UsageError(f"{folder} holds a run of {record.study}, not of {name}")
    return stored_run_page(record)


def _hospital_page(out: Path, settings: StudySettings, *, silent: bool) -> StudyPage:
    """Run the simulated hospitals: twenty of 1,500 patients each, or with --smoke two small ones."""
    from ichnos.studies.hospital.study import HospitalBudget, hospital_study

    _refuse_unused(_HOSPITAL, settings, ("smoke", "workers"))
    budget = HospitalBudget(count=2, patients=600) if settings.smoke else HospitalBudget()
    return hospital_study(budget, out, workers=settings.workers, progress=not silent)


def _paper_page(name: str, out: Path, settings: StudySettings, *, silent: bool) -> StudyPage:
    """Run the design of a paper on the cohort that the settings ask for, and store the run."""
    from ichnos.errors import require
    from ichnos.studies import design_named, stored_run_page, study_run
    from ichnos.studies.shared.record import save_record

    if (settings.cohort is not None) + (settings.simulate is not None) + settings.smoke != 1:
        raise UsageError("give one of --cohort DIR, --simulate FRACTION and --smoke: whose patients to study")
    design = design_named(name)
    parts = design.parts_asked(settings.parts, compact=settings.compact)
    design.refuse_unused(parts, seeds=settings.seeds, nnunet=settings.with_nnunet)
    if settings.with_nnunet:
        require("nnunetv2", extra="nnunet", purpose="ichnos study --with-nnunet")
    with Stopwatch(out / "minutes.json") as stopwatch:
        budget = _budget(design, settings, stopwatch, silent=silent)
        record = study_run(design)(_patients(design, settings, out, budget), out, budget)
    save_record(record, out / "run")
    return stored_run_page(record)


def _budget(
    design: StudyDesign, settings: StudySettings, stopwatch: Stopwatch, *, silent: bool
) -> StudyBudget:
    from ichnos.studies.shared.budget import StudyBudget
    from ichnos.studies.shared.recipe import study_recipe

    return StudyBudget(
        scale=settings.simulate,
        device=settings.device,
        recipe=study_recipe(settings.recipe),
        seeds=settings.seeds,
        parts=design.parts_asked(settings.parts, compact=settings.compact),
        smoke=settings.smoke,
        workers=settings.workers,
        seed=settings.seed,
        cache=cache_folder(),
        nnunet=settings.with_nnunet,
        say=_messages(stopwatch, silent=silent),
        spent=stopwatch,
    )


def _messages(stopwatch: Stopwatch, *, silent: bool) -> Callable[[str], None]:
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True, quiet=silent)
    return lambda sentence: console.print(f"{stopwatch():5.1f} min  {sentence}", markup=False, style="dim")


def _patients(design: StudyDesign, settings: StudySettings, out: Path, budget: StudyBudget) -> Cohort:
    """Return the user's cohort, or simulate one in OUT/cohort; an unfinished one is completed."""
    from ichnos.formats.bids import read_cohort

    if settings.cohort is not None:
        return read_cohort(settings.cohort)
    from ichnos.simulation.cohort.write import check_made, simulate_cohort

    groups = _groups(design, settings)
    patients = sum(group.patients for group in groups.groups)
    budget.say(f"simulating {patients} patients; those of an earlier call are kept")
    summary = simulate_cohort(
        groups,
        out / "cohort",
        seed=budget.seed,
        render=_render(design, settings),
        name=f"virtual patients after {design.name}",
        workers=budget.workers,
        progress=False,
        cache=budget.cache,
        worker_context=single_thread,
    )
    check_made(summary)
    return read_cohort(out / "cohort")


def _groups(design: StudyDesign, settings: StudySettings) -> Design:
    from ichnos.simulation.cohort.design import preset

    if settings.smoke:
        return design.smoke
    whole = preset(design.name, scale=settings.simulate or 1.0, fewest=design.least_per_group)
    return design.needed(whole, settings.parts, compact=settings.compact)


def _render(design: StudyDesign, settings: StudySettings) -> RenderSettings:
    from ichnos.simulation.cohort.design import RenderSettings

    if settings.smoke:
        # whole heads would only take longer where pieces are enough for all parts
        compact = bool(design.compact_parts) and design.parts == design.compact_parts
        return RenderSettings(voxel_mm=3.0, oracle_samples=4, compact=compact)
    if settings.compact:
        voxel_mm = settings.voxel_mm or 2.0
        return RenderSettings(voxel_mm=voxel_mm, oracle_samples=design.oracle_samples, compact=True)
    return RenderSettings(voxel_mm=settings.voxel_mm or 1.0)
