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


def test_the_api_writes_a_new_model_for_admins_alone(node: Node) -> None:
    judge(node, 60)
    api = TestClient(create_app(node), base_url="http://node")
    assert api.post("/api/v1/evidence/recalibration").status_code == 401
    for role, status in (("reader", 403), ("researcher", 403), ("admin", 201)):
        headers = {"Authorization": f"Bearer {token_of(node, role)}"}
        answer = api.post("/api/v1/evidence/recalibration", headers=headers)
        assert answer.status_code == status
    assert answer.json()["model"] == f"tiny-{DAY}"
    assert 40 < answer.json()["patients"] < 60  # test patients teach nothing
    assert "80 % intervals hold 80 % on average" in answer.json()["said"]
    assert [one.name for one in (node.settings.home / "models").iterdir()] == [f"tiny-{DAY}"]


def test_the_api_says_why_nothing_can_be_recalibrated(node: Node) -> None:
    judge(node, 10)
    headers = {"Authorization": f"Bearer {token_of(node, 'admin')}"}
    answer = TestClient(create_app(node)).post("/api/v1/evidence/recalibration", headers=headers)
    assert answer.status_code == 400
    assert "20 pairs of a quantity are needed" in answer.json()["detail"]


def test_the_error_of_an_exam_is_a_setting_of_the_node(node: Node) -> None:
    judge(node, 60)
    partners = node.settings.partners.model_copy(
        update={"exam_sd": {"followup_volume": 0.02, "leukoaraiosis_volume": 0.1}}
    )  # of leukoaraiosis no pair has come yet
    knowing = replace(node, settings=node.settings.model_copy(update={"partners": partners}))
    high = []
    for one in (node, knowing):
        site = load_site_recalibration(recalibrate_here(one, actor="ann").folder)
        assert site is not None
        high.append(site.intervals["followup_volume"].high)
    assert high[1] < high[0]


def token_of(node: Node, role: auth.Role) -> str:
    with node.database.transaction() as session:
        user = auth.add_user(session, f"a {role}", "correct horse battery", role)
        return auth.issue_token(
            session, user, label="test", now=node.clock(), days=1, scopes=tuple(auth.SCOPES)
        )
