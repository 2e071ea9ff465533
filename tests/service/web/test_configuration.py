"""Pages that change the node: who may open them, what they change, and what they refuse with a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification
from sqlalchemy import select

from ichnos.errors import InputRefused
from ichnos.service import installed
from ichnos.service.accounts import auth, people
from ichnos.service.node import Node
from ichnos.service.remote import destinations
from ichnos.service.settings import Destination, SendingSettings
from ichnos.service.store.tables import EventRow, LoginRow, OptionRow, UserRow
from ichnos.service.upkeep.retention import keep_days_of
from service.web.visits import Browser, a_node, add_study, signed_in

LISTED = Destination(name="PACS", ae_title="PACS", host="127.0.0.1", port=9)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    opened = a_node(tmp_path / "node", sending=SendingSettings(destinations=(LISTED,)))
    yield opened
    opened.database.close()


@pytest.fixture
def admin(node: Node) -> Browser:
    return signed_in(node, "admin", "root")


def enabled(node: Node) -> list[str]:
    with node.database.snapshot() as session:
        return [one.name for one in destinations.enabled_destinations(session, node.settings)]


@pytest.mark.parametrize("path", ["/destinations", "/models", "/models/x", "/users", "/retention"])
def test_only_admins_open_the_configuration(node: Node, path: str) -> None:
    researcher = signed_in(node, "researcher")
    assert researcher.get(path).status_code == 403
    assert path not in researcher.get("/").text
    assert researcher.submit(path.removesuffix("/x"), name="x", role="admin", password="long enough 1") == 403


def test_a_destination_is_added_switched_and_removed(node: Node, admin: Browser) -> None:
    new = {"name": "research", "kind": "stow", "url": "https://archive.example/dicom-web"}
    assert admin.submit("/destinations", **new) == 303
    assert enabled(node) == ["PACS", "research"]
    for name in ("PACS", "research"):
        assert admin.submit("/destinations/switch", name=name, enabled="false") == 303
    assert enabled(node) == []
    assert admin.submit("/destinations/switch", name="PACS", enabled="true") == 303
    assert admin.submit("/destinations/remove", name="research") == 303
    assert enabled(node) == ["PACS"]
    assert "research" not in admin.get("/destinations").text
    with node.database.snapshot() as session:
        changes = [e.details["change"] for e in session.execute(select(EventRow)).scalars()]
    assert changes == ["added", "disabled", "disabled", "enabled", "removed"]


def test_nobody_is_shown_the_password_of_a_destination(node: Node, admin: Browser) -> None:
    secret = {"name": "research", "kind": "stow", "url": "https://ann:geheim@archive.example/dicom-web"}
    added = admin.post("/api/v1/destinations", json=secret, headers={"X-CSRF-Token": admin.csrf})
    assert added.status_code == 201
    shown = (added.text, signed_in(node, "reader").get("/api/v1/destinations").text)
    for text in (*shown, admin.get("/destinations").text):
        assert "https://archive.example/dicom-web" in text
        assert "geheim" not in text
    with node.database.snapshot() as session:
        there = destinations.find_destination(session, node.settings, "research")
    assert there is not None
    assert there.url == secret["url"]  # what is sent with has it


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": "PACS", "ae_title": "A", "host": "h"}, "already a destination called PACS"),
        ({"name": "x"}, "needs host and ae_title"),
        ({"name": "x", "kind": "stow", "url": "ftp://x"}, "http(s)"),
        ({"name": "x", "ae_title": "A", "host": "h", "port": "99999"}, "port"),
        ({"name": "x", "kind": "fax"}, "kind"),
    ],
)
def test_wrong_destinations_are_named(
    node: Node, admin: Browser, fields: dict[str, str], sentence: str
) -> None:
    answer = admin.post("/destinations", data={"csrf": admin.csrf, **fields})
    assert answer.status_code == 400
    assert sentence in answer.text
    assert enabled(node) == ["PACS"]


def test_what_the_file_lists_is_removed_there(node: Node, admin: Browser) -> None:
    answer = admin.post("/destinations/remove", data={"csrf": admin.csrf, "name": "PACS"})
    assert answer.status_code == 400
    assert "listed in the settings file" in answer.text


def test_a_destination_is_tested_by_c_echo(node: Node, admin: Browser) -> None:
    entity = AE(ae_title="ECHO")
    entity.add_supported_context(Verification)
    server = entity.start_server(("127.0.0.1", 0), block=False)
    port = server.socket.getsockname()[1]
    try:
        admin.submit("/destinations", name="echo", ae_title="ECHO", host="127.0.0.1", port=port)
        said = admin.post("/destinations/test", data={"csrf": admin.csrf, "name": "echo"})
    finally:
        server.shutdown()
    assert (said.status_code, "echo answers." in said.text) == (200, True)


# pynetdicom leaves the socket of a refused connection to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_silent_destination_is_said_to_be_silent(admin: Browser) -> None:
    said = admin.post("/destinations/test", data={"csrf": admin.csrf, "name": "PACS"})
    assert said.status_code == 400
    assert "127.0.0.1:9 does not answer" in said.text


def test_the_model_that_reads_is_chosen_and_an_unknown_one_refused(
    node: Node, admin: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = next(iter(installed.shipped_models()))
    monkeypatch.setattr(installed, "shipped_models", lambda: (shipped,))
    assert "reads new studies" in admin.get("/models").text
    assert admin.submit("/models", name="nothing") == 400
    assert admin.submit("/models", name=shipped.name) == 303
    with node.database.snapshot() as session:
        assert installed.folder_of_model(session, node.settings) == str(shipped)
    card = admin.get(f"/models/{shipped.name}")
    assert "What it never saw" in card.text
    assert admin.get("/models/nothing").status_code == 404


def test_a_chosen_model_that_is_gone_is_named_and_another_is_chosen(node: Node, admin: Browser) -> None:
    with node.database.transaction() as session:
        session.add(OptionRow(name=installed.READING_MODEL, value="site-20260101"))
    study = add_study(node)
    pages = [admin.get(path) for path in ("/models", "/evidence", f"/studies/{study}", "/api/v1/models")]
    assert [page.status_code for page in pages] == [200] * 4
    sentence = "there is no model called site-20260101; the installed models are "
    assert sentence in pages[0].text
    assert [line["problem"].startswith(sentence) for line in pages[3].json() if line["reads"]] == [True]
    with node.database.snapshot() as session, pytest.raises(InputRefused, match=sentence):
        installed.folder_of_model(session, node.settings)  # so readings fail with that sentence
    shipped = installed.shipped_models()[0].name
    assert admin.submit("/models", name=shipped) == 303
    assert sentence not in admin.get("/models").text


def test_a_broken_model_folder_is_shown_and_cannot_read(node: Node, admin: Browser) -> None:
    folder = node.settings.home / "models" / "broken"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text("{}")
    assert "broken" in admin.get("/models").text
    answer = admin.post("/models", data={"csrf": admin.csrf, "name": "broken"})
    assert (answer.status_code, "cannot be used" in answer.text) == (400, True)


def test_users_are_added_changed_and_locked_out(node: Node, admin: Browser) -> None:
    assert admin.submit("/users", name="ann", password="correct horse", role="reader") == 303
    assert admin.submit("/users/role", name="ann", role="researcher") == 303
    with node.database.transaction() as session:
        ann = people.user_called(session, "ann")
        secret = auth.start_session(session, ann, now=node.clock(), hours=1)
        token = auth.issue_token(session, ann, label="t", now=node.clock(), days=1)
        visitor = auth.visitor_of(session, secret, now=node.clock())
        assert visitor is not None
        assert visitor.role == "researcher"
    assert admin.submit("/users/switch", name="ann", active="false") == 303
    assert admin.submit("/users/switch", name="ann", active="true") == 303
    with node.database.snapshot() as session:
        for held in (secret, token):  # locking out ended both for good
            assert auth.visitor_of(session, held, now=node.clock()) is None


def test_a_new_password_ends_sessions_and_keeps_tokens(node: Node, admin: Browser) -> None:
    with node.database.transaction() as session:
        ann = auth.add_user(session, "ann", "correct horse", "reader")
        secret = auth.start_session(session, ann, now=node.clock(), hours=1)
        token = auth.issue_token(session, ann, label="t", now=node.clock(), days=1)
    assert admin.submit("/users/password", name="ann", password="another long one") == 303
    with node.database.transaction() as session:
        assert auth.visitor_of(session, secret, now=node.clock()) is None
        assert auth.visitor_of(session, token, now=node.clock()) is not None
        assert auth.sign_in(session, "ann", "another long one", now=node.clock(), hours=1)


@pytest.mark.parametrize(
    ("path", "fields", "sentence"),
    [
        ("/users", {"name": "root", "password": "long enough 1", "role": "reader"}, "already a user"),
        ("/users", {"name": "ann", "password": "short", "role": "reader"}, "too short"),
        ("/users", {"name": "ann", "password": "long enough 1", "role": "king"}, "no role king"),
        ("/users/role", {"name": "root", "role": "reader"}, "the only admin"),
        ("/users/switch", {"name": "root", "active": "false"}, "the only admin"),
        ("/users/role", {"name": "nobody", "role": "reader"}, "no user called nobody"),
    ],
)
def test_wrong_changes_of_users_are_named(
    node: Node, admin: Browser, path: str, fields: dict[str, str], sentence: str
) -> None:
    answer = admin.post(path, data={"csrf": admin.csrf, **fields})
    assert (answer.status_code, sentence in answer.text) == (400, True)
    with node.database.snapshot() as session:
        assert [(u.name, u.role, u.active) for u in session.execute(select(UserRow)).scalars()] == [
            ("root", "admin", True)
        ]


def test_a_token_is_shown_once_and_opens_what_its_scopes_name(node: Node) -> None:
    ann = signed_in(node, "researcher", "ann")
    page = ann.post("/tokens", data={"csrf": ann.csrf, "label": "export", "scopes": ["read"], "days": "2"})
    secret = page.text.split('class="secret">')[1].split("<")[0]
    assert secret not in ann.get("/tokens").text
    assert "export" in ann.get("/tokens").text
    program = Browser(ann.app, headers={"Authorization": f"Bearer {secret}"}, follow_redirects=False)
    assert program.get("/api/v1/studies").status_code == 200
    assert program.get("/dicom-web/studies").status_code == 403
    refusal = program.post("/api/v1/studies/1/acknowledge")
    assert (refusal.status_code, refusal.json()["detail"]) == (403, "this token lacks the scope act")
    assert program.get("/").headers["location"] == "/sign-in"  # tokens open no page
    with node.database.snapshot() as session:
        number = session.execute(select(LoginRow.id).where(LoginRow.label == "export")).scalar_one()
    assert ann.submit("/tokens/revoke", token=number) == 303
    assert program.get("/api/v1/studies").status_code == 401


def test_tokens_of_others_are_an_admins_business(node: Node, admin: Browser) -> None:
    ann = signed_in(node, "reader", "ann")
    assert ann.submit("/tokens", label="mine", scopes=["read", "admin"]) == 400  # beyond her role
    assert ann.submit("/tokens", label="mine", scopes=[]) == 400
    assert ann.submit("/tokens", label="mine", scopes=["read"]) == 200
    bob = signed_in(node, "reader", "bob")
    assert "mine" not in bob.get("/tokens").text
    assert bob.submit("/tokens/revoke", token=3) == 400
    assert "mine" in admin.get("/tokens").text
    (line,) = people_tokens(node)
    assert admin.submit("/tokens/revoke", token=line) == 303
    assert people_tokens(node) == []


def people_tokens(node: Node) -> list[int]:
    with node.database.snapshot() as session:
        return [token.id for token in people.tokens_of(session)]


def test_forms_without_the_sessions_token_change_nothing(node: Node, admin: Browser) -> None:
    admin.csrf = "guessed"
    for path in ("/destinations", "/models", "/users", "/tokens", "/users/role", "/destinations/switch"):
        fields = {
            "name": "PACS",
            "role": "admin",
            "password": "long enough 1",
            "label": "x",
            "enabled": "false",
        }
        assert admin.submit(path, **fields) == 403
    assert enabled(node) == ["PACS"]


def test_retention_is_changed_in_the_page_and_wins_over_the_file(node: Node, admin: Browser) -> None:
    assert keep_days_of(node) == 0
    assert admin.submit("/retention", days="30") == 303
    assert keep_days_of(node) == 30
    assert "30 days after" in admin.get("/retention").text
    assert admin.submit("/retention", days="-1") == 422


def test_a_study_is_held_and_removed_by_an_admin_alone(node: Node, admin: Browser) -> None:
    study = add_study(node)
    researcher = signed_in(node, "researcher")
    assert researcher.submit(f"/studies/{study}/remove") == 403
    assert admin.submit(f"/studies/{study}/hold", held="true") == 303
    assert f"Study {study}</a>" in admin.get("/retention").text
    assert admin.submit(f"/studies/{study}/remove") == 400
    assert admin.submit(f"/studies/{study}/hold", held="false") == 303
    assert admin.submit(f"/studies/{study}/remove") == 303
    assert "DOE" not in admin.get("/").text.upper()


def test_exports_are_a_researchers_and_say_what_is_wrong(node: Node) -> None:
    assert signed_in(node, "reader").get("/exports").status_code == 403
    researcher = signed_in(node, "researcher")
    for numbers, sentence in (
        ("three", "no number of a study"),
        ("7", "study 7: there is no such study that has been read"),
    ):
        answer = researcher.post("/exports", data={"csrf": researcher.csrf, "studies": numbers})
        assert (answer.status_code, sentence in answer.text) == (400, True)
    assert "There is none." in researcher.get("/exports").text
