"""`telegram-gateway stack`: the gateway's servers on this machine, and the secrets they read."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from gateway.errors import ConfigurationError
from gateway.localstack import LocalStack
from gateway.localstack.record import Record, environment_file, write_environment
from gateway.localstack.stack import CONFIG_DIR
from gateway.server_secrets import write_secrets


def _default_directory() -> Path:
    return Path(tempfile.gettempdir()) / f"telegram-gateway-stack-{os.geteuid()}"


_directory_option = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=_default_directory,
    show_default="one per user in the temporary directory",
    help="Where the stack lives; made by up, removed by down.",
)


@click.group()
def command() -> None:
    """Run PostgreSQL, PgBouncer, Redis and RabbitMQ from Debian's packages, on free ports."""


@command.command()
@_directory_option
@click.option("--detach", is_flag=True, help="Return once every server answers; `down` stops them.")
def up(directory: Path, detach: bool) -> None:
    """Start every server, print the environment file to source, run until interrupted."""
    record = Record.read(directory)
    if record is not None:
        if record.keeper.alive():
            raise ConfigurationError(
                f"a stack runs in {directory} already; "
                f"source {environment_file(directory)}, or stop it with: telegram-gateway stack down"
            )
        # Left by one that was killed: what it held is worth nothing.
        asyncio.run(record.stop())
        shutil.rmtree(directory)
    if detach:
        _detach(directory)
    else:
        # Both end the stack in order, also while it starts and when a shell told us to ignore interrupts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_keep(directory))


@command.command()
@_directory_option
def down(directory: Path) -> None:
    """Stop what up started in the directory, and remove it."""
    record = Record.read(directory)
    if record is None:
        click.echo(f"no stack in {directory}")
        return
    asyncio.run(record.stop())
    # The keeper removes the directory itself, unless it was killed.
    if directory.exists():
        shutil.rmtree(directory)


@command.command()
@_directory_option
def status(directory: Path) -> None:
    """Show what runs, and on which ports; exit 1 when nothing does."""
    record = Record.read(directory)
    if record is None or not record.keeper.alive():
        click.echo(f"no stack runs in {directory}")
        sys.exit(1)
    for name, server in record.servers.items():
        state = "runs" if server.alive() else "is gone"
        click.echo(f"{name:14} port {server.port:<6} pid {server.pid:<8} {state}")
    click.echo(f"source {environment_file(directory)}")


@command.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def secrets(directory: Path) -> None:
    """Write the password files that the shipped configuration reads; existing passwords are kept."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_secrets(directory, CONFIG_DIR)
    click.echo(f"wrote {', '.join(sorted(file.name for file in directory.iterdir()))} to {directory}")


async def _keep(directory: Path) -> None:
    stack = LocalStack(directory)
    try:
        Record.of(stack).write(stack.directory)
        async with stack:
            Record.of(stack).write(stack.directory)
            click.echo(write_environment(stack))
            await asyncio.Event().wait()
    finally:
        await asyncio.to_thread(shutil.rmtree, stack.directory)


def _detach(directory: Path) -> None:
    """Starts ourselves again as the stack's keeper, which prints one line when every server answers."""
    keeper = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "gateway", "stack", "up", "--directory", str(directory.absolute())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert keeper.stdout is not None
    line = keeper.stdout.readline()
    if not line:
        _, complaint = keeper.communicate()
        click.echo(complaint, nl=False, err=True)
        sys.exit(keeper.returncode)
    click.echo(line, nl=False)
