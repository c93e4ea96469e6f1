"""Telethon's update sequencer, extended to forget nothing: it knows what moved and what must be asked again.

Telethon ends a failed difference as if it were done, drops a channel whose access hash it lacks, throws
away the edits and deletions that a difference brings, and never asks again after a reconnect. Here a failed
sequence waits in `retry`, a channel without a hash in `unreachable`, and a `Resync` in the update queue
makes the sequencer fetch named differences. Where Telegram skips a stretch ("too long"), what is missing and
what may have changed goes to the ledger, together with the state behind the stretch.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import structlog
from telethon._updates import MessageBox
from telethon._updates.messagebox import (
    ENTRY_ACCOUNT,
    ENTRY_SECRET,
    GapError,
    PrematureEndReason,
    PtsInfo,
)
from telethon.tl import types

from gateway import metrics
from gateway.journal import LedgerChanges, Missing
from gateway.journal.ledger import ACCOUNT_IDS
from gateway.telegram.chats import marked_channel

log = structlog.get_logger()

ACCOUNT = ENTRY_ACCOUNT


class Resync:
    """Put into the update queue to make the sequencer fetch differences: the account's, and of `channels`."""

    def __init__(self, channels: Iterable[int] = ()) -> None:
        self.channels = set(channels)


class GatewayMessageBox(MessageBox):  # type: ignore[misc]  # untyped base
    """Adds to Telethon's sequencer: dirty channels, differences to retry, and holes it cannot fill."""

    __slots__ = (
        "account",
        "attention",
        "compare",
        "dirty",
        "failed",
        "missing",
        "reread",
        "retry",
        "unreachable",
    )

    def __init__(self, log_: Any, account: str) -> None:
        super().__init__(log_)
        self.account = account
        # Channels whose pts moved (or that were forgotten) since the state was last taken.
        self.dirty: set[int] = set()
        # Sequences whose difference failed: ACCOUNT or channel ids. Asked again after a pause.
        self.retry: set[Any] = set()
        # Channels whose difference cannot be asked for until the dialogs give their access hash or pts.
        self.unreachable: set[int] = set()
        # What Telegram skipped, for the ledger: it has to be committed with the state that skips it.
        self.missing: list[Missing] = []
        self.reread: list[int] = []
        # Whether all dialogs have to be compared soon.
        self.compare = False
        # Set when something was added to `unreachable`, or `compare` was set.
        self.attention = asyncio.Event()
        # Set when something was added to `retry`.
        self.failed = asyncio.Event()

    def _trace(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Nothing: Telethon's tracing costs time on every update, and would log message bodies."""

    def process_updates(self, updates: Any, chat_hashes: Any, result: list[Any]) -> Any:
        """As Telethon's; also understands `Resync`, and does not drop what answers to own requests carry."""
        if isinstance(updates, Resync):
            self.begin(ACCOUNT, *updates.channels)
            raise GapError
        if getattr(updates, "_self_outgoing", False):
            updates._self_outgoing = False
        return super().process_updates(updates, chat_hashes, result)

    def begin(self, *entries: Any) -> None:
        """Marks sequences as needing their difference; unknown channels wait for the dialogs."""
        for entry in entries:
            if entry in self.map:
                self.try_begin_get_diff(entry, "asked by the gateway")
            elif entry is not ACCOUNT:
                self.ask_dialogs(entry)

    def ask_dialogs(self, channel: int) -> None:
        """Notes a channel whose pts or access hash only the dialogs can tell."""
        self.unreachable.add(channel)
        self.attention.set()

    def apply_pts_info(self, update: Any, *, reset_deadlines: Any) -> Any:
        if isinstance(update, types.UpdateChannelTooLong) and update.channel_id not in self.map:
            self.ask_dialogs(update.channel_id)
        applied = super().apply_pts_info(update, reset_deadlines=reset_deadlines)
        if applied is not None:
            channel = _channel_of(applied)
            if channel is not None and channel in self.map:
                self.dirty.add(channel)
        return applied

    def try_set_channel_state(self, id: int, pts: int) -> None:
        if id not in self.map:
            self.dirty.add(id)
        super().try_set_channel_state(id, pts)

    def get_channel_difference(self, chat_hashes: Any) -> Any:
        for entry in [entry for entry in self.getting_diff_for if isinstance(entry, int)]:
            if chat_hashes.get(entry) is None:
                # Telethon would forget the channel's pts here, and with it the hole.
                self.end_get_diff(entry)
                self.ask_dialogs(entry)
        return super().get_channel_difference(chat_hashes)

    def apply_difference(self, diff: Any, chat_hashes: Any) -> Any:
        self._count(_RESULTS[type(diff)])
        if isinstance(diff, types.updates.DifferenceTooLong):
            log.warning(
                "difference_too_long", account=self.account, pts=self.map[ACCOUNT].pts, new_pts=diff.pts
            )
            self.missing.append(Missing(ACCOUNT_IDS, diff.newest_id, "too_long"))
            self.reread.append(ACCOUNT_IDS)
            # The channels in which something happened are not named either.
            self.ask_comparison()
        own = _take_own(diff, ACCOUNT)
        updates, users, chats = super().apply_difference(diff, chat_hashes)
        return [*updates, *own], users, chats

    def apply_channel_difference(self, request: Any, diff: Any, chat_hashes: Any) -> Any:
        channel = request.channel.channel_id
        self._count(_RESULTS[type(diff)])
        self.dirty.add(channel)
        if isinstance(diff, types.updates.ChannelDifferenceTooLong):
            log.warning(
                "channel_difference_too_long", account=self.account, pts=request.pts, new_pts=diff.dialog.pts
            )
            chat = marked_channel(channel)
            self.missing.append(Missing(chat, diff.dialog.top_message, "channel_too_long"))
            self.reread.append(chat)
        own = _take_own(diff, channel)
        updates, users, chats = super().apply_channel_difference(request, diff, chat_hashes)
        return [*updates, *own], users, chats

    def end_difference(self) -> None:
        """Called by Telethon only when the account's difference failed."""
        self._count("failed")
        super().end_difference()
        self.retry.add(ACCOUNT)
        self.failed.set()

    def end_channel_difference(self, request: Any, reason: Any, chat_hashes: Any) -> None:
        """Called by Telethon only when a channel's difference failed."""
        channel = request.channel.channel_id
        super().end_channel_difference(request, reason, chat_hashes)
        if reason == PrematureEndReason.BANNED:
            # Telethon has forgotten its state now. If the account is still in it, the dialogs bring it back.
            self._count("private")
            self.dirty.add(channel)
            self.ask_dialogs(channel)
            log.warning("channel_not_accessible", account=self.account, channel=channel)
        else:
            self._count("failed")
            self.retry.add(channel)
            self.failed.set()

    def take_dirty(self) -> dict[int, int]:
        """The channels that moved since the last call, with their pts; 0 for one that is forgotten."""
        moved = {channel: self.map[channel].pts if channel in self.map else 0 for channel in self.dirty}
        self.dirty.clear()
        return moved

    def note_skipped(self, channel: int) -> None:
        """A channel's state will move on over a stretch that nobody could read; the dialogs tell its end."""
        self.reread.append(marked_channel(channel))
        self.ask_comparison()

    def ask_comparison(self) -> None:
        """Has all dialogs compared soon."""
        self.compare = True
        self.attention.set()

    def take_skipped(self) -> LedgerChanges:
        """What Telegram skipped since the last call."""
        missing, self.missing = self.missing, []
        reread, self.reread = self.reread, []
        return LedgerChanges(missing=missing, reread=reread)

    def account_state(self) -> tuple[int, int]:
        """The account's pts and qts; 0 where unknown."""
        secret = self.map.get(ENTRY_SECRET)
        account = self.map.get(ACCOUNT)
        return (account.pts if account else 0), (secret.pts if secret else 0)

    def _count(self, result: str) -> None:
        metrics.DIFFERENCES.labels(self.account, result).inc()


_RESULTS: dict[Any, str] = {
    types.updates.DifferenceEmpty: "empty",
    types.updates.Difference: "full",
    types.updates.DifferenceSlice: "slice",
    types.updates.DifferenceTooLong: "too_long",
    types.updates.ChannelDifferenceEmpty: "empty",
    types.updates.ChannelDifference: "full",
    types.updates.ChannelDifferenceTooLong: "too_long",
}


def _take_own(difference: Any, entry: Any) -> list[Any]:
    """Takes the edits and deletions of the sequence itself out of its difference.

    Telethon compares them with the pts that the difference has just set, finds them old, and drops them.
    They belong behind the difference's new messages, which some of them speak of.
    """
    other = getattr(difference, "other_updates", None)
    if not other:
        return []
    own: list[Any] = []
    rest: list[Any] = []
    for update in other:
        info = None if isinstance(update, types.UpdateChannelTooLong) else PtsInfo.from_update(update)
        (own if info is not None and info.entry == entry else rest).append(update)
    difference.other_updates = rest
    own.sort(key=lambda update: update.pts)
    return own


def _channel_of(update: Any) -> int | None:
    """The unmarked channel id that an update's pts counts in; None for the account's."""
    message = getattr(update, "message", None)
    channel = getattr(getattr(message, "peer_id", None), "channel_id", None)
    if channel is None:
        channel = getattr(update, "channel_id", None)
    return channel


def channels_in(container: Any) -> set[int]:
    """The channels that a pushed Updates container speaks of (unmarked ids)."""
    updates = getattr(container, "updates", None) or [getattr(container, "update", container)]
    return {channel for update in updates if (channel := _channel_of(update)) is not None}
