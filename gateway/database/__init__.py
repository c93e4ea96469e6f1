"""The database schema: the numbered files of `sql/`, what runs them, and how to connect."""

from gateway.database.connection import connect, connect_direct
from gateway.database.migrations import Migration, Migrator, load_migrations, require_schema

__all__ = ["Migration", "Migrator", "connect", "connect_direct", "load_migrations", "require_schema"]
