"""The node's evidence: scores from its tables, inputs from its readings, as `ichnos.audit` puts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ichnos.audit.lot import pairs_to_outline
from ichnos.audit.monitoring.duel import duel, duel_table
from ichnos.audit.monitoring.inputs import ReadInput
from ichnos.audit.monitoring.live import LiveEvidence, live_evidence
from ichnos.audit.score import Score, score_of
from ichnos.service.node import Node
from ichnos.service.partners.taught import untaught_scores
from ichnos.service.store.studies import INPUTS
from ichnos.service.store.tables import EventRow, PairRow, ScoreRow, StudyRow

_NUMBERS = ("ich_volume", "ivh_volume", "expansion_probability", "leukoaraiosis_volume")


@dataclass(frozen=True)
class NodeEvidence:
    """What the evidence page shows."""

    evidence: LiveEvidence
    pairs: dict[str, int]  # state -> pairs
    to_outline: tuple[OutlineTask, ...] = ()  # pairs of the lot that wait for a person
    left_out: int = 0  # patients whose pairs count nothing here, because they taught the champion


@dataclass(frozen=True)
class OutlineTask:
    """Two studies of a patient whose haematoma a person should outline."""

    ct_study: int
    followup_study: int


def scores_in(session: Session) -> list[Score]:
    """Return every score of the node in the order of its coming; a patient's exam of a kind counts once.

    A second follow-up makes a pair of its own with the same plain CT: the one that was judged first stays.
    """
    rows = session.execute(select(ScoreRow).order_by(ScoreRow.id)).scalars()
    first: dict[str, int] = {}
    found = []
    for row in rows:
        score = score_of(row.score, where=f"score {row.id}")
        if first.setdefault(score.pair, row.pair_id) == row.pair_id:
            found.append(score)
    return found


def outlines_to_draw(session: Session, scores: Sequence[Score]) -> list[OutlineTask]:
    """Return the studies of the lot whose haematoma nobody has outlined yet and whose images are here."""
    wanted = {score.pair for score in pairs_to_outline(scores)}
    found: dict[str, OutlineTask] = {}
    for row in _judged_rows(session):
        name = str(row.score["pair"])
        if name in wanted and name not in found and _here(session, row.pair):
            found[name] = OutlineTask(row.pair.ct_study_id, row.pair.partner_study_id)
    return list(found.values())


def _here(session: Session, pair: PairRow) -> bool:
    both = (session.get_one(StudyRow, study) for study in (pair.ct_study_id, pair.partner_study_id))
    return all(study.state == "ready" for study in both)


def pair_states(session: Session) -> dict[str, int]:
    """Return how many pairs are in each state."""
    rows = session.execute(select(PairRow.state, func.count()).group_by(PairRow.state))
    return {state: count for state, count in rows}


def node_evidence(node: Node, *, champion: str = "", challenger: str = "") -> NodeEvidence:
    """Return the evidence on the champion (default: the model with most scores), beside a challenger.

    The challenger is, unless named, another model that was judged on the same pairs. Who taught a model says
    nothing of it.
    """
    with node.database.snapshot() as session:
        scores, states = scores_in(session), pair_states(session)
        models = sorted({s.model for s in scores}, key=lambda model: -sum(s.model == model for s in scores))
        champion = champion or (models[0] if models else "")
        challenger = challenger or next((model for model in models if model != champion), "")
        judged = [score for score in scores if score.model == champion]
        own = untaught_scores(session, node.settings, judged, {champion})
        both = untaught_scores(session, node.settings, scores, {champion, challenger})
        inputs, everyone = _inputs(session), _everyone(session)
        to_outline = outlines_to_draw(session, own)
    evidence = live_evidence(own, inputs, everyone=everyone)
    if challenger:
        table = duel_table(duel(both, champion, challenger))
        evidence = replace(evidence, tables=(*evidence.tables, table))
    left_out = len({score.patient for score in judged} - {score.patient for score in own})
    return NodeEvidence(evidence, states, tuple(to_outline), left_out)


def _inputs(session: Session) -> list[ReadInput]:
    """Return every CT that was ever read here, in the order of first readings: events outlive a purge.

    All of them, because alarms promise something of all looks together: a past that moves breaks it.
    """
    wanted = select(EventRow.kind, EventRow.details).where(EventRow.kind.in_(("ready", "refused")))
    rows = session.execute(wanted.order_by(EventRow.id))
    return [ReadInput(kind == "refused", details[INPUTS]) for kind, details in rows if INPUTS in details]


def _everyone(session: Session) -> dict[str, dict[str, float]]:
    """Return of every CT that was read what may decide on a partner exam, by the name in its scores."""
    names = {row.pair.ct_study_id: row.score for row in _judged_rows(session)}
    found = {}
    for study in session.execute(select(StudyRow).where(StudyRow.state == "ready")).scalars():
        values = {
            n: float(study.summary[n]) for n in _NUMBERS if isinstance(study.summary.get(n), int | float)
        }
        score = names.get(study.id)
        found[str(score["patient"]) if score else f"study {study.id}"] = values
    return found


@dataclass(frozen=True)
class _JudgedRow:
    pair: PairRow
    score: dict[str, object]


def _judged_rows(session: Session) -> list[_JudgedRow]:
    joined = select(PairRow, ScoreRow.score).join(ScoreRow, ScoreRow.pair_id == PairRow.id)
    rows = session.execute(joined.order_by(ScoreRow.id))
    return [_JudgedRow(pair, score) for pair, score in rows]
