"""`ichnos synthesize`: train a diffusion model of haematoma slices, sample images, measure their quality."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import Field

from ichnos.cli.terminal.settings import SettingsTree, save_settings, with_settings
from ichnos.errors import InputRefused, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from torch import nn

    from ichnos.cohort import Cohort
    from ichnos.learning.expansion.settings import GeneratorSettings
    from ichnos.learning.expansion.slice_generator import Picture
    from ichnos.learning.loop.steps import Progress

_QUICK_STEPS = 2000  # of a training without a recipe
_QUICK_MINUTES = 10.0  # that it takes at most
_FEATURES = "fixed random convolutions, seed 2026; not comparable with published FID"


class SynthesizeSettings(SettingsTree):
    """Which generator is trained, how long, and how many images it makes."""

    kind: Literal["conditional", "published"] = Field("conditional", description="ours, or the paper's")
    recipe: str = Field("", description="small, published, or a settings file")
    steps: int | None = Field(None, ge=1, description="steps of training (default: the recipe's)")
    minutes: float | None = Field(None, gt=0, description="most minutes (default: 10 without a recipe)")
    images: int = Field(64, ge=2, description="number of images")
    seed: int = Field(0, description="same seed, same numbers")
    device: str = Field("cpu", description="where to compute: cpu, cuda or mps")


@with_settings(SynthesizeSettings)
def synthesize_command(
    cohort: Annotated[
        Path,
        typer.Argument(help="cohort folder; trains on split train, holds out the rest"),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="folder for images, ledger, contact sheet, generator")
    ],
    settings: SynthesizeSettings,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="hide progress messages")] = False,
) -> int:
    """Train a generator of haematoma slices and sample images; re-run to resume."""
    from ichnos.errors import require
    from ichnos.formats.bids import read_cohort
    from ichnos.learning.loop.checkpoints import reached

    for module, extra in (("torch", "learning"), ("matplotlib", "evidence")):
        require(module, extra=extra, purpose="ichnos synthesize")
    _check_folder(out)
    generator = _generator(settings)
    trained_on, held_out = _pictures(read_cohort(cohort), generator.size)
    network = _trained(generator, trained_on, out, settings, quiet=quiet or as_json)
    done, planned = reached(out / "generator"), generator.loop.for_examples(len(trained_on)).steps
    if done < planned:
        typer.echo(f"note: trained for {done} of {planned} steps; the same command goes on", err=True)
    pictures = _sampled(network, generator, trained_on, out, settings)
    _draw(pictures, held_out, out / "contact_sheet.png")
    report = {"steps_trained": done, "steps_planned": planned}
    report |= _report(generator, pictures, trained_on, held_out)
    _write_report(report, out / "synthesis.json")
    save_settings(settings, out / "settings.yaml", verb="synthesize")
    lines = (f"{name}: {value}" for name, value in report.items())
    typer.echo(json.dumps(report, indent=2) if as_json else "\n".join(lines))
    return 0


def _check_folder(out: Path) -> None:
    """Refuse a folder that holds something else than an earlier call's work."""
    begun = (out / "synthesis.json").is_file() or (out / "generator").is_dir()
    if out.exists() and any(out.iterdir()) and not begun:
        raise UsageError(f"{out} holds other files; give a new or empty folder")


def _generator(settings: SynthesizeSettings) -> GeneratorSettings:
    """Return the generator's settings: a recipe's, or a small one that is trained in minutes."""
    from ichnos.learning.expansion.settings import small_generator
    from ichnos.learning.loop.settings import changed
    from ichnos.learning.recipes import generator_recipe

    if settings.recipe:
        whole = generator_recipe(settings.recipe, kind=settings.kind)
    else:
        whole = small_generator(settings.kind, steps=_QUICK_STEPS)
    steps = {"steps": settings.steps, "epochs": 0} if settings.steps else {}
    return changed(whole, {"seed": settings.seed, **steps})


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


def _trained(
    generator: GeneratorSettings,
    trained_on: Sequence[Picture],
    out: Path,
    settings: SynthesizeSettings,
    *,
    quiet: bool,
) -> nn.Module:
    """Train the generator and save it as a Model."""
    from ichnos.learning.expansion import generator_store
    from ichnos.learning.expansion.slice_generator import train_generator
    from ichnos.learning.loop.checkpoints import reached
    from ichnos.learning.loop.resources import Resources

    work = out / "generator"
    with _progress(generator.loop.for_examples(len(trained_on)).steps, quiet=quiet) as report:
        resources = Resources(settings.device, seconds=_seconds(settings), report=report)
        network = train_generator(trained_on, generator, work, resources=resources)
    loop = generator.loop
    generator_store.save_generator(
        network,
        generator,
        out / "model",
        trained_on=trained_on,
        steps=reached(work),
        command=f"ichnos synthesize COHORT --kind {generator.kind} --steps {loop.steps} --seed {loop.seed}",
        device=settings.device,
    )
    return network


def _seconds(settings: SynthesizeSettings) -> float:
    """Return how long the training may take; one whose length was asked for takes what it takes."""
    if settings.minutes is None and (settings.recipe or settings.steps):
        return float("inf")
    return 60 * (settings.minutes or _QUICK_MINUTES)


def _sampled(
    network: nn.Module,
    generator: GeneratorSettings,
    trained_on: Sequence[Picture],
    out: Path,
    settings: SynthesizeSettings,
) -> list[Picture]:
    """Sample images, none of them selected, and write them with their ledger."""
    import numpy as np

    from ichnos.learning.expansion import generator_store
    from ichnos.learning.expansion.slice_generator import sample_pictures

    seed, device = generator.loop.seed, settings.device
    drawn = sample_pictures(
        network, generator, settings.images, trained_on=trained_on, seed=seed, device=device
    )
    pictures = list(drawn)
    (out / "images").mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        np.save(out / "images" / f"{picture.name}.npy", picture.image)
    generator_store.write_ledger(pictures, out / "ledger.csv")
    return pictures


def _draw(pictures: Sequence[Picture], held_out: Sequence[Picture], file: Path) -> None:
    from ichnos.learning.expansion import realism

    expanded = [p for p in held_out if p.outcome == 1]
    real = expanded if len(expanded) > 1 else held_out
    realism.slice_sheet((("synthetic", pictures[:30]), ("held-out patients", real[:20])), file)


def _report(
    generator: GeneratorSettings,
    pictures: Sequence[Picture],
    trained_on: Sequence[Picture],
    held_out: Sequence[Picture],
) -> dict[str, Any]:
    """Measure how good and how new the images are; JSON has no NaN, so that undefined numbers are null."""
    import numpy as np

    from ichnos.evidence.metrics.synthetic.judge import judge_synthetic
    from ichnos.learning.expansion import realism

    extractor = realism.RandomFeatures()
    used = [p for p in trained_on if generator.kind == "conditional" or p.outcome == 1]
    verdict = judge_synthetic(
        realism.image_set(pictures),
        realism.image_set(used),
        realism.image_set(held_out),
        features=lambda images: extractor(list(images)),
        features_name=_FEATURES,
        rng=np.random.default_rng(0),
    )
    judged = {
        name: value if isinstance(value, str) else asdict(value) for name, value in vars(verdict).items()
    }
    report = {"images": len(pictures), "training_slices": len(used), "features": _FEATURES, "judged": judged}
    text = json.dumps(report | {"settings": generator.model_dump(mode="json")})
    return dict(json.loads(text, parse_constant=lambda undefined: None))


def _write_report(report: dict[str, Any], file: Path) -> None:
    from ichnos.files import atomic_file

    with atomic_file(file) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _progress(steps: int, *, quiet: bool) -> AbstractContextManager[Callable[[Progress], None]]:
    from collections.abc import Iterator
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Shown

    @contextmanager
    def bar() -> Iterator[Callable[[Progress], None]]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Shown(*columns, console=Console(stderr=True), disable=quiet) as shown:
            task = shown.add_task("training", total=steps)
            yield lambda progress: shown.update(
                task, completed=progress.step, description=f"training, loss {progress.loss:.3f}"
            )

    return bar()
