"""Change who may come in: roles, passwords, switches, tokens. Every change is an event."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from ichnos.errors import UsageError
from ichnos.service.accounts.auth import Role, hash_of
from ichnos.service.store import events
from ichnos.service.store.tables import LoginRow, UserRow


@dataclass(frozen=True)
class TokenLine:
    """An API token as it may be shown: never its secret."""

    id: int
    label: str
    user: str
    scopes: str
    created_at: float
    expires_at: float


def all_users(session: Session) -> list[UserRow]:
    """Return every user, by name."""
    return list(session.execute(select(UserRow).order_by(UserRow.name)).scalars())


def user_called(session: Session, name: str) -> UserRow:
    """Return a user by name, or say that there is none."""
    user = session.execute(select(UserRow).where(UserRow.name == name)).scalar()
    if user is None:
        raise UsageError(f"there is no user called {name}")
    return user


def change_role(session: Session, name: str, role: Role, *, now: float, actor: str) -> None:
    """Give a user another role; the last admin stays one."""
    user = user_called(session, name)
    if role != "admin":
        _require_another_admin(session, user)
    user.role = role
    _note(session, name, f"role {role}", now, actor)


def switch_user(session: Session, name: str, *, active: bool, now: float, actor: str) -> None:
    """Let a user in, or lock them out; locking ends their sessions and tokens at once."""
    user = user_called(session, name)
    if not active:
        _require_another_admin(session, user)
        session.execute(delete(LoginRow).where(LoginRow.user_id == user.id))
    user.active = active
    _note(session, name, "enabled" if active else "disabled", now, actor)


def change_password(session: Session, name: str, password: str, *, now: float, actor: str) -> None:
    """Give a user another password; their browser sessions end, their tokens stay."""
    user = user_called(session, name)
    user.password_hash = hash_of(password)
    session.execute(delete(LoginRow).where(LoginRow.user_id == user.id, LoginRow.label == ""))
    _note(session, name, "new password", now, actor)


def tokens_of(session: Session, name: str = "") -> list[TokenLine]:
    """Return the API tokens of a user, or of everybody."""
    wanted = (
        select(LoginRow, UserRow.name)
        .join(UserRow, LoginRow.user_id == UserRow.id)
        .where(LoginRow.label != "")
        .order_by(LoginRow.id)
    )
    if name:
        wanted = wanted.where(UserRow.name == name)
    return [
        TokenLine(row.id, row.label, user, row.scopes, row.created_at, row.expires_at)
        for row, user in session.execute(wanted)
    ]


def revoke_token(session: Session, token_id: int, *, owner: str = "", now: float, actor: str) -> None:
    """End a token; with `owner`, only one of theirs."""
    token = next((one for one in tokens_of(session, owner) if one.id == token_id), None)
    if token is None:
        raise UsageError("there is no such token")
    session.execute(delete(LoginRow).where(LoginRow.id == token_id))
    _note(session, token.user, f"token {token.label} revoked", now, actor)


def _require_another_admin(session: Session, user: UserRow) -> None:
    others = select(func.count()).where(
        UserRow.role == "admin", UserRow.active.is_(True), UserRow.id != user.id
    )
    if user.role == "admin" and not session.execute(others).scalar_one():
        raise UsageError(f"{user.name} is the only admin; make somebody else one first")


def _note(session: Session, name: str, change: str, now: float, actor: str) -> None:
    details = {"name": name, "change": change}
    events.append_event(session, "user", at=now, actor=actor, details=details)
