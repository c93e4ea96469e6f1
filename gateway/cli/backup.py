"""`telegram-gateway backup`: makes, lists, proves and puts back backups of sessions, database and journal."""

import click


@click.group("backup", help="Create, list, verify and restore backups of sessions, database and journal.")
def command() -> None:
    pass
