"""`ichnos synthesize`: learn slices of haematomas by diffusion, draw new ones, and say how good and how
new they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ichnos.errors import InputRefused, UsageError

if TYPE_CHECKING:
    from ichnos.cohort import Cohort
    from ichnos.learning.expansion.slice_generator import GeneratorPlan, Picture


def synthesize_command(
    cohort: Annotated[
        Path,
        typer.Argument(
            help="folder of the cohort; patients of the split train are learnt from, all others held out"
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="folder of images, ledger, contact sheet and generator")
    ],
    kind: Annotated[
        str,
        typer.Option(help="conditional (on outline and outcome) or published (unconditional, expanded only)"),
    ] = "conditional",
    images: Annotated[int, typer.Option(help="how many to draw")] = 64,
    minutes: Annotated[float, typer.Option(help="of training, at most")] = 10.0,
    steps: Annotated[int, typer.Option(help="of the training's whole schedule")] = 2000,
    full: Annotated[
        bool,
        typer.Option("--full", help="the published sizes (224 pixels, 27 million parameters): wants a GPU"),
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps")] = "cpu",
    seed: Annotated[int, typer.Option(help="same seed, same numbers")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> int:
    """Train a generator on a cohort's expanded haematomas and draw images; run the same command again to
    go on.
    """
    from ichnos.errors import require

    for module, extra in (("torch", "learning"), ("matplotlib", "evidence")):
        require(module, extra=extra, purpose="ichnos synthesize")
    from ichnos.formats.bids import read_cohort
    from ichnos.learning.expansion.slice_generator import GeneratorPlan, small_plan

    if kind not in ("conditional", "published"):
        raise UsageError(f"kind {kind!r} is unknown; give conditional or published")
    if images < 2:
        raise UsageError(f"{images} images were asked for; give 2 or more")
    if (
        out.exists()
        and any(out.iterdir())
        and not (out / "synthesis.json").is_file()
        and not (out / "generator").is_dir()
    ):
        raise UsageError(f"{out} holds other files; give a new or empty folder")
    make = GeneratorPlan if full else small_plan
    plan = make(kind=kind, steps=steps, seed=seed)  # type: ignore[arg-type]
    learnt, held_out = _pictures(read_cohort(cohort), plan.size)
    report = _made(
        plan, learnt, held_out, out, images=images, minutes=minutes, device=device, quiet=quiet or as_json
    )
    typer.echo(
        json.dumps(report, indent=2)
        if as_json
        else "\n".join(f"{name}: {value}" for name, value in report.items())
    )
    return 0


def _pictures(cohort: Cohort, size: int) -> tuple[list[Picture], list[Picture]]:
    """Cut every patient with an outcome into slices: those of the split train, and the others."""
    from ichnos.learning.expansion.crops import published_crops
    from ichnos.learning.expansion.labels import labelled
    from ichnos.learning.expansion.slice_generator import Picture
    from ichnos.learning.segmentation.cases import check_leakage

    check_leakage(cohort)
    parts: tuple[list[Picture], list[Picture]] = ([], [])
    for case in labelled(cohort):
        for k, crop in enumerate(published_crops(case.hu, case.ich, size=size)):
            picture = Picture(f"{case.patient.id}-{k}", crop.image, crop.mask, case.expanded, case.patient.id)
            parts[case.patient.split != "train"].append(picture)
    if not parts[0] or not parts[1]:
        raise InputRefused(
            f"{len(parts[0])} slices to learn from and {len(parts[1])} of held-out patients were found; both"
            " are needed: give patients a split, and the targets haematoma and expansion"
        )
    return parts


def _made(
    plan: GeneratorPlan,
    learnt: list[Picture],
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
    from ichnos.learning.expansion import slice_generator as s
    from ichnos.learning.loop.checkpoints import reached

    with _progress(plan.steps, quiet=quiet) as report:
        network = s.train_generator(
            learnt, plan, out / "generator", device=device, seconds=60 * minutes, report=report
        )
    steps = reached(out / "generator")
    command = f"ichnos synthesize COHORT --kind {plan.kind} --steps {plan.steps} --seed {plan.seed}"
    s.save_generator(
        network, plan, out / "model", learnt_from=learnt, steps=steps, command=command, device=device
    )
    made = list(s.draw_pictures(network, plan, images, learnt_from=learnt, seed=plan.seed, device=device))
    (out / "images").mkdir(parents=True, exist_ok=True)
    for picture in made:
        np.save(out / "images" / f"{picture.name}.npy", picture.image)
    s.write_ledger(made, out / "ledger.csv")
    expanded = [p for p in held_out if p.outcome == 1]
    real = expanded if len(expanded) > 1 else held_out
    s.contact_sheet((("made", made[:30]), ("held-out patients", real[:20])), out / "contact_sheet.png")
    features = s.RandomFeatures()
    a, b = features([p.image for p in made]), features([p.image for p in real])
    new = s.novelty(made, learnt, held_out)
    found = {
        "images": len(made),
        "learnt_from_slices": len([p for p in learnt if plan.kind == "conditional" or p.outcome == 1]),
        "feature_extractor": "fixed random convolutions, seed 2026; not comparable with published FID",
        "fid": round(s.frechet_distance(a, b), 4),
        "kid": round(s.kernel_distance(a, b), 6),
        "nearest_made_over_held_out": round(new.ratio, 3),
        "copies_share": new.copies_share,
        "plan": plan.model_dump(mode="json"),
    }
    with atomic_file(out / "synthesis.json") as temporary:
        temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def _progress(steps: int, *, quiet: bool) -> Any:
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def bar() -> Any:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), disable=quiet) as shown:
            task = shown.add_task("training", total=steps)
            yield lambda step, loss: shown.update(
                task, completed=step, description=f"training, loss {loss:.3f}"
            )

    return bar()
