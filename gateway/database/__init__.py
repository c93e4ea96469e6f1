"""The database schema: the numbered files of `sql/`, what runs them, and how to connect."""

from gateway.database.aggregates import refresh_aggregates
from gateway.database.connection import connect, connect_direct
from gateway.database.events import chats_named, read_events
from gateway.database.migrations import Migration, Migrator, load_migrations, require_schema

__all__ = [
    "Migration",
    "Migrator",
    "chats_named",
    "connect",
    "connect_direct",
    "load_migrations",
    "read_events",
    "refresh_aggregates",
    "require_schema",
]
