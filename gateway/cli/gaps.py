"""`telegram-gateway gaps`: the ledger's gaps, from the journal's file; and opening one by hand."""

import asyncio
import re

import click
import msgspec

from gateway.control import ControlClient
from gateway.journal import Gap, open_reader
from gateway.settings import CHAT, load_settings
from gateway.telegram.history import OPEN_PATH, OpenOrder

_IDS = re.compile(r"(\d+)(?:-(\d+))?")


@click.command(name="gaps")
@click.option("--chat", help="Only this chat: its id (or @name, with --open).")
@click.option("--account", help="Only this account.")
@click.option(
    "--all", "everything", is_flag=True, help="Closed gaps too: what was captured and what is absent."
)
@click.option(
    "--last", type=click.IntRange(min=1), default=100, show_default=True, help="How many, newest first."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option("--open", "ids", metavar="ID[-ID]", help="Have these messages of --chat fetched again.")
def command(
    chat: str | None, account: str | None, everything: bool, last: int, as_json: bool, ids: str | None
) -> None:
    """Show which messages are missing, since when and why.

    Reads the journal's file, with or without a running daemon. --open asks the running daemon to fetch ids
    again, whatever the ledger says of them; readers of RabbitMQ may see those a second time.
    """
    if chat is not None and not CHAT.fullmatch(chat):
        raise click.BadParameter(f"{chat!r} is neither a chat id nor an @name", param_hint="--chat")
    if ids is not None:
        _open(chat, account, ids)
        return
    if chat is not None and chat.startswith("@"):
        raise click.BadParameter("the ledger knows chats by their id; telegram-gateway tail shows them")
    with open_reader(load_settings().journal_path) as reader:
        gaps = reader.gaps(
            account, None if chat is None else int(chat), None if everything else "open", limit=last
        )
    for gap in gaps:
        click.echo(msgspec.json.encode(gap).decode() if as_json else _line(gap))
    if not gaps and not as_json:
        click.echo("no gaps" if everything else "no open gaps: every message is accounted for")


def _open(chat: str | None, account: str | None, ids: str) -> None:
    match = _IDS.fullmatch(ids)
    if chat is None or match is None:
        raise click.UsageError("--open takes one id or a range such as 100-199, and needs --chat")
    first = int(match[1])
    order = OpenOrder(chat=chat, first=first, last=int(match[2] or first), account=account)
    opened = asyncio.run(ControlClient(load_settings().state_dir).post(OPEN_PATH, order))
    click.echo(f"account {opened['account']} fetches {ids} of chat {opened['chat']}")


def _line(gap: Gap) -> str:
    ids = f"{gap.first}" if gap.first == gap.last else f"{gap.first}-{gap.last}"
    chat = f"chat {gap.chat}" if gap.chat else "private chats and basic groups"
    what = "to read again" if gap.reread else "missing"
    count = gap.last - gap.first + 1
    since = f"{gap.opened_at.astimezone():%F %T}"
    line = f"{gap.account} {chat}: {ids} ({count} ids) {what} since {since} ({gap.source})"
    if gap.closed_at is None:
        return line
    why = f", {gap.why}" if gap.why else ""
    return f"{line}; {gap.state} {gap.closed_at.astimezone():%F %T}{why}"
