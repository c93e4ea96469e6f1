"""`telegram-gateway quarantine`: the records that a sink refused for good; look, offer again, give up."""

import asyncio
from collections.abc import Iterator

import click
import msgspec

from gateway.control import ControlClient
from gateway.errors import EXIT_CRASHED
from gateway.journal import Quarantined, open_reader
from gateway.quarantine import DROP_PATH, RETRY_PATH, Dropped, Outcome, Selection
from gateway.settings import Settings, load_settings

_sink = click.option("--sink", metavar="NAME", help="Only this sink's: timescaledb, redis or rabbitmq.")
_seqs = click.option(
    "--seq", "seqs", type=int, multiple=True, metavar="N", help="Only this record; may be repeated."
)


@click.group("quarantine", help="Records a sink refused for good: list them, offer them again, drop them.")
def command() -> None:
    pass


@command.command("list")
@_sink
@click.option("--body", is_flag=True, help="Print the events whole, message text included.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_(sink: str | None, body: bool, as_json: bool) -> None:
    """Show what is in quarantine, and why. Reads the journal's file: no daemon needed."""
    selection = Selection(sink=sink)
    found = (record for record in _records(load_settings()) if selection.holds(record))
    if as_json:
        for record in found:
            click.echo(msgspec.json.encode(_as_json(record, body)))
        return
    count = 0
    for record in found:
        count += 1
        event = record.event
        kind = event.kind.removeprefix("message.")
        since = f"{record.at.astimezone():%F %T}"
        click.echo(
            f"{record.sink} record {record.seq}: {kind} message {event.message_id} of chat {event.chat_key}, "
            f"since {since}: {_printable(record.reason)}"
        )
        if body:
            click.echo(f"    {_printable(record.body.decode(errors='replace'))}")
    click.echo(f"{count} in quarantine" if count else "nothing is in quarantine")


@command.command()
@_sink
@_seqs
def retry(sink: str | None, seqs: tuple[int, ...]) -> int:
    """Offer records to their sink again, all unless told which. Exits 1 when any is refused again."""
    return asyncio.run(_retry(load_settings(), Selection(sink=sink, seqs=seqs or None)))


@command.command()
@_sink
@_seqs
@click.option("--all", "everything", is_flag=True, help="Every record (of --sink, where given).")
def drop(sink: str | None, seqs: tuple[int, ...], everything: bool) -> None:
    """Give records up: the sink will never have them."""
    if bool(seqs) == everything:
        raise click.UsageError("say which: --seq N (may be repeated), or --all")
    asyncio.run(_drop(load_settings(), Selection(sink=sink, seqs=seqs or None)))


async def _retry(settings: Settings, selection: Selection) -> int:
    delivered = refused = 0
    async for line in ControlClient(settings.state_dir).stream(RETRY_PATH, selection):
        outcome = msgspec.convert(line, Outcome)
        place = f"{outcome.sink} record {outcome.seq} ({outcome.event_id})"
        if outcome.reason is None:
            delivered += 1
            click.echo(f"{place}: delivered")
        else:
            refused += 1
            click.echo(f"{place}: refused again, {outcome.reason}")
    click.echo(f"{delivered} delivered, {refused} refused again")
    return EXIT_CRASHED if refused else 0


async def _drop(settings: Settings, selection: Selection) -> None:
    answer = await ControlClient(settings.state_dir).post(DROP_PATH, selection)
    click.echo(f"{msgspec.convert(answer, Dropped).dropped} dropped")


def _records(settings: Settings) -> Iterator[Quarantined]:
    with open_reader(settings.journal_path) as reader:
        after = ("", 0)
        while (record := reader.next_quarantined(after)) is not None:
            after = (record.sink, record.seq)
            yield record


def _as_json(record: Quarantined, body: bool) -> dict[str, object]:
    event = record.event
    return {
        "sink": record.sink,
        "seq": record.seq,
        "event_id": event.id,
        "kind": event.kind,
        "account_scope": event.account_scope,
        "channel_id": event.channel_id,
        "chat_title": event.chat_title,
        "message_id": event.message_id,
        "since": record.at,
        "reason": record.reason,
        **({"body": msgspec.Raw(record.body)} if body else {}),
    }


def _printable(text: str) -> str:
    # Whoever writes a message must not get to write escape sequences to the operator's terminal.
    return "".join(character if character.isprintable() else " " for character in text)
