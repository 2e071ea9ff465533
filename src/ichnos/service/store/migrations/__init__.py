"""Versions of the node's tables, forwards and back (Alembic)."""
