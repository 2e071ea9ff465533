"""`ichnos stress MODEL`: a model on simulated scans of heads it never saw, and on changed scans."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field

from ichnos.cli.terminal.settings import EXECUTION, SettingsTree, save_settings, with_settings
from ichnos.files import atomic_file

if TYPE_CHECKING:
    from ichnos.models import Model
    from ichnos.runs import Summary


class StressSettings(SettingsTree):
    """Who is simulated, and how many scans are changed."""

    patients: int = Field(60, ge=1, description="simulated patients; every third has no bleed")
    changed: int = Field(18, ge=0, description="patients whose scans are changed too")
    heads: Path | None = Field(None, description="folder of label maps (default: MNI head)")
    workers: Annotated[int, EXECUTION] = Field(1, ge=1, description="processes on this machine")
    threads: Annotated[int | None, EXECUTION] = Field(
        None, ge=1, description="threads per process (default: all cores)"
    )


@with_settings(StressSettings)
def stress_command(
    model: Annotated[str, typer.Argument(help="model folder, or `default`")],
    out: Annotated[Path, typer.Option("-o", "--out", help="output folder; re-run to resume")],
    settings: StressSettings,
    note: Annotated[bool, typer.Option("--note", help="write the results into the model's cards")] = False,
    cache: Annotated[Path, typer.Option(help="folder of prepared heads")] = Path("build/heads"),
    as_json: Annotated[bool, typer.Option("--json", help="print the tables as JSON")] = False,
) -> int:
    """Stress-test a model on simulated scans: accuracy, robustness, what is missed."""
    from ichnos.cli.inputs.models import named_model
    from ichnos.learning.virtual.stress import stress_markdown, stress_tables

    chosen = named_model(model)
    summary = _tried(chosen, out, cache, settings, progress=not as_json)
    tables = stress_tables(list(summary.rows))
    _write(out / "stress.json", json.dumps(tables, indent=2) + "\n")
    _write(out / "stress.md", stress_markdown(tables))
    save_settings(settings, out / "settings.yaml", verb="stress")
    typer.echo(json.dumps(tables, indent=2) if as_json else stress_markdown(tables))
    if note:
        _note(chosen, tables)
    for failure in summary.failures:
        typer.echo(f"patient {failure.id} failed: {failure.why}", err=True)
    return 1 if summary.failures else 0


def _tried(model: Model, out: Path, cache: Path, settings: StressSettings, *, progress: bool) -> Summary:
    from ichnos.learning.virtual.default_model import HELD_OUT
    from ichnos.learning.virtual.stress import StressTrial, stress_patient
    from ichnos.runs import Numbered, apply
    from ichnos.simulation.heads.from_labels import head_files

    heads = head_files(settings.heads)[-HELD_OUT:] if settings.heads else ()
    threads = settings.threads or max(1, (os.cpu_count() or 1) // settings.workers)
    trial = StressTrial(model.folder, heads, cache, settings.changed, threads)
    names = [head.name for head in heads]
    return apply(
        partial(stress_patient, trial=trial),
        [Numbered(number) for number in range(settings.patients)],
        out=out,
        settings={"model": model.all_weights(), "heads": names, "changed": settings.changed},
        name="stress",
        workers=settings.workers,
        progress=progress,
    )


def _note(model: Model, tables: dict[str, list[dict[str, Any]]]) -> None:
    """Write the results into the cards: the refinement's says what is read, the first network's the rest."""
    from ichnos.learning.virtual.stress import stress_measures
    from ichnos.models import note_validation

    as_read, without = stress_measures(tables)
    refinement = model.refinement()
    if refinement is None:
        note_validation(model, as_read)
    else:
        note_validation(refinement, as_read)
        note_validation(model, without)


def _write(file: Path, text: str) -> None:
    with atomic_file(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
