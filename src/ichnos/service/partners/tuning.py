"""Fine-tuning on the node's own pairs: what is asked for by a person, and what has become of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from ichnos.audit.adaptation import LEAST_PAIRS
from ichnos.audit.pairing import split_of
from ichnos.errors import InputRefused, UsageError
from ichnos.files import atomic_file
from ichnos.models import Model, default_model, load_model
from ichnos.service.installed import folder_of_model, free_folder
from ichnos.service.node import Node
from ichnos.service.store import events, queue
from ichnos.service.store.tables import PairRow, ScoreRow, StudyRow, TaskRow
from ichnos.targets import targets_in

TUNE = "tune"  # kind of its tasks
TunedTarget = Literal["leukoaraiosis", "tract", "haematoma"]
# What shows a target: the partner in the scores of accepted pairs; "reader" is a person's outline of the CT.
SHOWN_BY: Mapping[TunedTarget, str] = {"leukoaraiosis": "flair", "tract": "diffusion", "haematoma": "reader"}
_PROGRESS = "progress.json"
_AFTER_ALL = 20  # priority: behind whatever else waits


def tuning_folder(home: Path, task_id: int) -> Path:
    """Return where a fine-tuning works until it is done.

    >>> tuning_folder(Path("node"), 7).as_posix()
    'node/tuning/7'
    """
    return home / "tuning" / str(task_id)


def request_tuning(node: Node, target: TunedTarget, *, actor: str) -> None:
    """Queue the fine-tuning of the model that reads; refuse what cannot be done, and a second one beside it.

    The new model reads nothing: let it read in the shadow, compare, then choose.
    """
    with node.database.snapshot() as session:
        reads = folder_of_model(session, node.settings)
    model, now = load_model(Path(reads)) if reads else default_model(), node.clock()
    _refuse_unable(model, target)
    with node.database.transaction() as session:
        # First of all: on PostgreSQL the end of the chain is locked, so that two requests take turns.
        details = {"from": model.folder.name, "target": target}
        events.append_event(session, "fine-tuning asked", at=now, actor=actor, details=details)
        if queue.tasks_waiting(session, TUNE):
            raise UsageError("a fine-tuning waits or runs already; ask again when it has ended")
        payload = {
            "target": target,
            "author": actor,
            "model": reads,
            "from": model.folder.name,
            "name": free_folder(node.settings, f"{model.folder.name}-tuned", now=now).name,
            "pairs": teaching_pairs(session, target),
        }
        attempts = node.settings.fine_tuning.attempts
        queue.enqueue(session, TUNE, payload=payload, priority=_AFTER_ALL, attempts_allowed=attempts)


def _refuse_unable(model: Model, target: TunedTarget) -> None:
    model.manifest.check_reads_scans("fine-tuning")
    names = [one.name for one in model.manifest.targets]
    if missing := [one.name for one in targets_in(target) if one.name not in names]:
        raise InputRefused(
            f"the model {model.folder.name} has no {', '.join(missing)}, so it cannot be fine-tuned for"
            f" {target}; it has {', '.join(names)}"
        )


def teaching_pairs(session: Session, target: TunedTarget) -> list[int]:
    """Return the accepted pairs that show a target and whose images are here; refuse too few patients.

    A person of whom any scan is for testing teaches nothing, whichever scan it is.
    """
    ct, partner = aliased(StudyRow), aliased(StudyRow)
    rows = session.execute(
        select(PairRow.id, ScoreRow.partner, ScoreRow.score, ct.patient_id, ct.state, partner.state)
        .join(ScoreRow, ScoreRow.pair_id == PairRow.id)
        .join(ct, PairRow.ct_study_id == ct.id)
        .join(partner, PairRow.partner_study_id == partner.id)
        .order_by(PairRow.id)
    ).all()
    tested = {row.patient_id for row in rows if split_of(str(row.score["patient"])) == "test"}
    showing = [row for row in rows if row.partner == SHOWN_BY[target]]
    here = [row for row in showing if "purged" not in (row[4], row[5])]
    found = {row.id: row.patient_id for row in here if row.patient_id and row.patient_id not in tested}
    if (people := len(set(found.values()))) < LEAST_PAIRS:
        gone = len({row.id for row in showing} - {row.id for row in here})
        removed = f"; the images of {gone} further pairs have been removed" if gone else ""
        raise InputRefused(
            f"{people} patients who are not for testing have an accepted pair that shows {target};"
            f" fine-tuning needs {LEAST_PAIRS} or more{removed}. Recalibrate instead, or wait for more"
        )
    return list(found)


# ---- what has become of it


@dataclass(frozen=True)
class TuningStatus:
    """The fine-tuning that was asked for last."""

    state: Literal["none", "waiting", "running", "done", "refused"] = "none"
    target: str = ""
    author: str = ""
    since: str = ""  # UTC; when it was begun
    stage: str = ""  # what is being done, or was when it was interrupted
    step: int = 0  # of `steps`; 0 before the training has begun
    steps: int = 0
    model: str = ""  # the new model, once it is there
    patients: int = 0  # who taught it
    said: str = ""  # what came of it, or why nothing did


def tuning_status(session: Session, home: Path) -> TuningStatus:
    """Return what has become of the last fine-tuning."""
    last = select(TaskRow).where(TaskRow.kind == TUNE).order_by(TaskRow.id.desc()).limit(1)
    task = session.execute(last).scalar()
    if task is None:
        return TuningStatus()
    states: dict[str, Literal["waiting", "running", "done", "refused"]]
    states = {"waiting": "waiting", "leased": "running", "done": "done", "dead": "refused"}
    state, payload = states[task.state], task.payload
    progress = progress_in(tuning_folder(home, task.id)) if state in ("waiting", "running") else {}
    since = payload.get("since")
    return TuningStatus(
        state=state,
        target=str(payload["target"]),
        author=str(payload["author"]),
        since="" if since is None else f"{datetime.fromtimestamp(since, UTC):%Y-%m-%d %H:%M}",
        stage=str(progress.get("stage", "")),
        step=int(progress.get("step", 0)),
        steps=int(progress.get("steps", 0)),
        model=str(payload["name"]) if state == "done" else "",
        patients=int(payload.get("patients", 0)),
        said=task.error or str(payload.get("said", "")),
    )


def tuning_under_way(node: Node, session: Session) -> list[Path]:
    """Return the folders of fine-tunings that wait or run."""
    active = select(TaskRow.id).where(TaskRow.kind == TUNE, TaskRow.state.in_(("waiting", "leased")))
    return [tuning_folder(node.settings.home, number) for number in session.execute(active).scalars()]


def note_end(session: Session, task: TaskRow, *, now: float) -> None:
    """Append the event of a fine-tuning's end, by the author of the request."""
    payload = task.payload
    details = {"from": payload["from"], "target": payload["target"]}
    if task.state == "done":
        kind = "fine-tuned"
        details |= {name: payload[name] for name in ("patients", "said")} | {"model": payload["name"]}
    else:
        kind = "not fine-tuned"
        details["why"] = task.error
    events.append_event(session, kind, at=now, actor=str(payload["author"]), details=details)


def note_progress(folder: Path, stage: str, *, step: int = 0, steps: int = 0) -> None:
    """Say how far a fine-tuning is; the pages read it."""
    with atomic_file(folder / _PROGRESS) as temporary:
        temporary.write_text(json.dumps({"stage": stage, "step": step, "steps": steps}), encoding="utf-8")


def progress_in(folder: Path) -> dict[str, Any]:
    """Return how far a fine-tuning is; nothing where it has said nothing yet."""
    try:
        said = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
