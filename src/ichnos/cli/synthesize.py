"""`ichnos synthesize`: train a diffusion model of haematoma slices, sample images, measure their quality."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ichnos.errors import InputRefused, UsageError

if TYPE_CHECKING:
    from ichnos.cohort import Cohort
    from ichnos.learning.expansion.settings import GeneratorSettings
    from ichnos.learning.expansion.slice_generator import Picture


def synthesize_command(
    cohort: Annotated[
        Path,
        typer.Argument(help="cohort folder; trains on split train, holds out the rest"),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="folder for images, ledger, contact sheet, generator")
    ],
    kind: Annotated[
        str,
        typer.Option(help="conditional (ours) or published (expanded only)"),
    ] = "conditional",
    images: Annotated[int, typer.Option(help="number of images")] = 64,
    minutes: Annotated[float, typer.Option(help="most minutes of training")] = 10.0,
    steps: Annotated[int | None, typer.Option(help="steps of the schedule (default: 2000)")] = None,
    recipe: Annotated[str, typer.Option(help="small, published, or a settings file")] = "",
    full: Annotated[bool, typer.Option("--full", help="the published sizes; needs a GPU")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps")] = "cpu",
    seed: Annotated[int, typer.Option(help="same seed, same numbers")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="hide progress messages")] = False,
) -> int:
    """Train a generator of haematoma slices and sample images; re-run to resume."""
    from ichnos.errors import require

    for module, extra in (("torch", "learning"), ("matplotlib", "evidence")):
        require(module, extra=extra, purpose="ichnos synthesize")
    from ichnos.formats.bids import read_cohort
    from ichnos.learning.expansion.settings import GeneratorSettings, small_generator
    from ichnos.learning.loop.settings import changed
    from ichnos.learning.recipes import generator_recipe

    if kind not in ("conditional", "published"):
        raise UsageError(f"kind {kind!r} is unknown; give conditional or published")
    if images < 2:
        raise UsageError(f"--images {images}: give 2 or more")
    if (
        out.exists()
        and any(out.iterdir())
        and not (out / "synthesis.json").is_file()
        and not (out / "generator").is_dir()
    ):
        raise UsageError(f"{out} holds other files; give a new or empty folder")
    whole = GeneratorSettings(kind=kind) if full else small_generator(kind)  # type: ignore[arg-type]
    if recipe:
        whole = generator_recipe(recipe, kind=kind)
    given = {"seed": seed} if recipe and steps is None else {"seed": seed, "steps": steps or 2000}
    settings = changed(whole, given | ({"epochs": 0} if steps else {}))
    trained_on, held_out = _pictures(read_cohort(cohort), settings.size)
    report = _synthesized(
        settings,
        trained_on,
        held_out,
        out,
        images=images,
        minutes=minutes,
        device=device,
        quiet=quiet or as_json,
    )
    typer.echo(
        json.dumps(report, indent=2)
        if as_json
        else "\n".join(f"{name}: {value}" for name, value in report.items())
    )
    return 0


def _pictures(cohort: Cohort, size: int) -> tuple[list[Picture], list[Picture]]:
    """Cut every patient with an outcome into slices: those of the split train, and the others."""
    from ichnos.inference.crops import published_crops
    from ichnos.learning.expansion.labels import labelled
    from ichnos.learning.expansion.slice_generator import Picture
    from ichnos.learning.segmentation.cases import check_splits

    check_splits(cohort)
    parts: tuple[list[Picture], list[Picture]] = ([], [])
    for case in labelled(cohort):
        for k, crop in enumerate(published_crops(case.hu, case.ich, size=size)):
            picture = Picture(f"{case.patient.id}-{k}", crop.image, crop.mask, case.expanded, case.patient.id)
            parts[case.patient.split != "train"].append(picture)
    if not parts[0] or not parts[1]:
        raise InputRefused(
            f"{len(parts[0])} training slices and {len(parts[1])} of held-out patients; both"
            " are needed: give patients a split, and the targets haematoma and expansion"
        )
    return parts


def _synthesized(
    settings: GeneratorSettings,
    trained_on: list[Picture],
    held_out: list[Picture],
    out: Path,
    *,
    images: int,
    minutes: float,
    device: str,
    quiet: bool,
) -> dict[str, Any]:
    import numpy as np

    from ichnos.files import atomic_file
    from ichnos.learning.expansion import generator_store, realism
    from ichnos.learning.expansion.slice_generator import sample_pictures, train_generator
    from ichnos.learning.loop.checkpoints import reached
    from ichnos.learning.loop.resources import Resources

    loop = settings.loop
    with _progress(loop.steps, quiet=quiet) as report:
        resources = Resources(device, seconds=60 * minutes, report=report)
        network = train_generator(trained_on, settings, out / "generator", resources=resources)
    generator_store.save_generator(
        network,
        settings,
        out / "model",
        trained_on=trained_on,
        steps=reached(out / "generator"),
        command=f"ichnos synthesize COHORT --kind {settings.kind} --steps {loop.steps} --seed {loop.seed}",
        device=device,
    )
    pictures = list(
        sample_pictures(network, settings, images, trained_on=trained_on, seed=loop.seed, device=device)
    )
    (out / "images").mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        np.save(out / "images" / f"{picture.name}.npy", picture.image)
    generator_store.write_ledger(pictures, out / "ledger.csv")
    expanded = [p for p in held_out if p.outcome == 1]
    real = expanded if len(expanded) > 1 else held_out
    sheet = (("synthetic", pictures[:30]), ("held-out patients", real[:20]))
    realism.slice_sheet(sheet, out / "contact_sheet.png")
    result = _result(settings, pictures, trained_on, held_out)
    text = json.dumps(result)
    result = dict(json.loads(text, parse_constant=lambda undefined: None))  # JSON has no NaN
    with atomic_file(out / "synthesis.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _result(
    settings: GeneratorSettings,
    pictures: list[Picture],
    trained_on: list[Picture],
    held_out: list[Picture],
) -> dict[str, Any]:
    """Measure how good and how new the images are."""
    import numpy as np

    from ichnos.evidence.metrics.synthetic.judge import judge_synthetic
    from ichnos.learning.expansion import realism

    extractor = realism.RandomFeatures()
    name = "fixed random convolutions, seed 2026; not comparable with published FID"
    used = [p for p in trained_on if settings.kind == "conditional" or p.outcome == 1]
    verdict = judge_synthetic(
        realism.image_set(pictures),
        realism.image_set(used),
        realism.image_set(held_out),
        features=lambda images: extractor(list(images)),
        features_name=name,
        rng=np.random.default_rng(0),
    )
    return {
        "images": len(pictures),
        "training_slices": len(used),
        "features": name,
        "judged": {
            measure: value if isinstance(value, str) else asdict(value)
            for measure, value in vars(verdict).items()
        },
        "settings": settings.model_dump(mode="json"),
    }


def _progress(steps: int, *, quiet: bool) -> Any:
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def bar() -> Any:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), disable=quiet) as shown:
            task = shown.add_task("training", total=steps)
            yield lambda progress: shown.update(
                task, completed=progress.step, description=f"training, loss {progress.loss:.3f}"
            )

    return bar()
