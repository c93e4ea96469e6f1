"""`telegram-gateway media`: the files of messages that could not be fetched; look, ask again."""

import dataclasses
import time

import click
import msgspec

from gateway.errors import ConfigurationError
from gateway.media.queue import MediaQueue
from gateway.settings import load_settings


@click.group("media", help="Files of messages that could not be fetched: list them, ask for them again.")
def command() -> None:
    pass


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_(as_json: bool) -> None:
    """Show what was given up, and why."""
    files = _queue().given_up()
    for file in files:
        if as_json:
            click.echo(msgspec.json.encode(dataclasses.asdict(file)))
            continue
        since = time.strftime("%F %T", time.localtime(file.queued_at))
        click.echo(
            f"{file.kind} of message {file.message_id} in chat {file.chat_key}, asked for {since} "
            f"by {file.account}: {file.state}, {file.reason}"
        )
    if not as_json:
        click.echo(f"{len(files)} given up" if files else "nothing was given up")


@command.command()
def retry() -> None:
    """Ask once more for what Telegram refused or did not answer; the running gateway sees to it."""
    click.echo(f"{_queue().retry()} to be asked for again")


def _queue() -> MediaQueue:
    path = load_settings().media_list_path
    if not path.exists():
        raise ConfigurationError(f"no file was ever asked for: {path} is absent; is TELEGRAM_MEDIA_DIR set?")
    return MediaQueue(path)
