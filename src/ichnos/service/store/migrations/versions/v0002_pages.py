"""What the pages change: destinations, settings, scopes of tokens, people of an identity provider."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TOKENS_UNTIL_NOW = "read act images"  # tokens issued before there were scopes


def upgrade() -> None:
    """Add two tables and three columns."""
    op.create_table(
        "destination",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "setting",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    with op.batch_alter_table("login") as login:
        scopes = sa.Column("scopes", sa.String(length=128), nullable=False, server_default=_TOKENS_UNTIL_NOW)
        login.add_column(scopes)
        login.add_column(sa.Column("created_at", sa.Float(), nullable=False, server_default="0"))
    with op.batch_alter_table("person") as person:
        person.add_column(sa.Column("subject", sa.String(length=255), nullable=False, server_default=""))
        person.create_index("ix_person_subject", ["subject"])


def downgrade() -> None:
    """Remove them."""
    with op.batch_alter_table("person") as person:
        person.drop_index("ix_person_subject")
        person.drop_column("subject")
    with op.batch_alter_table("login") as login:
        login.drop_column("created_at")
        login.drop_column("scopes")
    op.drop_table("setting")
    op.drop_table("destination")
