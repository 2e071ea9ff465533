"""`ichnos pool SITE… -o OUT`: evidence over sites, from tables alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from ichnos.cli.terminal.settings import SettingsTree, asked_for, save_settings, with_settings
from ichnos.errors import InputRefused, UsageError

if TYPE_CHECKING:
    from ichnos.audit.statistics import SiteStatistic


class PoolSettings(SettingsTree):
    """How sites are put together."""

    models: tuple[str, ...] = Field((), description="model folders to average by evidence")
    quantity: str = Field("expansion_probability", description="whose loss decides")


@with_settings(PoolSettings)
def pool_command(
    sites: Annotated[list[Path], typer.Argument(help="folders of `ichnos audit`, or their statistics.json")],
    out: Annotated[Path, typer.Option("-o", "--out", help="output folder")],
    settings: PoolSettings,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Pool the evidence of several sites (random effects); no image and no patient's row is needed."""
    from ichnos.audit.pool import pooled_table
    from ichnos.audit.statistics import read_statistics
    from ichnos.files import atomic_file

    if not settings.models and (given := asked_for(settings, ["quantity"])):
        raise UsageError(f"{given[0]} serves --models alone: leave it out")
    statistics = [one for site in sites for one in read_statistics(site)]
    table = pooled_table(statistics)
    if not table.rows:
        raise InputRefused("no number is known of two sites; give the folders of two audits or more")
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / "pooled.csv") as temporary:
        temporary.write_text(table.csv(), encoding="utf-8")
    said = _averaged(statistics, out / "model", settings) if settings.models else ""
    save_settings(settings, out / "settings.yaml", verb="pool")
    if as_json:
        answer = {
            "sites": len(sites),
            "rows": len(table.rows),
            "table": str(out / "pooled.csv"),
            "model": said,
        }
        typer.echo(json.dumps(answer, indent=2))
        return 0
    typer.echo(table.markdown())
    if said:
        typer.echo(f"{out / 'model'}: {said}")
    return 0


def _averaged(statistics: list[SiteStatistic], out: Path, settings: PoolSettings) -> str:
    import numpy as np

    from ichnos.audit.pool import pooled_model, shares_by_evidence
    from ichnos.models import load_model

    shares = shares_by_evidence(statistics, settings.quantity, np.random.default_rng(0))
    return pooled_model([load_model(Path(name)) for name in settings.models], shares, out).said
