"""Who may come in: local users with argon2 hashes, browser sessions, API tokens, three roles.

Secrets are random; the database keeps only their SHA-256, so that a stolen database opens no door.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Literal

from pwdlib import PasswordHash
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from ichnos.errors import UsageError
from ichnos.service.store.tables import LoginRow, UserRow

Role = Literal["reader", "researcher", "admin"]
ROLES: tuple[Role, ...] = ("reader", "researcher", "admin")  # each may do what those before it may
LEAST_PASSWORD = 10
_hasher = PasswordHash.recommended()
_NOBODY = _hasher.hash("no user has this password")  # verified for unknown names: same time either way


@dataclass(frozen=True)
class Visitor:
    """Somebody who is signed in."""

    name: str
    role: Role
    csrf: str = ""  # "" for an API token, which browsers never send by themselves

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
    if len(password) < LEAST_PASSWORD:
        raise UsageError(f"the password is too short; give at least {LEAST_PASSWORD} characters")
    if session.execute(select(UserRow).where(UserRow.name == name)).scalar() is not None:
        raise UsageError(f"there is already a user called {name}")
    user = UserRow(name=name, password_hash=_hasher.hash(password), role=role)
    session.add(user)
    session.flush()
    return user


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
    right = _hasher.verify(password, user.password_hash if user else _NOBODY)
    if user is None or not right:
        return None
    session.execute(delete(LoginRow).where(LoginRow.expires_at < now))
    return _issue(session, user, label="", expires_at=now + hours * 3600)


def issue_token(session: Session, user: UserRow, *, label: str, now: float, days: float) -> str:
    """Return the secret of a new API token; it cannot be shown again."""
    return _issue(session, user, label=label or "token", expires_at=now + days * 86400)


def _issue(session: Session, user: UserRow, *, label: str, expires_at: float) -> str:
    secret = secrets.token_urlsafe(32)
    csrf = "" if label else secrets.token_urlsafe(24)
    session.add(
        LoginRow(secret_hash=_digest(secret), user_id=user.id, label=label, csrf=csrf, expires_at=expires_at)
    )
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
    return Visitor(user.name, _role(user.role), login.csrf)


def sign_out(session: Session, secret: str) -> None:
    """End a session."""
    session.execute(delete(LoginRow).where(LoginRow.secret_hash == _digest(secret)))


def _role(name: str) -> Role:
    return next(role for role in ROLES if role == name)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


@dataclass(eq=False)
class RateLimit:
    """Counts failed sign-ins per name and per address in a sliding window.

    >>> limit = RateLimit(failures=2, window_s=60)
    >>> limit.note("ann", 0), limit.note("ann", 1), limit.blocks("ann", 2), limit.blocks("ann", 100)
    (None, None, True, False)
    """

    failures: int = 8
    window_s: float = 300.0
    _times: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))

    def note(self, key: str, now: float) -> None:
        """Count one failure.

        >>> limit = RateLimit(failures=1)
        >>> limit.note("ann", 0.0)
        >>> limit.blocks("ann", 1.0), limit.blocks("bob", 1.0)
        (True, False)
        """
        self._times[key].append(now)

    def blocks(self, key: str, now: float) -> bool:
        """Tell whether a name or an address must wait.

        >>> RateLimit(failures=1).blocks("ann", 0.0)
        False
        """
        times = self._times[key]
        while times and times[0] < now - self.window_s:
            times.popleft()
        if not times:
            del self._times[key]
        return len(times) >= self.failures
