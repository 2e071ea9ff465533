"""Who judged a score: a person's outline stands beside what the judged model itself had read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
# What PostgreSQL calls a constraint without a name; SQLite keeps none, and is told the same.
_NAMES = {"uq": "%(table_name)s_%(column_0_N_name)s_key"}
_BEFORE = ("pair_id", "partner", "model", "quantity")
_NOW = (*_BEFORE, "judge")


def upgrade() -> None:
    """Add the judge; of a follow-up that was scored before it is not known, which counts as the model."""
    with op.batch_alter_table("score", naming_convention=_NAMES) as score:
        score.add_column(sa.Column("judge", sa.String(length=16), nullable=False, server_default="exam"))
        score.drop_constraint(_name(_BEFORE), type_="unique")
        score.create_unique_constraint(_name(_NOW), list(_NOW))
    op.execute("UPDATE score SET judge = 'model' WHERE partner = 'followup'")


def downgrade() -> None:
    """Remove the judge; where several judged, the first judgement stays."""
    op.execute(
        "DELETE FROM score WHERE id NOT IN"
        " (SELECT MIN(id) FROM score GROUP BY pair_id, partner, model, quantity)"
    )
    with op.batch_alter_table("score", naming_convention=_NAMES) as score:
        score.drop_constraint(_name(_NOW), type_="unique")
        score.create_unique_constraint(_name(_BEFORE), list(_BEFORE))
        score.drop_column("judge")


def _name(columns: tuple[str, ...]) -> str:
    return f"score_{'_'.join(columns)}_key"
