"""`ichnos adapt MODEL -o NEW`: a model folder that has learned from a site's own pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from ichnos.cli.terminal.settings import SettingsTree, save_settings, with_settings
from ichnos.errors import UsageError

if TYPE_CHECKING:
    from ichnos.audit.adaptation import Adapted
    from ichnos.models import Model


class AdaptSettings(SettingsTree):
    """What a model learns from."""

    audit: Path | None = Field(None, description="recalibrate by this folder of `ichnos audit`")
    tuned: Path | None = Field(None, description="average with this fine-tuned model instead")
    share: float = Field(0.5, gt=0, lt=1, description="weight of --tuned in the average")
    site: str = Field("", description="name of the site, for card and report")


@with_settings(AdaptSettings)
def adapt_command(
    model: Annotated[str, typer.Argument(help="model folder that had read, or `default`")],
    out: Annotated[Path, typer.Option("-o", "--out", help="new model folder")],
    settings: AdaptSettings,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Recalibrate a model from a site's pairs (20 or more), or average it with a fine-tuned one."""
    from ichnos.models import default_model, load_model

    if (settings.audit is None) == (settings.tuned is None):
        raise UsageError("give one of --audit DIR (recalibrate) and --tuned DIR (average weights)")
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


def _adapted(model: Model, out: Path, settings: AdaptSettings) -> Adapted:
    from ichnos.audit.adaptation import averaged_model, recalibrated_model
    from ichnos.audit.run import SCORES_TABLE
    from ichnos.audit.score import scores_of_text
    from ichnos.models import load_model

    if settings.tuned is not None:
        return averaged_model(model, load_model(settings.tuned), out, share=settings.share)
    assert settings.audit is not None
    table = settings.audit / SCORES_TABLE
    if not table.is_file():
        raise UsageError(f"{settings.audit} holds no {SCORES_TABLE}; give a folder of `ichnos audit`")
    scores = scores_of_text(table.read_text(encoding="utf-8"), where=str(table))
    return recalibrated_model(model, scores, out, site=settings.site)
