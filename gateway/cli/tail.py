"""`telegram-gateway tail`: prints messages as they reach the journal, whatever state the sinks are in."""

import time

import click
from rich.console import Console
from rich.text import Text

from gateway.daemon import JOURNAL_FILE
from gateway.event import Event
from gateway.journal import open_reader
from gateway.settings import load_settings

POLL_SECONDS = 0.2  # the journal belongs to the daemon's process, which cannot wake this one
PAGE = 500
_STYLES = {"message.new": "green", "message.edited": "yellow", "message.deleted": "red"}


@click.command(name="tail")
@click.option("--chat", help="Only this chat: its id, or @name.")
@click.option("--last", default=0, show_default=True, help="Begin with this many messages already there.")
def command(chat: str | None, last: int) -> None:
    """Print messages as they arrive, until interrupted."""
    path = load_settings().state_dir / JOURNAL_FILE
    console = Console(highlight=False, soft_wrap=True)
    with open_reader(path) as reader:
        after = max(0, reader.last_seq() - last)
        while True:
            records = reader.read_after(after, PAGE)
            for record in records:
                if chat is None or _is_in(record.event, chat):
                    console.print(render(record.event))
            if records:
                after = records[-1].seq
            else:
                time.sleep(POLL_SECONDS)


def render(event: Event) -> Text:
    """One line for one event: time, chat, sender, words or what happened."""
    moment = (event.edit_date or event.telegram_date or event.received_at).astimezone()
    line = Text(f"{moment:%H:%M:%S} ")
    line.append(f"{event.kind.removeprefix('message.'):8}", _STYLES[event.kind])
    line.append(f"{event.chat_title or event.channel_id} ", "bold")
    if event.sender is not None and event.sender.name and event.sender.name != event.chat_title:
        line.append(f"{event.sender.name}: ", "cyan")
    line.append(_words(event))
    return line


def _words(event: Event) -> str:
    if event.kind == "message.deleted":
        return f"#{event.message_id}"
    if event.message_type == "service":
        return f"[{event.metadata.get('action', 'service')}]"
    media = f"[{event.media_type}] " if event.media_type else ""
    return media + " ".join((event.content or "").split())


def _is_in(event: Event, chat: str) -> bool:
    if chat.startswith("@"):
        return event.chat_username is not None and event.chat_username.lower() == chat[1:].lower()
    return event.channel_id == chat
