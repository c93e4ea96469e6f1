"""`telegram-gateway sandbox`: runs the loopback Telegram until it is told to stop."""

import asyncio
import signal
from pathlib import Path

import click

from gateway.errors import ConfigurationError
from gateway.logs import configure_logging
from gateway.sandbox.sandbox import Sandbox
from gateway.sandbox.scene import phone, populate


@click.command("sandbox", help="Run the loopback Telegram.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where clients connect to.")
@click.option("--port", type=click.IntRange(0, 65535), default=4430, show_default=True, help="0: any.")
@click.option("--control-port", type=click.IntRange(0, 65535), default=4431, show_default=True)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("sandbox-state"),
    show_default=True,
    help="Keeps the server's key and its clients' logins.",
)
@click.option("--accounts", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--channels", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--rate", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Changes a second."
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed repeats a run.")
def command(
    host: str,
    port: int,
    control_port: int,
    state_dir: Path,
    accounts: int,
    channels: int,
    rate: float,
    seed: int,
) -> None:
    configure_logging("INFO")  # on standard error: what is printed can be sourced
    try:
        sandbox = Sandbox(
            state_dir=state_dir.absolute(), host=host, port=port, control_port=control_port, seed=seed
        )
    except OSError as error:
        raise ConfigurationError(
            f"cannot use {state_dir} for the sandbox ({error.strerror}); choose another --state-dir"
        ) from error
    populate(sandbox.world, accounts=accounts, channels=channels)
    asyncio.run(_serve(sandbox, accounts, rate))


async def _serve(sandbox: Sandbox, accounts: int, rate: float) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with sandbox:
        click.echo(_welcome(sandbox, accounts))
        if rate:
            await sandbox.traffic.start(rate)
        await stopped.wait()


def _welcome(sandbox: Sandbox, accounts: int) -> str:
    phones = ", ".join(phone(number) for number in range(accounts))
    return "\n".join(
        (
            f"# Telegram of your own at {sandbox.host}:{sandbox.port}. Point a gateway at it:",
            f"export TELEGRAM_SERVER={sandbox.host}:{sandbox.port}",
            f"export TELEGRAM_SERVER_PUBLIC_KEY={sandbox.public_key_path}",
            "export TELEGRAM_API_ID=1",
            "export TELEGRAM_API_HASH=sandbox",
            f"# Log in as {phones} with code {sandbox.world.default_code}.",
            f"# Control: {sandbox.control_url} (GET / describes the world, POST /post and others change it)",
        )
    )
