"""Upkeep by REST: who may export, hold and remove, and what each answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from builders.stored_node import open_stored, read_all, receive
from ichnos.service.accounts import auth
from ichnos.service.accounts.auth import Role
from ichnos.service.node import Node
from ichnos.service.store.tables import StudyRow
from ichnos.service.web.app import create_app
from service.test_receiver import slices


def client(node: Node, role: Role) -> TestClient:
    with node.database.transaction() as session:
        user = auth.add_user(session, f"a {role}", "correct horse battery", role)
        token = auth.issue_token(session, user, label="t", now=node.clock(), days=1, scopes=auth.SCOPES)
    return TestClient(create_app(node), headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    opened = open_stored(tmp_path)
    receive(opened, slices(2))
    read_all(opened)
    yield opened
    opened.database.close()


@pytest.mark.parametrize(
    ("role", "codes"),
    [("reader", [403] * 5), ("researcher", [200, 403, 403, 403, 403]), ("admin", [200] * 5)],
)
def test_each_role_may_do_what_it_may(node: Node, role: Role, codes: list[int]) -> None:
    api = client(node, role)
    answers = [
        api.post("/api/v1/exports", json={}),
        api.put("/api/v1/studies/1/hold"),
        api.request("DELETE", "/api/v1/studies/1/hold"),
        api.get("/api/v1/audit"),
        api.delete("/api/v1/studies/1"),
    ]
    got = [answer.status_code for answer in answers]
    # the made reading is a refusal: there is nothing to export, and the answer says so
    assert [200 if code == 409 else code for code in got[:1]] + got[1:] == codes


def test_a_held_study_is_removed_after_the_hold_only(node: Node) -> None:
    api = client(node, "admin")
    api.put("/api/v1/studies/1/hold")
    refused = api.delete("/api/v1/studies/1")
    assert (refused.status_code, "it is held" in refused.json()["detail"]) == (409, True)
    api.request("DELETE", "/api/v1/studies/1/hold")
    assert api.delete("/api/v1/studies/1").json() == {"state": "purged"}
    assert api.delete("/api/v1/studies/1").status_code == 404
    with node.database.snapshot() as session:
        assert session.get_one(StudyRow, 1).state == "purged"
    assert "DICOM Study Deleted" in api.get("/api/v1/audit").text


def test_wrong_requests_are_refused(node: Node) -> None:
    api = client(node, "admin")
    assert api.put("/api/v1/studies/9/hold").status_code == 404
    assert api.post("/api/v1/exports", json={"studies": [9]}).status_code == 409
    assert api.post("/api/v1/exports", json={"centre": "a/b"}).status_code == 422
