"""`ichnos adapt MODEL -o NEW`: a model folder that has learned from a site's own pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from ichnos.cli.terminal.settings import EXECUTION, SettingsTree, asked_for, save_settings, with_settings
from ichnos.errors import UsageError
from ichnos.formats.bids import TRUSTED_PIPELINES

if TYPE_CHECKING:
    from ichnos.audit.adaptation import Adapted
    from ichnos.models import Model


class AdaptSettings(SettingsTree):
    """What a model learns from."""

    audit: Path | None = Field(None, description="recalibrate by this folder of `ichnos audit`")
    exam_sd: tuple[str, ...] = Field((), description="the exam's own error: QUANTITY=SD of ln(1 + mL)")
    pairs: Path | None = Field(None, description="fine-tune on this cohort of pairs instead")
    targets: str = Field("leukoaraiosis", description="what --pairs show, as a,b,…")
    steps: int = Field(100, ge=1, description="optimiser steps of --pairs")
    pipelines: tuple[str, ...] = Field(TRUSTED_PIPELINES, description="where --pairs has them")
    seed: int = Field(0, description="of --pairs: same seed, same numbers")
    device: Annotated[str, EXECUTION] = Field("cpu", description="of --pairs: cpu, cuda or mps")
    tuned: Path | None = Field(None, description="average with this fine-tuned model instead")
    share: float = Field(0.5, gt=0, lt=1, description="weight of what was tuned in the average")
    site: str = Field("", description="of --audit: name of the site, for the card")


@with_settings(AdaptSettings)
def adapt_command(
    model: Annotated[str, typer.Argument(help="model folder that had read, or `default`")],
    out: Annotated[Path, typer.Option("-o", "--out", help="new model folder")],
    settings: AdaptSettings,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Recalibrate or fine-tune a model on a site's pairs (20 or more), or average two models."""
    from ichnos.models import default_model, load_model

    if sum(given is not None for given in (settings.audit, settings.pairs, settings.tuned)) != 1:
        raise UsageError(
            "give one of --audit DIR (recalibrate), --pairs DIR (fine-tune) and --tuned DIR (average weights)"
        )
    _refuse_unused(settings)
    opened = default_model() if model == "default" else load_model(Path(model))
    adapted = _adapted(opened, out, settings)
    save_settings(settings, out / "adapt.yaml", verb="adapt")
    if as_json:
        answer = {"model": str(adapted.folder), "identity": adapted.identity, "taught": len(adapted.taught)}
        typer.echo(json.dumps({**answer, "said": adapted.said}, indent=2))
        return 0
    typer.echo(f"{adapted.folder}: {adapted.said}")
    typer.echo(f"{len(adapted.taught)} patients taught it (training.csv); leave them out of its evidence")
    return 0


_OF = {  # what is learnt from -> the settings that it uses
    "audit": ("exam_sd", "site"),
    "pairs": ("targets", "steps", "pipelines", "seed", "device", "share"),
    "tuned": ("share",),
}


def _refuse_unused(settings: AdaptSettings) -> None:
    way = next(name for name in _OF if getattr(settings, name) is not None)
    others = {name for names in _OF.values() for name in names} - set(_OF[way])
    if given := asked_for(settings, sorted(others)):
        raise UsageError(f"--{way} has no use for {', '.join(given)}: leave it out")


def _adapted(model: Model, out: Path, settings: AdaptSettings) -> Adapted:
    from ichnos.audit.adaptation import averaged_model, recalibrated_model
    from ichnos.audit.run import SCORES_TABLE
    from ichnos.audit.score import scores_of_text
    from ichnos.models import load_model

    if settings.tuned is not None:
        return averaged_model(model, load_model(settings.tuned), out, share=settings.share)
    if settings.pairs is not None:
        return _tuned(model, settings.pairs, out, settings)
    assert settings.audit is not None
    table = settings.audit / SCORES_TABLE
    if not table.is_file():
        raise UsageError(f"{settings.audit} holds no {SCORES_TABLE}; give a folder of `ichnos audit`")
    scores = scores_of_text(table.read_text(encoding="utf-8"), where=str(table))
    return recalibrated_model(model, scores, out, site=settings.site, exam_sd=_errors_of(settings.exam_sd))


def _errors_of(given: tuple[str, ...]) -> dict[str, float]:
    """Read QUANTITY=SD."""
    errors = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            errors[name] = float(value)
        except ValueError:
            errors[name] = -1.0
        if not 0 < errors[name] < 1:
            raise UsageError(
                f"--exam-sd {text}: give a quantity and a number between 0 and 1, as leukoaraiosis_volume=0.1"
            )
    return errors


def _tuned(model: Model, pairs: Path, out: Path, settings: AdaptSettings) -> Adapted:
    """Fine-tune on pairs; what is prepared and the checkpoint stay beside the new folder."""
    from ichnos.audit.tuning import TuningSettings, tuned_on_pairs
    from ichnos.formats.bids import read_cohort
    from ichnos.learning.loop.resources import Resources

    chosen = TuningSettings(settings.targets, settings.steps, settings.share, seed=settings.seed)
    resources = Resources(
        settings.device,
        pipelines=settings.pipelines,
        command=f"ichnos adapt --pairs --targets {settings.targets} --steps {settings.steps}",
        warn=lambda sentence: typer.echo(sentence, err=True),
    )
    cohort = read_cohort(pairs, pipelines=settings.pipelines)
    work = out.with_name(f"{out.name}.training")
    return tuned_on_pairs(model, cohort, out, chosen, work=work, resources=resources)
