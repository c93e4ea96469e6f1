"""Backups of all that a gateway cannot fetch again: sessions, database, journal; each restored on trial."""
