"""`ichnos transfer COHORT`: partner exams → targets on the CT grid, with a verdict and a contact sheet per
pair.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ichnos.errors import UsageError

if TYPE_CHECKING:
    from ichnos.transfer.makers import Target
    from ichnos.transfer.run import CohortTransfer


def transfer(
    cohort: Annotated[Path, typer.Argument(help="folder of the cohort (participants.tsv, sub-*)")],
    targets: Annotated[
        str, typer.Option(help="any of tract,leukoaraiosis,expansion")
    ] = "tract,leukoaraiosis,expansion",
    given: Annotated[
        str, typer.Option(help="pipelines under derivatives/ whose masks, peaks and FODs are taken")
    ] = "manual",
    undo_shift: Annotated[
        bool, typer.Option("--undo-shift", help="expansion: take back what the haematoma pushed aside")
    ] = False,
    seeds_per_side: Annotated[int, typer.Option(help="tract: how many seeds per side")] = 4000,
    denoise: Annotated[bool, typer.Option("--denoise", help="tract: remove noise first (slow)")] = False,
    warp: Annotated[
        bool, typer.Option("--warp", help="leukoaraiosis and tract: let the MRI bend, not only turn")
    ] = False,
    trx: Annotated[
        bool, typer.Option("--trx", help="tract: write streamlines as .trx instead of .tck")
    ] = False,
    nnunet: Annotated[str | None, typer.Option(help="also write DatasetNNN_Name (one target)")] = None,
    workers: Annotated[int, typer.Option(help="processes")] = 1,
    scheduler: Annotated[str | None, typer.Option(help="address of a dask scheduler instead")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Bring what the partner exams show onto the CTs."""
    from ichnos.transfer.makers import Settings
    from ichnos.transfer.run import transfer_cohort

    settings = Settings(
        str(cohort.resolve()),
        tuple(_list(given)),
        undo_shift,
        seeds_per_side,
        denoise,
        warp=warp,
        streamlines="trx" if trx else "tck",
    )
    result = transfer_cohort(
        cohort.resolve(),
        _targets(targets),
        settings=settings,
        workers=workers,
        scheduler=scheduler,
        nnunet_dataset=nnunet,
        progress=not as_json,
    )
    return _told(result, as_json=as_json)


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _targets(text: str) -> list[Target]:
    from ichnos.transfer.makers import PARTNER

    chosen = list(dict.fromkeys(_list(text)))
    unknown = [name for name in chosen if name not in PARTNER]
    if unknown or not chosen:
        raise UsageError(
            f"targets {', '.join(unknown) or 'none'} were asked for; give any of {', '.join(PARTNER)}"
        )
    return [cast("Target", name) for name in chosen]


def _told(result: CohortTransfer, *, as_json: bool) -> int:
    failures = [{"id": f.id, "why": f.why} for f in result.failures]
    counts = {
        word: result.count(level) for word, level in (("pass", "pass"), ("warn", "warn"), ("fail", "refuse"))
    }
    if as_json:
        rows = [{k: v for k, v in row.items() if k != "files"} for row in result.rows]
        told = {
            "index": str(result.index),
            **counts,
            "nothing": len(failures),
            "pairs": rows,
            "failures": failures,
        }
        typer.echo(json.dumps(told | {"nnunet": str(result.nnunet) if result.nnunet else None}, indent=2))
        return 2 if failures else 0
    _table(result)
    typer.echo(
        ", ".join(f"{n} {word}" for word, n in counts.items())
        + f", {len(failures)} without a result; {result.seconds:.0f} s"
    )
    typer.echo(f"contact sheets: {result.index}")
    if result.nnunet:
        typer.echo(f"nnU-Net dataset: {result.nnunet}")
    return 2 if failures else 0


def _table(result: CohortTransfer) -> None:
    from rich.console import Console
    from rich.table import Table

    words = {"pass": "pass", "warn": "warn", "refuse": "fail"}
    table = Table("pair", "verdict", "margin", "overlap", "coverage", "cause")
    for row in result.rows:
        numbers = [
            "" if row[k] is None else f"{row[k]:.2f}" for k in ("margin", "head_overlap", "brain_coverage")
        ]
        table.add_row(row["id"], words[row["verdict"]], *numbers, row["causes"])
    for failure in result.failures:
        table.add_row(failure.id, "none", "", "", "", failure.why)
    Console().print(table)
