"""The node's memory: tables, transactions, the queue and the event chain, on SQLite or PostgreSQL."""
