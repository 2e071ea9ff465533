"""Who may come in, and who may not."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from ichnos.errors import UsageError
from ichnos.service.accounts import auth
from ichnos.service.accounts.auth import Visitor
from ichnos.service.accounts.rate_limit import RateLimit
from ichnos.service.store.database import Database
from ichnos.service.store.tables import LoginRow, UserRow

PASSWORD = "correct horse battery"


def test_the_first_password_is_shown_once(database: Database) -> None:
    with database.transaction() as session:
        password = auth.first_password(session)
    assert password is not None
    with database.transaction() as session:
        assert auth.first_password(session) is None
        assert auth.sign_in(session, "admin", password, now=0, hours=1) is not None


def test_the_database_holds_no_secret(database: Database) -> None:
    with database.transaction() as session:
        user = auth.add_user(session, "ann", PASSWORD, "reader")
        token = auth.issue_token(session, user, label="t", now=0, days=1)
        secret = auth.sign_in(session, "ann", PASSWORD, now=0, hours=1)
    with database.snapshot() as session:
        stored = str([(row.name, row.password_hash) for row in session.execute(select(UserRow)).scalars()])
        stored += str([row.secret_hash for row in session.execute(select(LoginRow)).scalars()])
    assert not any(secret_text in stored for secret_text in (PASSWORD, token, str(secret)))
    assert "$argon2" in stored


def test_a_session_ends_by_time_by_signing_out_and_with_its_user(database: Database) -> None:
    with database.transaction() as session:
        auth.add_user(session, "ann", PASSWORD, "researcher")
        first, second, third = (
            str(auth.sign_in(session, "ann", PASSWORD, now=0, hours=hours)) for hours in (1, 9, 9)
        )
    with database.transaction() as session:
        visitor = auth.visitor_of(session, first, now=3599)
        assert visitor is not None
        assert (visitor.name, visitor.role) == ("ann", "researcher")
        assert visitor.csrf
        assert auth.visitor_of(session, first, now=3601) is None
        auth.sign_out(session, second)
        assert auth.visitor_of(session, second, now=1) is None
        session.execute(select(UserRow)).scalar_one().active = False
        session.flush()
        assert auth.visitor_of(session, third, now=1) is None
        assert auth.sign_in(session, "ann", PASSWORD, now=2, hours=1) is None


def test_expired_logins_are_swept_at_the_next_sign_in(database: Database) -> None:
    with database.transaction() as session:
        auth.add_user(session, "ann", PASSWORD, "reader")
        auth.sign_in(session, "ann", PASSWORD, now=0, hours=1)
        auth.sign_in(session, "ann", PASSWORD, now=9999, hours=1)
        assert len(session.execute(select(LoginRow)).scalars().all()) == 1


@pytest.mark.parametrize(
    ("name", "password", "sentence"),
    [("", PASSWORD, "needs a name"), ("x" * 65, PASSWORD, "needs a name"), ("ann", "short", "too short")],
)
def test_users_that_cannot_be(database: Database, name: str, password: str, sentence: str) -> None:
    with database.transaction() as session, pytest.raises(UsageError, match=sentence):
        auth.add_user(session, name, password, "reader")


def test_a_name_is_taken_once(database: Database) -> None:
    with database.transaction() as session:
        auth.add_user(session, "ann", PASSWORD, "reader")
        with pytest.raises(UsageError, match="already a user called ann"):
            auth.add_user(session, "ann", PASSWORD, "admin")


def test_roles_include_those_below_them() -> None:
    table = {role: [Visitor("a", role).may(other) for other in auth.ROLES] for role in auth.ROLES}
    assert table == {
        "reader": [True, False, False],
        "researcher": [True, True, False],
        "admin": [True, True, True],
    }


def test_the_limit_forgets_after_its_window_and_keeps_keys_apart() -> None:
    limit = RateLimit(failures=3, window_s=10)
    for at in (0.0, 1.0, 2.0):
        limit.note("ann", at)
    assert limit.blocks("ann", 3.0)
    assert not limit.blocks("bob", 3.0)
    assert not limit.blocks("ann", 10.5)  # the first failure is out of the window
