"""Audit a cohort of pairs: transfer each partner exam with its verdict, score what had been read, keep it.

The ledger is append-only and knows a pair under a model once, so that a run may be killed anywhere and
nothing is counted twice. A pair whose verdict a person overrules leaves the table, never the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ichnos.audit.followups import followup_by_model, transferred_by_people, wanted_outlines
from ichnos.audit.judge import JudgedPair, judge_read_pair
from ichnos.audit.lot import OUTLINE_TABLE, WantedOutline, outlines_text
from ichnos.audit.readings import (
    ReadPatient,
    everyone_read,
    people_read,
    read_pipeline,
    readings_by_scan,
    short_name,
    write_read_blood,
)
from ichnos.audit.score import Score, once, score_of, scores_text
from ichnos.cohort import Cohort
from ichnos.errors import InputRefused
from ichnos.files import atomic_file
from ichnos.formats import bids
from ichnos.runs import Failure, apply
from ichnos.runs.ledger import Ledger
from ichnos.transfer.makers import PARTNER, TransferOptions
from ichnos.transfer.run import CohortTransfer, transfer_cohort

AUDIT_RUN = "audit"  # its ledger
SCORES_TABLE = "scores.csv"
_VERSION = {"scores": 1}


@dataclass(frozen=True)
class AuditSummary:
    """What an audit knows, and what it could not use."""

    scores: tuple[Score, ...]
    failures: tuple[Failure, ...]
    refused: tuple[tuple[str, str], ...]  # pair, why its transfer was not trusted
    unread: int  # patients whose plain CT no reading is of
    done_now: int
    table: Path
    everyone: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # who was read: what may decide
    to_outline: tuple[WantedOutline, ...] = ()  # pairs of the lot that wait for a person


def audit_cohort(
    root: Path, readings: Path, out: Path, *, workers: int = 1, progress: bool = False, warp: bool = False
) -> AuditSummary:
    """Score every pair of a cohort whose plain CT had been read; re-run to resume, and when pairs came."""
    cohort = bids.read_cohort(root)
    stored = readings_by_scan(readings)
    by_model = people_read(cohort.patients, stored)
    if not by_model:
        raise InputRefused(
            f"none of the {len(cohort)} patients' plain CTs has a reading in {readings}; read them"
            " first, with `ichnos read`"
        )
    pairs: list[JudgedPair] = []
    transfers: list[CohortTransfer] = []
    for model, own in by_model.items():
        home = out / "transfer" / short_name(model)
        done = _transferred(cohort, own, home, model, workers, progress, warp)
        pairs += _drawn(own, root) if done is None else _pairs(own, done, home, root)
        transfers += [] if done is None else [done]
    people = [person for group in by_model.values() for person in group]
    outlined, by_people = transferred_by_people(
        people, root, out / "transfer", workers=workers, progress=progress
    )
    pairs += by_people
    transfers += [] if outlined is None else [outlined]
    run = apply(
        judge_read_pair, pairs, out=out, settings=_VERSION, name=AUDIT_RUN, workers=workers, progress=progress
    )
    scores = _current(out, pairs)
    table, wanted = out / SCORES_TABLE, wanted_outlines(scores, root)
    for file, text in ((table, scores_text(scores)), (out / OUTLINE_TABLE, outlines_text(wanted))):
        with atomic_file(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return AuditSummary(
        scores=tuple(scores),
        failures=(*(failure for done in transfers for failure in done.failures), *run.failures),
        refused=tuple(
            (str(row["id"]), str(row["causes"]))
            for done in transfers for row in done.rows if row["verdict"] == "refuse"
        ),
        unread=len(cohort) - len({person.patient.id for person in people}),
        done_now=run.done_now,
        table=table,
        everyone=everyone_read(stored, people),
        to_outline=tuple(wanted),
    )  # fmt: skip


def _transferred(
    cohort: Cohort,
    people: list[ReadPatient],
    home: Path,
    model: str,
    workers: int,
    progress: bool,
    warp: bool,
) -> CohortTransfer | None:
    """Transfer the partner exams of those who had been read; None where they have none that can be used."""
    assert cohort.root is not None
    pipeline = read_pipeline(model)
    for person in people:
        write_read_blood(person, cohort.root, pipeline)
    targets = [
        target for target, exam in PARTNER.items() if any(exam in person.patient.exams for person in people)
    ]
    if not targets:
        return None
    return transfer_cohort(
        cohort.root,
        targets,
        settings=TransferOptions(str(cohort.root), ("manual", pipeline), warp=warp),
        out=home,
        workers=workers,
        progress=progress,
    )


def _pairs(people: Iterable[ReadPatient], done: CohortTransfer, home: Path, root: Path) -> list[JudgedPair]:
    rows = {str(row["id"]): row for row in done.rows}
    found = _drawn(people, root)
    for person in people:
        for target, partner in PARTNER.items():
            row = rows.get(f"{person.patient.id}-{target}")
            if row is None or row["verdict"] == "refuse":
                continue
            if partner == "followup":
                found += followup_by_model(person, row, home, root)
            else:
                found.append(JudgedPair(person, partner, str(row["verdict"]), row, home))
    return found


def _drawn(people: Iterable[ReadPatient], root: Path) -> list[JudgedPair]:
    """Return the pairs of a reading and a person's outline on the same CT."""
    found = []
    for person in people:
        path = bids.derivative_path(
            root, person.patient.id, pipeline="manual", label="haematoma", kind="dseg"
        )
        if path.is_file():
            found.append(JudgedPair(person, "reader", "pass", {}, root, "manual"))
    return found


def _current(out: Path, pairs: Iterable[JudgedPair]) -> list[Score]:
    """Return the scores of every pair of the ledger that is still trusted, in the order of their coming."""
    models = {pair.read.reading.model for pair in pairs}
    trusted = {pair.id for pair in pairs}
    scores = []
    for pair_id, record in Ledger(out, AUDIT_RUN).finished().items():
        for row in cast("list[dict[str, Any]]", record["row"]["scores"]):
            score = score_of(row, where=f"the ledger's {pair_id}")
            if (
                score.model not in models or pair_id in trusted
            ):  # of a model that is not judged now: as it was
                scores.append(score)
    return once(scores)
