"""`ichnos audit COHORT --readings READINGS -o OUT`: partner exams judge what had been read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from ichnos.cli.terminal.settings import EXECUTION, SettingsTree, save_settings, with_settings

if TYPE_CHECKING:
    from ichnos.audit.run import AuditSummary


class AuditSettings(SettingsTree):
    """How partner exams judge readings."""

    training: Path | None = Field(None, description="training.csv of who taught the last model")
    site: str = Field("", description="name of the site in the statistics it may share")
    warp: bool = Field(False, description="deformable instead of rigid registration")
    workers: Annotated[int, EXECUTION] = Field(1, ge=1, description="processes on this machine")


@with_settings(AuditSettings)
def audit_command(
    cohort: Annotated[Path, typer.Argument(help="cohort of pairs, as `ichnos pair` writes it")],
    readings: Annotated[Path, typer.Option("--readings", help="readings made before the partner exam")],
    out: Annotated[Path, typer.Option("-o", "--out", help="output folder; re-run when pairs have come")],
    settings: AuditSettings,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Score stored readings by the partner exams that came; no scan is read again."""
    from ichnos.audit.run import audit_cohort
    from ichnos.audit.statistics import site_statistics, write_statistics

    summary = audit_cohort(
        cohort.resolve(), readings, out, workers=settings.workers, progress=not as_json, warp=settings.warp
    )
    page = _page(summary, cohort, readings, out, settings.training)
    write_statistics(site_statistics(summary.scores, site=settings.site), out)
    save_settings(settings, out / "settings.yaml", verb="audit")
    _show(summary, page, as_json=as_json)
    return 2 if summary.failures else 0


def _page(summary: AuditSummary, cohort: Path, readings: Path, out: Path, training: Path | None) -> Path:
    """Write the evidence of the model that was judged last, beside the first one where there are two."""
    from dataclasses import replace

    from ichnos.audit.monitoring.duel import duel, duel_table
    from ichnos.audit.monitoring.inputs import inputs_in
    from ichnos.audit.monitoring.live import live_evidence
    from ichnos.audit.monitoring.page import write_live
    from ichnos.audit.outlines import reader_pairs, readers_table
    from ichnos.evidence.leakage import read_training

    taught = {image.patient for image in read_training(training)} if training is not None else set()
    kept = [score for score in summary.scores if score.patient not in taught]
    models = list(dict.fromkeys(score.model for score in kept))
    scores = [score for score in kept if score.model == models[-1]]
    evidence = live_evidence(scores, inputs_in(readings), everyone=summary.everyone)
    drawn = readers_table(reader_pairs(cohort, dict.fromkeys(score.patient for score in kept)))
    if drawn.rows:
        evidence = replace(evidence, tables=(*evidence.tables, drawn))
    if len(models) > 1:
        table = duel_table(duel(kept, models[0], models[-1]))
        evidence = replace(evidence, tables=(*evidence.tables, table))
    return write_live(evidence, out)


def _show(summary: AuditSummary, page: Path, *, as_json: bool) -> None:
    from ichnos.audit.lot import OUTLINE_TABLE
    from ichnos.cli.terminal.tables import print_table

    failures = [{"id": failure.id, "why": failure.why} for failure in summary.failures]
    refused = [{"id": pair, "why": why} for pair, why in summary.refused]
    if as_json:
        answer = {
            "table": str(summary.table),
            "page": str(page),
            "scores": len(summary.scores),
            "done_now": summary.done_now,
            "unread": summary.unread,
            "to_outline": len(summary.to_outline),
            "refused": refused,
            "failures": failures,
        }
        typer.echo(json.dumps(answer, indent=2))
        return
    quantities = dict.fromkeys(score.quantity for score in summary.scores)
    print_table(("quantity", "pairs", "mean loss", "interval held"), [_line(summary, q) for q in quantities])
    typer.echo(f"{summary.unread} patients had no reading; scores: {summary.table}; page: {page}")
    if summary.to_outline:
        file = summary.table.with_name(OUTLINE_TABLE)
        typer.echo(f"follow-ups that wait for a person's outline: {len(summary.to_outline)} ({file})")
    for item in (*refused, *failures):
        typer.echo(f"  {item['id']}: {item['why']}", err=True)


def _line(summary: AuditSummary, quantity: str) -> list[str]:
    from ichnos.audit.score import standing

    scores = [score for score in standing(summary.scores) if score.quantity == quantity]
    held = [score.held for score in scores if score.held is not None]
    loss = sum(score.loss for score in scores) / len(scores)
    return [quantity, str(len(scores)), f"{loss:.3f}", f"{sum(held)} of {len(held)}" if held else ""]
