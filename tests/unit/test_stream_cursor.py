"""Cursors of the live stream: what was delivered is known, and nothing else, wherever the stream is cut."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.stream_cursor import BadCursor, Cursor, Progress, microseconds
from gateway.event import Event
from tests.sink_events import days_ago, new

BEGIN = days_ago(1)


def event(number: int, seconds: float, account: str = "main", source: str = "mtproto") -> Event:
    return new(number, account=account, source=source, received_at=BEGIN + timedelta(seconds=seconds))


bursts = st.lists(
    st.tuples(
        st.sampled_from(["main", "second"]),
        st.sampled_from(["mtproto", "backfill"]),
        st.integers(1, 4),
        st.integers(0, 40),
    ),
    min_size=1,
    max_size=12,
)


@given(bursts, st.data())
def test_a_cursor_tells_what_was_delivered_from_what_was_not(
    chosen: list[tuple[str, str, int, int]], data: st.DataObject
) -> None:
    """Each lane in its order, the lanes overtaking each other by up to a minute and a half."""
    number, sent = 0, []
    for burst, (account, source, count, late) in enumerate(chosen):
        for _ in range(count):
            number += 1
            lag = {"main": 0, "second": 40}[account] + (50 if source == "backfill" else 0)
            sent.append((burst + lag + late / 1000, event(number, 10.0 * burst, account, source)))
    stream = [each for _, each in sorted(sent, key=lambda pair: pair[0] // 1)]
    cut = data.draw(st.integers(0, len(stream)))
    progress = Progress(microseconds(BEGIN) - 1)
    for each in stream[:cut]:
        progress.add(each)
    found = Cursor.decode(progress.encode("hub", cut))
    assert (found.hub, found.number) == ("hub", cut)
    assert [found.progress.covers(each) for each in stream] == [number < cut for number in range(len(stream))]
    assert found.progress.includes(progress)
    assert progress.includes(found.progress)


def test_while_the_order_is_not_certain_each_event_is_named() -> None:
    progress = Progress(microseconds(BEGIN) - 1)
    first, late, last = event(1, 1), event(2, 2), event(3, 3)
    progress.add(first)
    progress.add(last, in_order=False)
    assert [progress.covers(each) for each in (first, late, last)] == [True, False, True]
    progress.add(late, in_order=False)
    progress.settle("main")
    assert progress.covers(late)
    assert progress.unsettled("main") == 1


def test_what_another_account_brought_last_was_delivered() -> None:
    progress = Progress(microseconds(BEGIN) - 1)
    progress.add(event(1, 1))
    assert progress.covers(event(1, 2, "second"))
    assert not progress.covers(event(2, 2, "second"))


def test_long_ago_counts_as_delivered_and_costs_nothing() -> None:
    progress = Progress(microseconds(BEGIN) - 1)
    progress.add(event(1, 0, "second"))
    progress.add(event(2, 3600))
    assert progress.covers(event(3, 1, "second"))
    assert len(progress.encode("hub", 1)) < 100


@pytest.mark.parametrize("text", ["", "?", "AAAA", "gA", "x" * 1000])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(BadCursor):
        Cursor.decode(text)
