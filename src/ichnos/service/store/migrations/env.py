"""Alembic's way in: it runs this file with the connection that `store.schema` hands over."""

from __future__ import annotations

from alembic import context

from ichnos.service.store.tables import NodeTables

_config = getattr(context, "config", None)  # there is none when the file is merely imported
if _config is not None:
    context.configure(
        connection=_config.attributes["connection"],
        target_metadata=NodeTables.metadata,
        render_as_batch=True,  # SQLite changes a table by copying it
    )
    context.run_migrations()
