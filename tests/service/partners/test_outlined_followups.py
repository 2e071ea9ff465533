"""The node asks for outlines by lot, adds what people say beside the model's own, and counts a pair once."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
from sqlalchemy import text

from builders.audited import MODEL, chance_score, volume_score
from ichnos.audit.lot import in_lot
from ichnos.audit.score import Score
from ichnos.service.node import Node
from ichnos.service.partners.evidence import OutlineTask, node_evidence, scores_in
from ichnos.service.partners.judge import add_scores
from ichnos.service.settings import NodeSettings
from ichnos.service.store.database import Database
from ichnos.service.store.schema import migrate, migrate_back
from ichnos.service.store.tables import PairRow, ScoreRow, StudyRow
from service.web.visits import signed_in

IN_LOT, NOT_IN_LOT = (
    [k for k in range(60) if in_lot(f"p{k}-followup") is wanted][:4] for wanted in (True, False)
)


@pytest.fixture
def node(database: Database, tmp_path: Path) -> Node:
    settings = NodeSettings(home=tmp_path / "node")
    settings.home.mkdir()
    return Node(settings, database, clock=lambda: 1_000.0)


def add_pair(node: Node, number: int, *scores: Score, state: str = "ready") -> tuple[int, int]:
    """Add a pair of studies with its scores; return the numbers of the studies."""
    with node.database.transaction() as session:
        times = {"first_image_at": 0.0, "last_image_at": 0.0}
        both = [StudyRow(uid=f"1.{number}.{k}", state=state, **times) for k in (1, 2)]
        session.add_all(both)
        session.flush()
        pair = PairRow(ct_study_id=both[0].id, partner_study_id=both[1].id, found_at=0.0)
        session.add(pair)
        session.flush()
        add_scores(session, pair.id, scores, now=1.0)
        return both[0].id, both[1].id


def by_model(number: int, truth: float = 21) -> tuple[Score, Score]:
    return volume_score(number, 20, truth, judge="model"), chance_score(number, 0.3, False, judge="model")


def test_pairs_of_the_lot_are_asked_for_until_people_have_outlined_them(node: Node) -> None:
    waiting, outlined, purged, _ = IN_LOT
    studies = add_pair(node, waiting, *by_model(waiting))
    add_pair(node, outlined, *by_model(outlined), volume_score(outlined, 20, 30, judge="person"))
    add_pair(node, purged, *by_model(purged), state="purged")  # its images are gone
    add_pair(node, NOT_IN_LOT[0], *by_model(NOT_IN_LOT[0]))
    found = node_evidence(node)
    assert found.to_outline == (OutlineTask(*studies),)
    counts = next(table for table in found.evidence.tables if table.name == "outlines")
    assert counts.rows == ((4, 3, 1, 0),)


def test_page_and_api_name_the_studies(node: Node) -> None:
    ct, followup = add_pair(node, IN_LOT[0], *by_model(IN_LOT[0]))
    visitor = signed_in(node, "reader")
    page = visitor.get("/evidence").text
    assert f'href="/studies/{ct}"' in page
    assert f'href="/studies/{followup}"' in page
    assert visitor.get("/api/v1/evidence").json()["to_outline"] == [
        {"ct_study": ct, "followup_study": followup}
    ]


def test_a_judgement_counts_once_however_often_it_comes(node: Node) -> None:
    own, person = by_model(1), volume_score(1, 20, 30, judge="person")
    add_pair(node, 1, *own)
    with node.database.transaction() as session:
        assert add_scores(session, 1, [*by_model(1, 99), person], now=2.0) == 1
        assert add_scores(session, 1, [person], now=3.0) == 0
        assert scores_in(session) == [*own, person]


def test_a_second_follow_up_of_the_same_ct_counts_no_patient_twice(node: Node) -> None:
    add_pair(node, 1, *by_model(1))
    add_pair(node, 2, *by_model(1, 40))  # the same plain CT, another follow-up
    with node.database.snapshot() as session:
        assert [score.truth for score in scores_in(session)] == [21, 0]


# ---- tables of 0.1.0


def old_row(session: object, partner: str, quantity: str) -> None:
    score = asdict(replace(volume_score(1, 20, 22), partner=partner, quantity=quantity))
    del score["judge"]
    columns = {"pair_id": 1, "partner": partner, "model": MODEL, "quantity": quantity, "at": 1.0}
    session.add(ScoreRow(score=score, judge="old", **columns))  # type: ignore[attr-defined]


def test_scores_kept_before_there_were_judges_are_migrated_and_back(node: Node) -> None:
    add_pair(node, 1)
    with node.database.transaction() as session:
        old_row(session, "followup", "followup_volume")
        old_row(session, "flair", "leukoaraiosis_volume")
    with node.database.engine.begin() as connection:
        migrate_back(connection, "0003")
        migrate(connection)
    with node.database.transaction() as session:
        rows = session.execute(text("SELECT partner, judge FROM score ORDER BY id")).all()
        assert [tuple(row) for row in rows] == [("followup", "model"), ("flair", "exam")]
        assert [score.judge for score in scores_in(session)] == ["model", "exam"]
        assert add_scores(session, 1, [volume_score(1, 20, 30, judge="person")], now=2.0) == 1
    with node.database.engine.begin() as connection:
        migrate_back(connection, "0003")  # one judgement of each quantity stays: the first
        assert connection.execute(text("SELECT COUNT(*) FROM score")).scalar() == 2
        migrate(connection)
