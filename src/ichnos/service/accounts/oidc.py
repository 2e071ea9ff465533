"""Sign in through an identity provider: OpenID Connect, authorization code with PKCE (RFC 7636).

The provider says who somebody is and in which groups; the settings say which role a group has.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import httpx2
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import OAuth2Client
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from sqlalchemy import select
from sqlalchemy.orm import Session

from ichnos.errors import IchnosError
from ichnos.service.accounts.auth import ROLES, Role
from ichnos.service.settings import OidcSettings
from ichnos.service.store import events
from ichnos.service.store.tables import UserRow

_TIMEOUT_S = 10.0
_SIGNATURES = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


class SignInRefused(IchnosError):
    """The identity provider, or our settings, do not let somebody in."""


@dataclass(frozen=True)
class Handshake:
    """What a browser carries to the provider and back; random, for one sign-in."""

    state: str
    nonce: str
    verifier: str  # PKCE: only who began the sign-in can end it

    def as_text(self) -> str:
        """Return the handshake for a cookie."""
        return json.dumps(asdict(self), separators=(",", ":"))


def handshake_from(text: str) -> Handshake:
    """Return the handshake of a cookie.

    >>> handshake_from(Handshake("s", "n", "v").as_text())
    Handshake(state='s', nonce='n', verifier='v')
    """
    try:
        values = json.loads(text)
        return Handshake(str(values["state"]), str(values["nonce"]), str(values["verifier"]))
    except (ValueError, KeyError, TypeError):
        raise SignInRefused("this sign-in took too long, or began in another browser; try again") from None


@dataclass(frozen=True)
class Identity:
    """Who somebody is, as the provider says."""

    subject: str  # issuer and the provider's own number of the person
    name: str
    role: Role


def begin_sign_in(settings: OidcSettings, redirect_uri: str) -> tuple[str, Handshake]:
    """Return the provider's address to go to, and what must come back."""
    handshake = Handshake(secrets.token_urlsafe(24), secrets.token_urlsafe(24), secrets.token_urlsafe(48))
    with _client(settings, redirect_uri) as client:
        url, _ = client.create_authorization_url(
            _endpoint(_discovered(settings), "authorization_endpoint"),
            state=handshake.state,
            nonce=handshake.nonce,
            code_verifier=handshake.verifier,
        )
    return str(url), handshake


def end_sign_in(settings: OidcSettings, handshake: Handshake, redirect_uri: str, answer_url: str) -> Identity:
    """Exchange the provider's code for an identity whose signature, audience and nonce are right."""
    answer = parse_qs(urlsplit(answer_url).query)
    if not secrets.compare_digest(answer.get("state", [""])[0].encode(), handshake.state.encode()):
        raise SignInRefused("this sign-in took too long, or began in another browser; try again")
    if "code" not in answer:
        raise SignInRefused("the identity provider did not let you in")
    there = _discovered(settings)
    try:
        with _client(settings, redirect_uri) as client:
            tokens = client.fetch_token(
                _endpoint(there, "token_endpoint"), code=answer["code"][0], code_verifier=handshake.verifier
            )
        claims = _verified(settings, there, str(tokens.get("id_token", "")), handshake.nonce)
    except (OAuthError, JoseError, httpx2.HTTPError, ValueError) as error:
        raise SignInRefused(f"the identity provider's answer is not valid ({type(error).__name__})") from None
    return identity_from_claims(settings, claims)


def identity_from_claims(settings: OidcSettings, claims: dict[str, Any]) -> Identity:
    """Return who the claims speak of; somebody in none of the groups is refused.

    >>> settings = OidcSettings(issuer="https://id.example", client_id="node", reader=("radiology",))
    >>> identity_from_claims(settings, {"sub": "7", "name": "Ann", "groups": ["radiology"]}).role
    'reader'
    """
    given = claims.get(settings.roles_claim) or []
    groups = {given} if isinstance(given, str) else {str(group) for group in given}
    by_role = {"admin": settings.admin, "researcher": settings.researcher, "reader": settings.reader}
    role = next((role for role in reversed(ROLES) if groups & set(by_role[role])), None)
    if role is None:
        raise SignInRefused("you are in no group that may sign in here; ask the node's admin")
    name = str(claims.get("preferred_username") or claims.get("email") or claims["sub"])
    return Identity(f"{settings.issuer} {claims['sub']}"[:255], name[:64], role)


def user_for(session: Session, identity: Identity, *, now: float) -> UserRow:
    """Return the user of an identity, made at the first sign-in; its role follows the provider."""
    user = session.execute(select(UserRow).where(UserRow.subject == identity.subject)).scalar()
    if user is not None and not user.active:
        raise SignInRefused("you are locked out of this node; ask its admin")
    if user is None:
        taken = session.execute(select(UserRow.id).where(UserRow.name == identity.name)).scalar()
        name = identity.name if taken is None else f"{identity.name[:50]} {secrets.token_hex(4)}"
        user = UserRow(name=name, password_hash="", subject=identity.subject, role=identity.role)
        session.add(user)
        details = {"name": name, "change": f"first sign-in as {identity.role}"}
        events.append_event(session, "user", at=now, actor="identity provider", details=details)
    user.role = identity.role
    session.flush()
    return user


def _client(settings: OidcSettings, redirect_uri: str) -> Any:
    file = settings.client_secret_file
    secret = file.read_text(encoding="utf-8").strip() if file else None
    return OAuth2Client(
        settings.client_id,
        secret,
        scope=settings.scope,
        redirect_uri=redirect_uri,
        code_challenge_method="S256",
        token_endpoint_auth_method="client_secret_basic" if secret else "none",
        timeout=_TIMEOUT_S,
    )


def _discovered(settings: OidcSettings) -> dict[str, Any]:
    """Ask the provider for its addresses (OpenID Connect Discovery, section 4)."""
    url = f"{settings.issuer.rstrip('/')}/.well-known/openid-configuration"
    try:
        answer = httpx2.get(url, timeout=_TIMEOUT_S).raise_for_status()
        there = cast(dict[str, Any], answer.json())
    except (httpx2.HTTPError, ValueError):
        raise SignInRefused("the identity provider does not answer; try again later") from None
    if str(there.get("issuer", "")).rstrip("/") != settings.issuer.rstrip("/"):
        raise SignInRefused("the identity provider calls itself by another name than oidc.issuer")
    return there


def _endpoint(there: dict[str, Any], name: str) -> str:
    if not there.get(name):
        raise SignInRefused(f"the identity provider names no {name}")
    return str(there[name])


def _verified(settings: OidcSettings, there: dict[str, Any], id_token: str, nonce: str) -> dict[str, Any]:
    keys = httpx2.get(_endpoint(there, "jwks_uri"), timeout=_TIMEOUT_S).raise_for_status().json()
    token = jwt.decode(id_token, KeySet.import_key_set(keys), algorithms=_SIGNATURES)
    registry = jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": there["issuer"]},
        aud={"essential": True, "value": settings.client_id},
        nonce={"essential": True, "value": nonce},
        exp={"essential": True},
        sub={"essential": True},
    )
    registry.validate(token.claims)
    return dict(token.claims)
