"""Sign in and out of the pages."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote, unquote

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from ichnos.service.accounts import auth, oidc
from ichnos.service.node import Node
from ichnos.service.store import events
from ichnos.service.web.access import COOKIE, FormVisitor, NodeOfRequest
from ichnos.service.web.rendering import fragment

SESSIONS = APIRouter(include_in_schema=False)
_HANDSHAKE = "ichnos_sign_in"
_HANDSHAKE_S = 600  # for the person to sign in at the provider


@SESSIONS.get("/sign-in")
def sign_in_page(node: NodeOfRequest) -> HTMLResponse:
    """Show the sign-in form."""
    return _form(node)


@SESSIONS.post("/sign-in")
def post_sign_in(
    request: Request,
    node: NodeOfRequest,
    name: Annotated[str, Form(max_length=64)] = "",
    password: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    """Start a session, or say that name or password is wrong."""
    limit, now = request.app.state.sign_in_limit, node.clock()
    keys = (f"name {name}", f"address {request.client.host if request.client else ''}")
    if any(limit.blocks(key, now) for key in keys):
        return _form(node, "Too many failed attempts. Try again in five minutes.", 429)
    with node.database.transaction() as session:
        secret = auth.sign_in(session, name, password, now=now, hours=node.settings.web.session_hours)
        actor = name if auth.is_user(session, name) else "unknown"  # what was typed may be a password
        events.append_event(session, "signed in" if secret else "sign-in failed", at=now, actor=actor)
    if secret is None:
        for key in keys:
            limit.note(key, now)
        return _form(node, "Name or password is wrong.", 401)
    answer = RedirectResponse("/", status_code=303)
    keep_session(node, answer, secret)
    return answer


@SESSIONS.post("/sign-out")
def post_sign_out(request: Request, node: NodeOfRequest, visitor: FormVisitor) -> RedirectResponse:
    """End the session."""
    with node.database.transaction() as session:
        auth.sign_out(session, request.cookies.get(COOKIE, ""))
        events.append_event(session, "signed out", at=node.clock(), actor=visitor.name)
    answer = RedirectResponse("/sign-in", status_code=303)
    answer.delete_cookie(COOKIE)
    return answer


@SESSIONS.get("/sign-in/provider")
def go_to_provider(request: Request, node: NodeOfRequest) -> Response:
    """Lead the browser to the identity provider."""
    if not node.settings.oidc.issuer:
        raise HTTPException(404, "this node has no identity provider")
    url, handshake = oidc.begin_sign_in(node.settings.oidc, _redirect_uri(request, node))
    answer = RedirectResponse(url, status_code=303)
    answer.set_cookie(
        _HANDSHAKE, quote(handshake.as_text()), max_age=_HANDSHAKE_S, httponly=True, samesite="lax",
        secure=node.settings.web.secure_cookies, path="/sign-in",
    )  # fmt: skip
    return answer


@SESSIONS.get("/sign-in/return")
def come_from_provider(request: Request, node: NodeOfRequest) -> Response:
    """Take the identity provider's answer and start a session."""
    if not node.settings.oidc.issuer:
        raise HTTPException(404, "this node has no identity provider")
    try:
        handshake = oidc.handshake_from(unquote(request.cookies.get(_HANDSHAKE, "")))
        here = _redirect_uri(request, node)
        identity = oidc.end_sign_in(node.settings.oidc, handshake, here, str(request.url))
        with node.database.transaction() as session:
            user = oidc.user_for(session, identity, now=node.clock())
            hours = node.settings.web.session_hours
            secret = auth.start_session(session, user, now=node.clock(), hours=hours)
            events.append_event(session, "signed in", at=node.clock(), actor=user.name)
    except oidc.SignInRefused as refusal:
        sentence = str(refusal)
        return _form(node, f"{sentence[0].upper()}{sentence[1:]}.", 403)
    # A redirect from another site would not carry the strict session cookie; a page of our own does.
    answer = fragment("signed_in.html.j2")
    keep_session(node, answer, secret)
    answer.delete_cookie(_HANDSHAKE, path="/sign-in")
    return answer


def _redirect_uri(request: Request, node: Node) -> str:
    base = node.settings.web.public_url or str(request.base_url)
    return f"{base.rstrip('/')}/sign-in/return"


def keep_session(node: Node, answer: Response, secret: str) -> None:
    """Give the browser the secret of its session: for this site alone, out of reach of scripts."""
    web = node.settings.web
    answer.set_cookie(
        COOKIE, secret, max_age=int(web.session_hours * 3600), httponly=True, samesite="strict",
        secure=web.secure_cookies,
    )  # fmt: skip


def _form(node: Node, message: str = "", status: int = 200) -> HTMLResponse:
    provider = node.settings.oidc.label if node.settings.oidc.issuer else ""
    answer = fragment("sign_in.html.j2", message=message, provider=provider)
    answer.status_code = status
    return answer
