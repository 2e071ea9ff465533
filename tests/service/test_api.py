"""The REST API: what each role may do, what each state allows, and that its description is whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from ichnos.service.accounts import auth
from ichnos.service.accounts.auth import Role
from ichnos.service.node import Node, open_node
from ichnos.service.settings import Destination, NodeSettings, SendingSettings
from ichnos.service.store.tables import DeliveryRow, EventRow, StudyRow, TaskRow
from ichnos.service.web.app import create_app

PACS = Destination(name="PACS", ae_title="PACS", host="127.0.0.1")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    sending = SendingSettings(destinations=(PACS,))
    opened = open_node(NodeSettings(home=tmp_path / "node", sending=sending))
    yield opened
    opened.database.close()


def add_study(node: Node, uid: str, state: str, **columns: object) -> int:
    with node.database.transaction() as session:
        study = StudyRow(
            uid=uid,
            state=state,
            patient_id="P1",
            patient_name="DOE^JANE",
            first_image_at=0.0,
            last_image_at=0.0,
            summary={},
            **columns,
        )
        session.add(study)
        session.flush()
        return int(study.id)


def client(node: Node, role: Role) -> TestClient:
    with node.database.transaction() as session:
        user = auth.add_user(session, f"a {role}", "correct horse battery", role)
        token = auth.issue_token(session, user, label="test", now=node.clock(), days=1)
    return TestClient(create_app(node), headers={"Authorization": f"Bearer {token}"})


def test_the_worklist_is_ordered_by_urgency_and_filtered(node: Node) -> None:
    calm = add_study(node, "1.1", "ready", urgency=0.0)
    seen = add_study(node, "1.2", "ready", urgency=9.0, acknowledged_at=1.0)
    refused = add_study(node, "1.3", "refused", urgency=1.0, reason="no head CT")
    add_study(node, "1.4", "superseded", urgency=99.0)
    add_study(node, "1.5", "kept")
    api = client(node, "reader")
    assert [row["id"] for row in api.get("/api/v1/studies").json()] == [refused, calm, seen]
    assert [row["id"] for row in api.get("/api/v1/studies?open_only=true").json()] == [refused, calm]
    (row,) = api.get("/api/v1/studies?state=refused").json()
    assert (row["finding"], row["patient_name"]) == ("no head CT", "DOE JANE")
    page = api.get("/api/v1/studies?limit=1&offset=2")
    assert ([row["id"] for row in page.json()], page.headers["x-total-count"]) == ([seen], "3")
    assert api.get("/api/v1/studies?offset=3").json() == []


@pytest.mark.parametrize("query", ["state=READY", "limit=0", "limit=1001", "offset=-1", "state=a%27--"])
def test_wrong_queries_are_refused(node: Node, query: str) -> None:
    assert client(node, "reader").get(f"/api/v1/studies?{query}").status_code == 422


@pytest.mark.parametrize(
    ("role", "path", "code"),
    [
        ("reader", "acknowledge", 200),
        ("reader", "read", 403),
        ("reader", "send/PACS", 403),
        ("researcher", "read", 200),
        ("researcher", "send/PACS", 200),
        ("admin", "read", 200),
    ],
)
def test_each_role_may_do_what_it_may(node: Node, role: Role, path: str, code: int) -> None:
    study = add_study(node, "1.1", "ready")
    assert client(node, role).post(f"/api/v1/studies/{study}/{path}").status_code == code


@pytest.mark.parametrize("state", ["received", "queued", "reading"])
def test_a_study_on_its_way_is_neither_read_again_nor_sent(node: Node, state: str) -> None:
    study = add_study(node, "1.1", state)
    api = client(node, "researcher")
    for action in ("read", "send/PACS"):
        answer = api.post(f"/api/v1/studies/{study}/{action}")
        assert answer.status_code == 409
        assert state in answer.json()["detail"]
    with node.database.snapshot() as session:
        assert session.get(TaskRow, 1) is None


def test_reading_and_sending_again_leave_a_task_and_an_event(node: Node) -> None:
    study = add_study(node, "1.1", "ready")
    api = client(node, "researcher")
    assert api.post(f"/api/v1/studies/{study}/send/PACS").json() == {"state": "waiting"}
    assert api.post(f"/api/v1/studies/{study}/read").json() == {"state": "queued"}
    with node.database.snapshot() as session:
        assert [session.get_one(TaskRow, k).kind for k in (1, 2)] == ["send", "read"]
        assert session.get_one(DeliveryRow, 1).destination == "PACS"
        assert session.get_one(EventRow, 2).actor == "a researcher"


@pytest.mark.parametrize(
    "path",
    ["studies/7", "studies/7/reading.json", "studies/7/read", "studies/7/send/PACS", "studies/1/send/X"],
)
def test_what_is_not_there_is_said(node: Node, path: str) -> None:
    add_study(node, "1.1", "ready")
    api = client(node, "researcher")
    ask = api.post if path.endswith(("/read", "PACS", "/X")) else api.get
    answer = ask(f"/api/v1/{path}")
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("there is no such")


def test_a_study_without_a_reading_has_none_to_show(node: Node) -> None:
    study = add_study(node, "1.1", "queued")
    answer = client(node, "reader").get(f"/api/v1/studies/{study}/reading.json")
    assert (answer.status_code, answer.json()["detail"]) == (404, "this study has no reading yet")


def test_details_hold_deliveries_timeline_and_priors(node: Node) -> None:
    prior = add_study(node, "1.0", "ready")
    study = add_study(node, "1.1", "ready", read_at=1.0)
    api = client(node, "researcher")
    api.post(f"/api/v1/studies/{study}/send/PACS")
    shown = api.get(f"/api/v1/studies/{study}").json()
    assert [line["destination"] for line in shown["deliveries"]] == ["PACS"]
    assert [step["kind"] for step in shown["timeline"]] == ["to send"]
    assert [row["id"] for row in shown["priors"]] == [prior]
    assert shown["row"]["finding"] == "no haemorrhage found"


def test_the_description_names_every_route_and_no_page(node: Node) -> None:
    paths = TestClient(create_app(node)).get("/openapi.json").json()["paths"]
    assert "/api/v1/studies/{study_id}" in paths
    assert "/healthz" in paths
    assert not any(path.startswith(("/sign-in", "/static", "/dicom-web")) for path in paths)


def test_pages_carry_the_policy_and_the_banner(node: Node) -> None:
    page = TestClient(create_app(node)).get("/sign-in")
    assert "Research use; not for diagnosis" in page.text
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "http://" not in page.text.replace("http://www.w3.org", "")
