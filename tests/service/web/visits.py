"""A node with studies, and browsers of people who are signed in, for the tests of its pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fastapi.testclient import TestClient

from builders.audited import chance_score, volume_score
from ichnos.audit.score import Score
from ichnos.service.accounts import auth
from ichnos.service.accounts.auth import Role
from ichnos.service.node import Node, open_node
from ichnos.service.settings import NodeSettings
from ichnos.service.store.tables import ScoreRow, StudyRow
from ichnos.service.web.app import create_app

PASSWORD = "correct horse battery"


class Browser(TestClient):
    """A browser that follows no redirect and sends the CSRF token of its session with each form."""

    csrf = ""

    def submit(self, path: str, **fields: object) -> int:
        """Send a form; return the status code."""
        return self.post(path, data={"csrf": self.csrf, **fields}).status_code


def a_node(home: Path, **settings: object) -> Node:
    """Open a node of its own."""
    return open_node(NodeSettings(home=home, **settings))  # type: ignore[arg-type]


def signed_in(node: Node, role: Role, name: str = "") -> Browser:
    """Return the browser of a new user, signed in without the slow hash of a password."""
    name = name or f"a {role}"
    with node.database.transaction() as session:
        user = auth.UserRow(name=name, password_hash="", role=role)
        session.add(user)
        session.flush()
        secret = auth.start_session(session, user, now=node.clock(), hours=1)
        visitor = auth.visitor_of(session, secret, now=node.clock())
    browser = Browser(create_app(node), follow_redirects=False, cookies={"ichnos_session": secret})
    assert visitor is not None
    browser.csrf = visitor.csrf
    return browser


def add_study(node: Node, uid: str = "1.2.840.1", state: str = "ready", **columns: object) -> int:
    """Add a study; return its number."""
    given = {"patient_id": "P1", "patient_name": "DOE^JANE", "summary": {}} | columns
    with node.database.transaction() as session:
        study = StudyRow(uid=uid, state=state, first_image_at=0.0, last_image_at=0.0, **given)
        session.add(study)
        session.flush()
        return int(study.id)


def add_judgements(node: Node, *, pair_id: int) -> None:
    """Add what thirty partner exams said of two models, all under one pair."""
    rng = np.random.default_rng(0)
    with node.database.transaction() as session:
        for k in range(30):
            own = volume_score(k, 20, 20 + float(rng.normal(0, 4)))
            new = Score(**{**own.__dict__, "model": "new"})
            for score in (own, new, chance_score(k, 0.3, k % 3 == 0)):
                plain = score.__dict__ | {"pair": f"{score.pair}{k}"}
                columns = {"partner": f"p{k}", "model": score.model, "quantity": score.quantity, "at": 1}
                session.add(ScoreRow(pair_id=pair_id, score=plain, **columns))
