"""Pairs of a plain CT and the exam that judges it, and their scores."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "pair",
        sa.Column("id", _ID, nullable=False),
        sa.Column("ct_study_id", _ID, nullable=False),
        sa.Column("partner_study_id", _ID, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("found_at", sa.Float(), nullable=False),
        sa.Column("judged_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["ct_study_id"], ["study.id"]),
        sa.ForeignKeyConstraint(["partner_study_id"], ["study.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("ct_study_id", "partner_study_id"),
    )
    op.create_index("ix_pair_ct_study_id", "pair", ["ct_study_id"])
    op.create_index("ix_pair_partner_study_id", "pair", ["partner_study_id"])
    op.create_table(
        "score",
        sa.Column("id", _ID, nullable=False),
        sa.Column("pair_id", _ID, nullable=False),
        sa.Column("partner", sa.String(length=16), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("quantity", sa.String(length=64), nullable=False),
        sa.Column("score", sa.JSON(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["pair_id"], ["pair.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("pair_id", "partner", "model", "quantity"),
    )
    op.create_index("ix_score_pair_id", "score", ["pair_id"])
    op.create_index("ix_score_model", "score", ["model"])


def downgrade() -> None:
    """Remove them."""
    op.drop_table("score")
    op.drop_table("pair")
