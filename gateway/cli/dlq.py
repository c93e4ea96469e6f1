"""`telegram-gateway dlq`: the messages that consumers gave up on; look, give them back, drop them."""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.dead_letter import DeadLetter
from gateway.dead_letters import MOST_LETTERS, DeadLetters, Outcome, Selection
from gateway.errors import EXIT_CRASHED
from gateway.settings import load_settings

_SHOWN = 100
_consumer = click.option("--consumer", metavar="NAME", help="Only the letters of this consumer.")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")
_letters = click.argument("letters", nargs=-1, metavar="[LETTER]...")
_everything = click.option(
    "--all", "everything", is_flag=True, help="Every letter (of --consumer, where given)."
)


@click.group("dlq", help="Messages that consumers gave up on: list, show, requeue, drop.")
def command() -> None:
    pass


@command.command("list")
@_consumer
@click.option("--limit", default=_SHOWN, show_default=True, type=click.IntRange(min=1), help="The oldest N.")
@_json
def list_(consumer: str | None, limit: int, as_json: bool) -> None:
    """Show the dead letters, the oldest first, and why each is there. They are gone after 24 hours."""
    listing = asyncio.run(_dead_letters().list(Selection(consumer=consumer), limit))
    if as_json:
        for letter in listing.letters:
            _print_json(letter)
        return
    table = Table(box=None, pad_edge=False)
    for title in ("letter", "since", "consumer", "chat", "message", "tries", "requeued", "reason"):
        table.add_column(title, no_wrap=title != "reason", overflow="fold")
    for letter in listing.letters:
        table.add_row(*(Text(_printable(cell)) for cell in _row(letter)))
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    if listing.letters:
        console.print(table)
    more = listing.total - len(listing.letters)
    beyond = f", {more} more not shown (--limit)" if more else ""
    click.echo(f"{listing.total} dead letter(s){beyond}" if listing.total else "no dead letters")


@command.command()
@click.argument("letter")
@click.option("--body", is_flag=True, help="Print the message itself as well.")
@_json
def show(letter: str, body: bool, as_json: bool) -> int:
    """Show one dead letter: why it is there, and its headers. LETTER is as `list` prints it."""
    found = asyncio.run(_dead_letters().find(Selection(ids=(letter,))))
    if found is None:
        return _not_there((letter,))
    record, content = found
    text = content.decode(errors="replace")
    if as_json:
        _print_json(record, **({"body": text} if body else {}))
        return 0
    for name, value in _facts(record).items():
        click.echo(f"{name}: {_printable(value)}")
    for name, value in record.headers.items():
        click.echo(f"  {_printable(name)}: {_printable(_as_text(value))}")
    if body:
        click.echo(_printable(text))
    return 0


@command.command()
@_letters
@_consumer
@_everything
@_yes
@_json
def requeue(
    letters: tuple[str, ...], consumer: str | None, everything: bool, yes: bool, as_json: bool
) -> int:
    """Give letters back to their consumers' queues. Exits 1 when one could not be."""
    which = _selection(letters, consumer, everything)
    _ask("Requeue", which, yes)
    outcomes = asyncio.run(_dead_letters().requeue(which))
    for outcome in outcomes:
        if as_json:
            _print_json(outcome.letter, error=outcome.error)
        else:
            click.echo(f"{outcome.letter.id}: {_printable(_told(outcome))}")
    stayed = sum(outcome.error is not None for outcome in outcomes)
    if not as_json:
        click.echo(f"{len(outcomes) - stayed} requeued, {stayed} not")
    missing = _missing(which, [outcome.letter for outcome in outcomes])
    return _not_there(missing) if missing else EXIT_CRASHED if stayed else 0


@command.command()
@_letters
@_consumer
@_everything
@_yes
@_json
def drop(letters: tuple[str, ...], consumer: str | None, everything: bool, yes: bool, as_json: bool) -> int:
    """Remove letters for good: their consumers will never have them."""
    which = _selection(letters, consumer, everything)
    _ask("Drop for good", which, yes)
    dropped = asyncio.run(_dead_letters().drop(which))
    for letter in dropped if as_json else ():
        _print_json(letter)
    if not as_json:
        click.echo(f"{len(dropped)} dropped")
    missing = _missing(which, dropped)
    return _not_there(missing) if missing else 0


def _dead_letters() -> DeadLetters:
    return DeadLetters.of(load_settings())


def _selection(letters: tuple[str, ...], consumer: str | None, everything: bool) -> Selection:
    if not letters and not consumer and not everything:
        raise click.UsageError("say which: LETTER..., --consumer NAME, or --all")
    if letters and everything:
        raise click.UsageError("either name letters, or --all of them")
    return Selection(ids=letters or None, consumer=consumer)


def _ask(what: str, which: Selection, yes: bool) -> None:
    """Asks before anything that is not named one by one."""
    if which.ids is not None or yes:
        return
    found = asyncio.run(_dead_letters().list(which, MOST_LETTERS)).letters
    counts = Counter(letter.consumer or "unknown" for letter in found)
    of = ", ".join(f"{count} of {_printable(consumer)}" for consumer, count in counts.most_common())
    click.confirm(f"{what}: {len(found)} letter(s){f' ({of})' if of else ''}?", abort=True)


def _missing(which: Selection, found: Iterable[DeadLetter]) -> tuple[str, ...]:
    ids = {letter.id for letter in found}
    return tuple(letter for letter in which.ids or () if letter not in ids)


def _not_there(letters: tuple[str, ...]) -> int:
    for letter in letters:
        click.echo(
            f"{letter}: no such dead letter; it was requeued or dropped, or 24 hours have passed", err=True
        )
    return EXIT_CRASHED


def _told(outcome: Outcome) -> str:
    return f"requeued to {outcome.letter.queue}" if outcome.error is None else f"stays, {outcome.error}"


def _row(letter: DeadLetter) -> tuple[str, ...]:
    return (
        letter.id,
        _local(letter.at),
        letter.consumer or "unknown",
        letter.chat_key or "",
        str(letter.telegram_message_id or letter.message_id or ""),
        "" if letter.attempts is None else str(letter.attempts),
        str(letter.requeued) if letter.requeued else "",
        letter.reason,
    )


def _facts(letter: DeadLetter) -> dict[str, str]:
    who = "the consumer gave it up" if letter.by == "consumer" else "the broker took it out of the queue"
    facts = {
        "letter": letter.id,
        "message id": letter.message_id or "none",
        "consumer": letter.consumer or "unknown",
        "queue": letter.queue or "unknown",
        "reason": f"{letter.reason} ({who})",
        "since": _local(letter.at) or "unknown",
        "requeued before": str(letter.requeued),
        "body": f"{letter.body_bytes} bytes",
    }
    return facts | ({"tries": str(letter.attempts)} if letter.attempts is not None else {}) | {"headers": ""}


def _local(moment: datetime | None) -> str:
    return f"{moment.astimezone():%F %T}" if moment is not None else ""


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _print_json(letter: DeadLetter, **more: Any) -> None:
    click.echo(msgspec.json.encode(msgspec.structs.asdict(letter) | more))


def _printable(text: str) -> str:
    # Whoever writes a message must not get to write escape sequences to the operator's terminal.
    return "".join(character if character.isprintable() else " " for character in text)
