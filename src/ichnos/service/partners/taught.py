"""Who taught a model of the node: left out of the evidence on it, whichever scan of theirs is judged."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from ichnos.audit.adaptation import TRAINING, identity_of, taught_by
from ichnos.audit.score import Score
from ichnos.errors import InputRefused
from ichnos.models import load_model
from ichnos.service.installed import installed_models
from ichnos.service.settings import NodeSettings
from ichnos.service.store.tables import PairRow, ScoreRow, StudyRow


def untaught_scores(
    session: Session, settings: NodeSettings, scores: Sequence[Score], models: Collection[str]
) -> list[Score]:
    """Return the scores of patients who taught none of these models, named by what scores carry.

    A patient has one id per plain CT. Which ids are the same person is known while a study of each is here.
    """
    taught = _teachers(session, settings, models)
    if not taught:
        return list(scores)
    persons = _persons(session)
    people = {persons[name] for name in taught if persons.get(name)}
    return [s for s in scores if s.patient not in taught and persons.get(s.patient) not in people]


def _teachers(session: Session, settings: NodeSettings, models: Collection[str]) -> frozenset[str]:
    """Return who taught these models, of those that are installed."""
    found: set[str] = set()
    for one in installed_models(session, settings):
        if one.problem or not (one.folder / TRAINING).is_file():
            continue
        try:
            identity = identity_of(load_model(one.folder))
        except InputRefused:
            continue  # damaged since: it reads nothing, so no score is its own
        if identity in models:
            found |= taught_by(one.folder)
    return frozenset(found)


def _persons(session: Session) -> dict[str, str]:
    """Return the PatientID of every id that scores carry; "" once the study has been removed."""
    joined = (
        select(ScoreRow.score, StudyRow.patient_id)
        .join(PairRow, ScoreRow.pair_id == PairRow.id)
        .join(StudyRow, PairRow.ct_study_id == StudyRow.id)
    )
    return {str(score["patient"]): person for score, person in session.execute(joined.order_by(ScoreRow.id))}
