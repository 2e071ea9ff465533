"""`ichnos pair FOLDER -o COHORT`: plain CTs and the partner exams that followed, as a cohort."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from ichnos.cli.terminal.settings import EXECUTION, SettingsTree, save_settings, with_settings
from ichnos.errors import UsageError

if TYPE_CHECKING:
    from ichnos.audit.pairing import PairSummary

Hours = tuple[float, float]


class PairSettings(SettingsTree):
    """How long after the plain CT a partner exam may be taken."""

    followup_h: Hours = Field((6, 72), description="follow-up CT: hours after the plain CT")
    flair_days: Hours = Field((0, 30), description="FLAIR: days after the plain CT")
    diffusion_days: Hours = Field((0, 90), description="diffusion: days after the plain CT")
    centre: str = Field("", description="name of this centre in the cohort")
    workers: Annotated[int, EXECUTION] = Field(1, ge=1, description="processes on this machine")


@with_settings(PairSettings)
def pair_command(
    folder: Annotated[Path, typer.Argument(help="folder of DICOM, or with an exams.tsv")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the cohort; re-run to add new pairs")],
    settings: PairSettings,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Pair plain head CTs with the partner exams that followed, and write them de-identified as a cohort."""
    from ichnos.audit.exams import exams_in
    from ichnos.audit.pairing import HOURS_PER_DAY, PairWindows, pair_exams
    from ichnos.cli.inputs.names import name_book

    for name in ("followup_h", "flair_days", "diffusion_days"):
        low, high = getattr(settings, name)
        if not 0 <= low < high:
            raise UsageError(
                f"--{name.replace('_', '-')} {low:g},{high:g}: give the earlier limit first, as 6,72"
            )
    flair_h, diffusion_h = (
        (low * HOURS_PER_DAY, high * HOURS_PER_DAY)
        for low, high in (settings.flair_days, settings.diffusion_days)
    )
    summary = pair_exams(
        exams_in(folder),
        out,
        windows=PairWindows(settings.followup_h, flair_h, diffusion_h),
        centre=settings.centre,
        salt=name_book().salt,
        workers=settings.workers,
        progress=not as_json,
    )
    save_settings(settings, out / ".ichnos" / "pair" / "settings.yaml", verb="pair")
    _show(summary, out, as_json=as_json)
    return 2 if summary.failures else 0


def _show(summary: PairSummary, out: Path, *, as_json: bool) -> None:
    failures = [{"id": failure.id, "why": failure.why} for failure in summary.failures]
    if as_json:
        answer = {
            "out": str(out),
            "patients": len(summary.cohort),
            "pairs": dict(summary.counts),
            "done_now": summary.done_now,
            "left_out": list(summary.left_out),
            "failures": failures,
        }
        typer.echo(json.dumps(answer, indent=2))
        return
    pairs = ", ".join(f"{count} with {exam}" for exam, count in summary.counts.items())
    typer.echo(f"{len(summary.cohort)} patients in {out}: {pairs}; {len(summary.left_out)} series left out")
    for failure in failures:
        typer.echo(f"  {failure['id']}: {failure['why']}", err=True)
