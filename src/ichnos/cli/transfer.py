"""`ichnos transfer COHORT`: partner exams → targets on the CT grid, with a verdict and a contact sheet
per pair.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from pydantic import Field

from ichnos.cli.terminal.settings import EXECUTION, SettingsTree, save_settings, with_settings
from ichnos.errors import UsageError

if TYPE_CHECKING:
    from ichnos.transfer.makers import TransferOptions, TransferTarget
    from ichnos.transfer.run import CohortTransfer


class TransferSettings(SettingsTree):
    """How what partner exams show is brought onto the CTs."""

    targets: tuple[str, ...] = Field(
        ("tract", "leukoaraiosis", "expansion"), description="targets to transfer (default: all three)"
    )
    given: tuple[str, ...] = Field(("manual",), description="derivatives/ pipelines to take masks from")
    undo_shift: bool = Field(False, description="expansion: undo the mass effect")
    seeds_per_side: int = Field(4000, ge=1, description="tract: seeds per side")
    denoise: bool = Field(False, description="tract: denoise diffusion first (slow)")
    cut_off: float = Field(0.3, gt=0, lt=1, description="tract: membership at the mask's edge")
    warp: bool = Field(False, description="deformable instead of rigid registration")
    trx: bool = Field(False, description="tract: write .trx instead of .tck")
    nnunet: str | None = Field(None, description="also write DatasetNNN_Name (one target)")
    workers: Annotated[int, EXECUTION] = Field(1, ge=1, description="processes on this machine")
    scheduler: Annotated[str | None, EXECUTION] = Field(None, description="dask scheduler, tcp://host:port")


@with_settings(TransferSettings)
def transfer_command(
    cohort: Annotated[Path, typer.Argument(help="folder of the cohort (participants.tsv, sub-*)")],
    settings: TransferSettings,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="output folder (default: the cohort itself)")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="discard all earlier results first")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Transfer targets from the partner exams onto the CTs; re-run to resume and to retry failed pairs."""
    from ichnos.transfer.run import transfer_cohort

    root, home = cohort.resolve(), (out or cohort).resolve()
    result = transfer_cohort(
        root,
        _targets(settings.targets),
        settings=_options(root, settings),
        out=home if out is not None else None,
        restart=restart,
        workers=settings.workers,
        scheduler=settings.scheduler,
        nnunet_dataset=settings.nnunet,
        progress=not as_json,
    )
    save_settings(settings, home / ".ichnos" / "transfer" / "settings.yaml", verb="transfer")
    return _show(result, as_json=as_json)


def _options(root: Path, settings: TransferSettings) -> TransferOptions:
    from ichnos.transfer.makers import TransferOptions

    return TransferOptions(
        str(root),
        settings.given,
        settings.undo_shift,
        settings.seeds_per_side,
        settings.denoise,
        settings.cut_off,
        warp=settings.warp,
        streamlines="trx" if settings.trx else "tck",
    )


def _targets(names: tuple[str, ...]) -> list[TransferTarget]:
    from ichnos.transfer.makers import PARTNER

    unknown = [name for name in names if name not in PARTNER]
    if unknown or not names:
        raise UsageError(f"--targets {', '.join(unknown) or 'is empty'}: give any of {', '.join(PARTNER)}")
    return [cast("TransferTarget", name) for name in dict.fromkeys(names)]


def _show(result: CohortTransfer, *, as_json: bool) -> int:
    failures = [{"id": f.id, "why": f.why} for f in result.failures]
    counts = {
        word: result.count(level) for word, level in (("pass", "pass"), ("warn", "warn"), ("fail", "refuse"))
    }
    if as_json:
        rows = [{k: v for k, v in row.items() if k != "files"} for row in result.rows]
        answer = {
            "index": str(result.index),
            **counts,
            "nothing": len(failures),
            "pairs": rows,
            "failures": failures,
        }
        typer.echo(json.dumps(answer | {"nnunet": str(result.nnunet) if result.nnunet else None}, indent=2))
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
    from ichnos.cli.terminal.tables import print_table

    words = {"pass": "pass", "warn": "warn", "refuse": "fail"}
    measures = ("margin", "head_overlap", "brain_coverage")
    rows = [
        [
            row["id"],
            words[row["verdict"]],
            *("" if row[k] is None else f"{row[k]:.2f}" for k in measures),
            row["causes"],
        ]
        for row in result.rows
    ]
    failed = [[failure.id, "none", "", "", "", failure.why] for failure in result.failures]
    print_table(("pair", "verdict", "margin", "overlap", "coverage", "cause"), [*rows, *failed])
