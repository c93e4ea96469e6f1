"""The `telegram-gateway` command: one thin module per subcommand, imported only when it is called."""

import importlib
import sys

import click

from gateway import __version__
from gateway.errors import EXIT_CRASHED, GatewayError

# name -> (module in gateway.cli, help line). Modules are imported on use: `login` needs no RabbitMQ client.
_COMMANDS = {
    "run": ("run", "Run the daemon: every account, all enabled sinks."),
    "login": ("login", "Log an account in and write its session file."),
    "session": ("session", "List, check, import, export, back up and restore session files."),
    "status": ("status", "Show accounts, journal and sinks of the running daemon."),
    "gaps": ("gaps", "Show what is missing and why; have messages fetched again."),
    "backfill": ("backfill", "Fetch a chat's history."),
    "replay": ("replay", "Deliver a time range once more to one sink."),
    "quarantine": ("quarantine", "List, retry and drop records that a sink refused for good."),
    "dlq": ("dlq", "List, show, requeue and drop messages that consumers gave up on."),
    "media": ("media", "List the files of messages that could not be fetched, and retry them."),
    "lease": ("lease", "Show which host runs which account, and move accounts."),
    "backup": ("backup", "Create, list, verify and restore backups of sessions, database and journal."),
    "db": ("db", "Migrate the database schema, roll it back, show its state."),
    "migrate": ("migrate", "Move in from the old containerised stack, and back."),
    "api": ("api", "Serve the REST API."),
    "token": ("token", "Create, list and revoke the API's tokens."),
    "tp-capital": ("tp_capital", "Run TP Capital's worker, which stores trading signals."),
    "pgbouncer-exporter": ("pgbouncer_exporter", "Export the pooler's state to Prometheus."),
    "tail": ("tail", "Print messages as they arrive."),
    "doctor": ("doctor", "Check configuration, files, servers, versions and clocks."),
    "sandbox": ("sandbox", "Run the loopback Telegram."),
    "stack": ("stack", "Run PostgreSQL, PgBouncer, Redis and RabbitMQ from Debian's packages."),
    "demo": ("demo", "Watch sandbox, gateway and a consumer work, in the terminal."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(f"gateway.cli.{_COMMANDS[cmd_name][0]}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.command(cls=_LazyGroup)
@click.version_option(__version__, prog_name="telegram-gateway")
def cli() -> None:
    """Stays logged in to Telegram and hands every message to TimescaleDB, Redis and RabbitMQ."""


def main() -> None:
    """Runs the command line; exits 0, 1 (crashed) or 78 (needs a person), 2 on wrong usage."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except GatewayError as error:
        click.echo(f"telegram-gateway: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


__all__ = ["EXIT_CRASHED", "cli", "main"]
