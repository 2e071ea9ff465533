"""An admin has the model that reads recalibrated: another model, which reads nothing until it is chosen."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
from fastapi.testclient import TestClient
from sqlalchemy import select

from builders.audited import volume_score
from builders.tiny_model import tiny_model
from ichnos.audit.adaptation import identity_of
from ichnos.errors import InputRefused
from ichnos.models import load_model
from ichnos.prognosis.site import load_site_recalibration
from ichnos.service.accounts import auth
from ichnos.service.installed import folder_of_model
from ichnos.service.node import Node
from ichnos.service.partners.recalibrating import recalibrate_here
from ichnos.service.settings import NodeSettings, ReadingSettings
from ichnos.service.store.database import Database
from ichnos.service.store.tables import EventRow, PairRow, ScoreRow, StudyRow
from ichnos.service.web.app import create_app

DAY = "20260320"
NOON = 1_774_008_000.0  # 20 March 2026


@pytest.fixture
def node(database: Database, tmp_path: Path) -> Node:
    model = tiny_model(tmp_path / "tiny")
    settings = NodeSettings(home=tmp_path / "node", reading=ReadingSettings(model=str(model.folder)))
    settings.home.mkdir()
    return Node(settings, database, clock=lambda: NOON)


def judge(node: Node, count: int) -> None:
    """Keep scores of the model that reads, as so many pairs give them: it had read too little each time."""
    identity = identity_of(load_model(node.settings.reading.model))
    with node.database.transaction() as session:
        studies = [StudyRow(uid=f"1.{k}", first_image_at=0.0, last_image_at=0.0) for k in (1, 2)]
        session.add_all(studies)
        session.flush()
        pair = PairRow(ct_study_id=studies[0].id, partner_study_id=studies[1].id, found_at=0.0)
        session.add(pair)
        session.flush()
        for k in range(count):
            score = replace(volume_score(k, 20, 24 + k % 5), model=identity)
            row = {"partner": f"p{k}", "model": identity, "quantity": score.quantity, "at": 1.0}
            session.add(ScoreRow(pair_id=pair.id, score=asdict(score), **row))


def test_the_new_model_lies_among_the_node_s_and_the_old_one_reads_on(node: Node) -> None:
    judge(node, 60)
    made = recalibrate_here(node, actor="ann")
    assert made.folder == node.settings.home / "models" / f"tiny-{DAY}"
    site = load_site_recalibration(made.folder)
    assert site is not None
    assert site.intervals["followup_volume"].middle > 0
    with node.database.snapshot() as session:
        assert folder_of_model(session, node.settings) == node.settings.reading.model
        (event,) = session.execute(select(EventRow).where(EventRow.kind == "recalibrated")).scalars()
    assert (event.actor, event.details["model"]) == ("ann", f"tiny-{DAY}")
    assert recalibrate_here(node, actor="ann").folder.name == f"tiny-{DAY}-2"


def test_without_pairs_nothing_is_made(node: Node) -> None:
    with pytest.raises(InputRefused, match="no score is of the model tiny"):
        recalibrate_here(node, actor="ann")
    assert list((node.settings.home / "models").iterdir()) == []


def test_page_and_api_are_for_admins(node: Node) -> None:
    judge(node, 60)
    client = TestClient(create_app(node), base_url="http://node")
    with node.database.transaction() as session:
        for name, role in (("ann", "admin"), ("bob", "reader")):
            auth.add_user(session, name, "correct horse battery", role)
    for name, status in (("bob", 400), ("ann", 303)):
        client.post("/sign-in", data={"name": name, "password": "correct horse battery"})
        text = client.get("/evidence").text
        assert ("Recalibrate" in text) is (name == "ann")
        csrf = text.split('name="csrf" value="')[1].split('"')[0]
        answer = client.post("/evidence/recalibrate", data={"csrf": csrf}, follow_redirects=False)
        assert answer.status_code == status
        client.post("/sign-out", data={"csrf": csrf})
    assert answer.headers["location"] == f"/models/tiny-{DAY}"
