"""The queue behind Telegram's socket: bounded, and nothing that overflows it is forgotten."""

from datetime import UTC, datetime

from telethon.tl import types

from gateway.telegram.intake_queue import IntakeQueue
from gateway.telegram.message_box import Resync

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def _push(channel: int, updates: int = 1) -> types.Updates:
    peer = types.PeerChannel(channel)
    message = types.Message(id=1, peer_id=peer, date=NOW, message="x")
    update = types.UpdateNewChannelMessage(message, pts=1, pts_count=1)
    return types.Updates(updates=[update] * updates, users=[], chats=[], date=NOW, seq=0)


async def test_what_fits_comes_out_in_order() -> None:
    queue = IntakeQueue("main", limit=10)
    pushes = [_push(number) for number in range(5)]
    for push in pushes:
        queue.put_nowait(push)
    assert [await queue.get() for _ in pushes] == pushes


async def test_what_does_not_fit_is_asked_for_by_its_channels() -> None:
    queue = IntakeQueue("main", limit=3)
    for channel in range(10, 16):
        queue.put_nowait(_push(channel))
    kept = [await queue.get() for _ in range(3)]
    assert [push.updates[0].message.peer_id.channel_id for push in kept] == [10, 11, 12]
    resync = await queue.get()
    assert isinstance(resync, Resync)
    assert resync.channels == {13, 14, 15}
    assert queue.empty()


async def test_the_bound_counts_updates_not_pushes() -> None:
    queue = IntakeQueue("main", limit=100)
    for _ in range(5):
        queue.put_nowait(_push(7, updates=50))
    assert queue.qsize() == 3  # two whole pushes, and the note about the rest


async def test_after_an_overflow_has_been_taken_pushes_fit_again() -> None:
    queue = IntakeQueue("main", limit=1)
    queue.put_nowait(_push(1))
    queue.put_nowait(_push(2))
    await queue.get()
    await queue.get()
    push = _push(3)
    queue.put_nowait(push)
    assert await queue.get() is push
