"""Backups of all that a gateway cannot fetch again: sessions, database and journal, proved by restoring them."""
