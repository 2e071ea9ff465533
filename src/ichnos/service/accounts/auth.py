"""Who may come in: local users with argon2 hashes, browser sessions, API tokens, three roles.

Secrets are random; the database keeps only their SHA-256, so that a stolen database opens no door.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from pwdlib import PasswordHash
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from ichnos.errors import UsageError
from ichnos.service.store.tables import LoginRow, UserRow

Role = Literal["reader", "researcher", "admin"]
Scope = Literal["read", "act", "images", "admin"]
ROLES: tuple[Role, ...] = ("reader", "researcher", "admin")  # each may do what those before it may
SCOPES: dict[Scope, str] = {
    "read": "see studies, results and events",
    "act": "acknowledge, read again, send again",
    "images": "fetch and store images (DICOMweb)",
    "admin": "change destinations and models",
}
LEAST_PASSWORD = 10
_hasher = PasswordHash.recommended()
_NOBODY = _hasher.hash("no user has this password")  # verified for unknown names: same time either way


@dataclass(frozen=True)
class Visitor:
    """Somebody who is signed in."""

    name: str
    role: Role
    csrf: str = ""  # "" for an API token, which browsers never send by themselves
    scopes: frozenset[Scope] = frozenset(SCOPES)  # a token may hold fewer

    def may(self, role: Role) -> bool:
        """Tell whether the visitor's role includes another.

        >>> Visitor("ann", "researcher").may("reader"), Visitor("ann", "researcher").may("admin")
        (True, False)
        """
        return ROLES.index(self.role) >= ROLES.index(role)


def add_user(session: Session, name: str, password: str, role: Role) -> UserRow:
    """Add a user."""
    if not name.strip() or len(name) > 64:
        raise UsageError("a user needs a name of 1 to 64 characters")
    if session.execute(select(UserRow).where(UserRow.name == name)).scalar() is not None:
        raise UsageError(f"there is already a user called {name}")
    user = UserRow(name=name, password_hash=hash_of(password), role=role)
    session.add(user)
    session.flush()
    return user


def hash_of(password: str) -> str:
    """Return the argon2 hash of a password that is long enough."""
    if len(password) < LEAST_PASSWORD:
        raise UsageError(f"the password is too short; give at least {LEAST_PASSWORD} characters")
    return _hasher.hash(password)


def first_password(session: Session) -> str | None:
    """Create `admin` with a random password where nobody is registered yet; return the password once."""
    if session.execute(select(func.count()).select_from(UserRow)).scalar_one():
        return None
    password = secrets.token_urlsafe(12)
    add_user(session, "admin", password, "admin")
    return password


def sign_in(session: Session, name: str, password: str, *, now: float, hours: float) -> str | None:
    """Return the secret of a new session, or None for a wrong name or password."""
    user = session.execute(select(UserRow).where(UserRow.name == name, UserRow.active.is_(True))).scalar()
    known = user.password_hash if user else ""  # "" too for people whom an identity provider signs in
    right = _hasher.verify(password, known or _NOBODY)
    if user is None or not known or not right:
        return None
    return start_session(session, user, now=now, hours=hours)


def is_user(session: Session, name: str) -> bool:
    """Tell whether somebody is called so."""
    return session.execute(select(UserRow.id).where(UserRow.name == name)).scalar() is not None


def issue_token(
    session: Session,
    user: UserRow,
    *,
    label: str,
    now: float,
    days: float,
    scopes: Collection[Scope] = ("read", "act", "images"),
) -> str:
    """Return the secret of a new API token; it cannot be shown again."""
    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise UsageError(f"there is no scope {', '.join(unknown)}; give some of {', '.join(SCOPES)}")
    if not scopes:
        raise UsageError(f"a token needs a scope; give some of {', '.join(SCOPES)}")
    secret = secrets.token_urlsafe(32)
    ends = now + days * 86400
    row = LoginRow(user_id=user.id, label=label or "token", created_at=now, expires_at=ends)
    row.secret_hash, row.scopes = _digest(secret), " ".join(sorted(scopes))
    session.add(row)
    session.flush()
    return secret


def start_session(session: Session, user: UserRow, *, now: float, hours: float) -> str:
    """Return the secret of a new browser session of somebody who has proved who they are."""
    session.execute(delete(LoginRow).where(LoginRow.expires_at < now))
    secret = secrets.token_urlsafe(32)
    row = LoginRow(user_id=user.id, created_at=now, expires_at=now + hours * 3600)
    row.secret_hash, row.csrf = _digest(secret), secrets.token_urlsafe(24)
    session.add(row)
    session.flush()
    return secret


def visitor_of(session: Session, secret: str, *, now: float) -> Visitor | None:
    """Return who holds a secret; None when it is unknown or over."""
    row = session.execute(
        select(LoginRow, UserRow)
        .join(UserRow, LoginRow.user_id == UserRow.id)
        .where(LoginRow.secret_hash == _digest(secret), LoginRow.expires_at > now, UserRow.active.is_(True))
    ).first()
    if row is None:
        return None
    login, user = row
    held = login.scopes.split()
    scopes = frozenset(scope for scope in SCOPES if scope in held) if login.label else frozenset(SCOPES)
    return Visitor(user.name, role_called(user.role), login.csrf, scopes)


def sign_out(session: Session, secret: str) -> None:
    """End a session."""
    session.execute(delete(LoginRow).where(LoginRow.secret_hash == _digest(secret)))


def role_called(name: str) -> Role:
    """Return the role of this name, or say which there are.

    >>> role_called("reader")
    'reader'
    """
    for role in ROLES:
        if role == name:
            return role
    raise UsageError(f"there is no role {name}; give one of {', '.join(ROLES)}")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
