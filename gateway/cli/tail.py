"""`telegram-gateway tail`: prints messages as they reach the journal, whatever state the sinks are in."""

import time

import click
from rich.console import Console
from rich.text import Text

from gateway.event import Event
from gateway.journal import Reader, open_reader
from gateway.settings import CHAT, load_settings

POLL_SECONDS = 0.2  # the journal belongs to the daemon's process, which cannot wake this one
PAGE = 500
_STYLES = {"message.new": "green", "message.edited": "yellow", "message.deleted": "red"}
# Whoever writes a message must not get to write escape sequences to the operator's terminal.
_CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), " ")


@click.command(name="tail")
@click.option("--chat", help="Only this chat: its id, or @name.")
@click.option(
    "--last", type=click.IntRange(min=0), default=0, help="Begin with this many that are there already."
)
def command(chat: str | None, last: int) -> None:
    """Print messages as they arrive, until interrupted."""
    if chat is not None and not CHAT.fullmatch(chat):
        raise click.BadParameter(f"{chat!r} is neither a chat id nor an @name", param_hint="--chat")
    console = Console(highlight=False, soft_wrap=True)
    with open_reader(load_settings().journal_path) as reader:
        newest = reader.last_seq()
        for event in _newest(reader, newest, last, chat):
            console.print(render(event))
        while True:
            records = reader.read(newest, reader.last_seq(), PAGE)
            for record in records:
                if chat is None or _is_in(record.event, chat):
                    console.print(render(record.event))
            if records:
                newest = records[-1].seq
            else:
                time.sleep(POLL_SECONDS)


def _newest(reader: Reader, newest: int, count: int, chat: str | None) -> list[Event]:
    """The last `count` events, of one chat or of all, up to the record `newest`; in order."""
    found: list[Event] = []
    while newest > 0 and len(found) < count:
        page = reader.read(newest - PAGE, newest, PAGE)
        found += [record.event for record in reversed(page) if chat is None or _is_in(record.event, chat)]
        newest -= PAGE
    return found[:count][::-1]


def render(event: Event) -> Text:
    """One line for one event: time, chat, sender, words or what happened."""
    moment = (event.edit_date or event.telegram_date or event.received_at).astimezone()
    line = Text(f"{moment:%H:%M:%S} ")
    line.append(f"{event.kind.removeprefix('message.'):8}", _STYLES[event.kind])
    line.append(f"{_plain(event.chat_title or event.channel_id)} ", "bold")
    if event.sender is not None and event.sender.name and event.sender.name != event.chat_title:
        line.append(f"{_plain(event.sender.name)}: ", "cyan")
    line.append(_words(event))
    return line


def _words(event: Event) -> str:
    if event.kind == "message.deleted":
        return f"#{event.message_id}"
    if event.message_type == "service":
        return f"[{event.metadata.get('action', 'service')}]"
    media = f"[{event.media_type}] " if event.media_type else ""
    return media + _plain(event.content or "")


def _plain(text: str) -> str:
    return " ".join(text.translate(_CONTROLS).split())


def _is_in(event: Event, chat: str) -> bool:
    if chat.startswith("@"):
        return event.chat_username is not None and event.chat_username.lower() == chat[1:].lower()
    return event.channel_id == chat
