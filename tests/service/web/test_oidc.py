"""Signing in through an identity provider, by code and PKCE: against oidc-provider-mock, a real provider."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from sqlalchemy import select

from ichnos.service.accounts import oidc
from ichnos.service.accounts.oidc import Handshake, Identity, SignInRefused
from ichnos.service.node import Node
from ichnos.service.settings import NodeSettings, OidcSettings
from ichnos.service.store.tables import UserRow
from ichnos.service.web.app import create_app
from service.web.visits import Browser, a_node, signed_in

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    provider_library = pytest.importorskip("oidc_provider_mock")
    from authlib.oauth2.rfc7636 import create_s256_code_challenge
    from werkzeug.serving import make_server

GROUPS = {"ann": ["radiology"], "bob": ["visitors"], "root": ["radiology", "it"]}
# The provider's own libraries warn about each other.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Provider:
    """An OpenID provider on loopback that also insists on PKCE."""

    def __init__(self) -> None:
        people = [
            provider_library.User(sub=sub, claims={"preferred_username": sub, "groups": groups})
            for sub, groups in GROUPS.items()
        ]
        app = provider_library.app(require_nonce=True, user_claims=people)
        app.before_request(self._insist)
        self.challenge, self.proved = "", 0
        self.server = make_server("127.0.0.1", 0, app, threaded=True)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def _insist(self) -> Any:
        from flask import request

        if request.path == "/oauth2/authorize":
            assert request.args["code_challenge_method"] == "S256"
            self.challenge = request.args["code_challenge"]
        if request.path == "/oauth2/token":
            if create_s256_code_challenge(request.form.get("code_verifier", "")) != self.challenge:
                return {"error": "invalid_grant"}, 400
            self.proved += 1
        return None

    def lets_in(self, address: str, person: str) -> str:
        """Sign a person in at the provider; return where it sends the browser."""
        answer = httpx2.post(address, data={"sub": person})
        return str(answer.headers["location"])

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    running = Provider()
    yield running
    running.close()


@pytest.fixture
def node(tmp_path: Path, provider: Provider) -> Iterator[Node]:
    secret = tmp_path / "secret"
    secret.write_text("between the node and its provider\n")
    settings = OidcSettings(
        issuer=provider.issuer,
        client_id="node",
        client_secret_file=secret,
        admin=("it",),
        reader=("radiology",),
    )
    opened = a_node(tmp_path / "node", oidc=settings)
    yield opened
    opened.database.close()


@pytest.fixture
def browser(node: Node) -> Browser:
    return Browser(create_app(node), follow_redirects=False)


def come_back(browser: Browser, address: str) -> Any:
    there = urlsplit(address)
    return browser.get(f"{there.path}?{there.query}")


def sign_in(browser: Browser, provider: Provider, person: str) -> Any:
    there = browser.get("/sign-in/provider").headers["location"]
    return come_back(browser, provider.lets_in(there, person))


def test_somebody_of_a_known_group_comes_in_with_its_role(
    node: Node, browser: Browser, provider: Provider
) -> None:
    assert "Sign in with your organisation" in browser.get("/sign-in").text
    page = sign_in(browser, provider, "ann")
    assert (page.status_code, 'http-equiv="refresh"' in page.text) == (200, True)
    assert "samesite=strict" in page.headers["set-cookie"].lower()
    assert browser.get("/").status_code == 200
    assert provider.proved
    sign_in(browser, provider, "ann")  # again: no second user
    sign_in(browser, provider, "root")
    with node.database.snapshot() as session:
        users = session.execute(select(UserRow).order_by(UserRow.id)).scalars().all()
        assert [(user.name, user.role) for user in users] == [("ann", "reader"), ("root", "admin")]
        assert all(user.subject.startswith(provider.issuer) and not user.password_hash for user in users)


def test_nobody_signs_in_with_an_empty_password_of_a_provider_user(
    browser: Browser, provider: Provider
) -> None:
    sign_in(browser, provider, "ann")
    assert browser.post("/sign-in", data={"name": "ann", "password": ""}).status_code == 401


def test_somebody_of_no_group_and_somebody_locked_out_stay_out(
    node: Node, browser: Browser, provider: Provider
) -> None:
    refused = sign_in(browser, provider, "bob")
    assert (refused.status_code, "in no group" in refused.text) == (403, True)
    sign_in(browser, provider, "ann")
    admin = signed_in(node, "admin", "chief")
    assert admin.submit("/users/switch", name="ann", active="false") == 303
    refused = sign_in(browser, provider, "ann")
    assert (refused.status_code, "locked out" in refused.text) == (403, True)


def test_an_answer_for_another_browser_or_a_used_one_is_refused(
    node: Node, browser: Browser, provider: Provider
) -> None:
    there = browser.get("/sign-in/provider").headers["location"]
    back = provider.lets_in(there, "ann")
    stranger = Browser(create_app(node), follow_redirects=False)
    assert come_back(stranger, back).status_code == 403  # it carries no handshake
    stranger.get("/sign-in/provider")
    assert come_back(stranger, back).status_code == 403  # or another one
    assert come_back(browser, back).status_code == 200
    assert come_back(browser, back).status_code == 403  # once


def test_a_wrong_verifier_and_a_wrong_nonce_open_nothing(node: Node, provider: Provider) -> None:
    settings, here = node.settings.oidc, "http://testserver/sign-in/return"
    for change in ({"verifier": "x" * 60}, {"nonce": "another"}):
        url, handshake = oidc.begin_sign_in(settings, here)
        wrong = Handshake(**{**vars(handshake), **change})
        with pytest.raises(SignInRefused, match="not valid"):
            oidc.end_sign_in(settings, wrong, here, provider.lets_in(url, "ann"))


def test_the_address_holds_what_the_standard_asks_for(node: Node) -> None:
    url, handshake = oidc.begin_sign_in(node.settings.oidc, "https://node.example/sign-in/return")
    asked = {key: values[0] for key, values in parse_qs(urlsplit(url).query).items()}
    assert asked["response_type"] == "code"
    assert asked["code_challenge"] == create_s256_code_challenge(handshake.verifier)
    assert (asked["state"], asked["nonce"]) == (handshake.state, handshake.nonce)
    assert handshake.verifier not in url
    assert oidc.handshake_from(handshake.as_text()) == handshake


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"state": 1}'])
def test_a_damaged_handshake_is_refused(text: str) -> None:
    with pytest.raises(SignInRefused, match="try again"):
        oidc.handshake_from(text)


def test_a_provider_that_is_silent_or_lies_about_its_name(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = OidcSettings(issuer="http://127.0.0.1:9", client_id="node", reader=("a",))
    with pytest.raises(SignInRefused, match="does not answer"):
        oidc.begin_sign_in(gone, "x")
    other = gone.model_copy(update={"issuer": "https://elsewhere.example"})
    true_answer = httpx2.get(f"{provider.issuer}/.well-known/openid-configuration")
    monkeypatch.setattr(oidc.httpx2, "get", lambda *_, **__: true_answer)
    with pytest.raises(SignInRefused, match="another name"):
        oidc.begin_sign_in(other, "x")


def test_a_name_that_a_local_user_has_is_not_taken_over(node: Node) -> None:
    signed_in(node, "admin", "ann")
    with node.database.transaction() as session:
        user = oidc.user_for(session, Identity("issuer 7", "ann", "reader"), now=0.0)
        assert user.name.startswith("ann ")
        assert oidc.user_for(session, Identity("issuer 7", "ann", "admin"), now=0.0) is user
        assert user.role == "admin"  # the provider's word of today


def test_without_a_provider_there_is_no_way_to_one(tmp_path: Path) -> None:
    node = a_node(tmp_path / "plain")
    browser = Browser(create_app(node), follow_redirects=False)
    assert browser.get("/sign-in/provider").status_code == 404
    assert browser.get("/sign-in/return").status_code == 404
    assert "organisation" not in browser.get("/sign-in").text
    node.database.close()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"client_id": ""}, "client_id"),
        ({"issuer": "http://id.example"}, "https"),
        ({"reader": []}, "name the groups"),
    ],
)
def test_settings_that_let_the_wrong_people_in_are_refused(changes: dict[str, Any], sentence: str) -> None:
    given = {"issuer": "https://id.example", "client_id": "node", "reader": ["a"]} | changes
    with pytest.raises(ValueError, match=sentence):
        NodeSettings.model_validate({"oidc": given})
