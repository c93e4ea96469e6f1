"""Journal, cursors and ledger against models of a few lines, through crashes, restarts and pruning."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.event import Event, Kind, delete_id, edit_id, new_id
from gateway.journal import AccountState, Batch, Gap, Journal, LedgerChanges, Missing, Record, Settled

SINKS = ("database", "cache")
_KINDS: list[Kind] = ["message.new", "message.edited", "message.deleted"]
_CHANNEL_PTS = st.dictionaries(st.integers(1, 3), st.integers(0, 9))
_START = datetime(2026, 1, 1, tzinfo=UTC)


@st.composite
def events(draw: st.DrawFn) -> Event:
    scope, chat = draw(st.sampled_from([(0, "-1001"), (0, "-1002"), (7, "55"), (8, "55")]))
    message = draw(st.integers(1, 6))
    if scope:
        chat = str(int(chat) + message)  # an account's ids are its own: one number is in one chat
    kind = draw(st.sampled_from(_KINDS))
    text, at = draw(st.sampled_from("AB")), _START + timedelta(seconds=draw(st.integers(1, 3)))
    identity = {
        "message.new": new_id(scope, chat, message),
        "message.edited": edit_id(scope, chat, message, at, text),
        "message.deleted": delete_id(scope, chat, message),
    }[kind]
    return Event(
        id=identity,
        kind=kind,
        account="main",
        account_scope=scope,
        channel_id=chat,
        chat_type="private" if scope else "channel",
        message_id=message,
        text=None if kind == "message.deleted" else text,
        edit_date=at if kind == "message.edited" else None,
        received_at=_START,
        source="mtproto",
    )


_IDS = st.integers(1, 9)
_CHATS = st.sampled_from([0, -1001, -1002])


@st.composite
def ledger_changes(draw: st.DrawFn) -> LedgerChanges:
    missing = st.builds(
        Missing, _CHATS, _IDS, st.just("test"), first=st.none() | _IDS, known_too=st.booleans()
    )
    settled = st.builds(Settled, _CHATS, _IDS, _IDS, st.just("empty"))
    return LedgerChanges(
        tracked=draw(st.dictionaries(_CHATS, _IDS, max_size=1)),
        missing=draw(st.lists(missing, max_size=2)),
        settled=draw(st.lists(settled, max_size=2)),
        fetched=draw(st.none() | _CHATS),
    )


@dataclass
class ChatModel:
    """A chat of the ledger, id by id."""

    base: int
    top: int
    open: set[int] = field(default_factory=set)
    absent: set[int] = field(default_factory=set)
    compared: bool = False

    def saw(self, message: int, *, numbered: bool) -> None:
        if numbered:
            self.open |= set(range(self.top + 1, message + 1))
        self.top = max(self.top, message)


class LedgerModel:
    """What every account must know of its chats."""

    def __init__(self) -> None:
        self.chats: dict[tuple[str, int], ChatModel] = {}

    def wanted(self, batch: Batch) -> list[Event]:
        """The batch's events, without fetched messages that are not missing, and without their edits."""
        chat = self.chats.get((batch.account, -1 if (key := batch.ledger.fetched) is None else key))
        if batch.ledger.fetched is None:
            return list(batch.events)
        missing = set() if chat is None else chat.open
        fetched = {event.message_id for event in batch.events if event.kind == "message.new"}
        return [
            e for e in batch.events if e.kind == "message.deleted" or e.message_id not in fetched - missing
        ]

    def apply(self, batch: Batch, events: Iterable[Event]) -> None:
        for missing in batch.ledger.missing:
            self._miss(batch.account, missing)
        for key, newest in batch.ledger.tracked.items():
            shown = self.chats.setdefault((batch.account, key), ChatModel(newest, newest))
            if key != 0 and not shown.compared and newest < shown.base:
                shown.open |= set(range(newest + 1, shown.base + 1))
                shown.base = newest
            shown.compared = True
        for event in events:
            key = 0 if event.account_scope else int(event.channel_id)
            key = key if batch.ledger.fetched is None else batch.ledger.fetched
            self._observe(batch.account, key, event)
        for settled in batch.ledger.settled:
            chat = self.chats.get((batch.account, settled.chat))
            if chat is not None:
                gone = chat.open & set(range(settled.first, settled.last + 1))
                chat.open -= gone
                chat.absent |= gone

    def _miss(self, account: str, missing: Missing) -> None:
        newest = missing.last if missing.first is None else missing.first - 1
        chat = self.chats.setdefault((account, missing.chat), ChatModel(newest, newest))
        first = chat.top + 1 if missing.first is None else missing.first
        ids = set(range(first, missing.last + 1))
        known = set() if missing.known_too else set(range(chat.base + 1, chat.top + 1))
        chat.open |= ids - known
        if ids:
            chat.open |= set(range(chat.top + 1, missing.last + 1))
            chat.top = max(chat.top, missing.last)
            if missing.last >= chat.base:
                chat.base = min(chat.base, first - 1)

    def _observe(self, account: str, key: int, event: Event) -> None:
        chat, message = self.chats.get((account, key)), event.message_id
        if event.kind == "message.new":
            if chat is None:
                base = message if key == 0 else message - 1
                chat = self.chats[account, key] = ChatModel(base, message)
            chat.saw(message, numbered=key != 0)
            chat.open.discard(message)
        elif event.kind == "message.deleted" and chat is not None:
            if key != 0:
                chat.saw(message, numbered=True)
            chat.absent |= chat.open & {message}
            chat.open.discard(message)


class Model:
    """What the journal must hold."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, Event]] = []
        self.last_seq = 0
        self.chats: dict[tuple[int, int], str] = {}
        self.states: dict[str, tuple[int, dict[int, int], dict[int, int]]] = {}
        self.cursors = dict.fromkeys(SINKS, 0)
        self.ledger = LedgerModel()

    def append(self, batch: Batch) -> int:
        new = 0
        events = self.ledger.wanted(batch)
        self.ledger.apply(batch, events)
        for event in events:
            if event.account_scope and event.kind != "message.deleted":
                self.chats[event.account_scope, event.message_id] = event.channel_id
            if not self._known(event):
                self.last_seq += 1
                self.rows.append((self.last_seq, event))
                new += 1
        if batch.state is not None:
            _, channels, hashes = self.states.get(batch.account, (0, {}, {}))
            channels = {key: pts for key, pts in (channels | dict(batch.state.channels)).items() if pts}
            self.states[batch.account] = (batch.state.pts, channels, hashes | dict(batch.access_hashes))
        return new

    def _known(self, event: Event) -> bool:
        if any(other.id == event.id for _, other in self.rows):
            return True
        if event.kind != "message.edited":
            return False
        versions = [
            (other.edit_date or _START, seq, other.text)
            for seq, other in self.rows
            if (other.account_scope, other.channel_id, other.message_id)
            == (event.account_scope, event.channel_id, event.message_id)
            and other.kind != "message.deleted"
            and (other.edit_date or _START) <= (event.edit_date or _START)
        ]
        return bool(versions) and max(versions)[2] == event.text

    def prune(self) -> int:
        end = min(self.last_seq, 1 + min(self.cursors.values()))
        before = len(self.rows)
        self.rows = [(seq, event) for seq, event in self.rows if seq >= end]
        return before - len(self.rows)


class JournalMachine(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp(prefix="journal-model-"))
        self.generation = 0
        self.model = Model()
        self.durable = dict(self.model.cursors)
        self._open()

    def _open(self) -> None:
        self.path = self.directory / str(self.generation) / "journal.db"
        self.journal = Journal(self.path, sinks=SINKS, retention=timedelta(0))
        self.runner.run(self.journal.__aenter__())

    def _close(self) -> None:
        self.runner.run(self.journal.__aexit__(None, None, None))

    @rule(
        many=st.lists(events(), max_size=6),
        account=st.sampled_from(["main", "second"]),
        state=st.none()
        | st.tuples(st.integers(1, 99), st.dictionaries(st.integers(1, 3), st.integers(0, 9))),
        ledger=ledger_changes(),
        repeat=st.booleans(),
    )
    def append(
        self,
        many: list[Event],
        account: str,
        state: tuple[int, dict[int, int]] | None,
        ledger: LedgerChanges,
        repeat: bool,
    ) -> None:
        moved = None if state is None else AccountState(state[0], 0, _START, 0, state[1])
        batch = Batch(account, many, moved, {} if state is None else {9: state[0]}, ledger)
        for _ in range(1 + repeat):
            assert self.runner.run(self.journal.append(batch)) == self.model.append(batch)

    @rule(groups=st.lists(st.lists(events(), max_size=3), min_size=2, max_size=5))
    def append_together(self, groups: list[list[Event]]) -> None:
        batches = [Batch("main", group) for group in groups]

        async def together() -> list[int]:
            return list(await asyncio.gather(*(self.journal.append(batch) for batch in batches)))

        assert self.runner.run(together()) == [self.model.append(batch) for batch in batches]

    @rule(sink=st.sampled_from(SINKS), seq=st.integers(0, 40))
    def advance(self, sink: str, seq: int) -> None:
        seq = min(seq, self.model.last_seq)
        self.runner.run(self.journal.advance(sink, seq))
        self.model.cursors[sink] = max(self.model.cursors[sink], seq)

    @rule()
    def prune(self) -> None:
        assert self.runner.run(self.journal.prune()) == self.model.prune()
        self.durable = dict(self.model.cursors)

    @rule()
    def restart(self) -> None:
        self._close()
        self._open()
        self.durable = dict(self.model.cursors)

    @rule()
    def crash(self) -> None:
        """The files as they are at this moment, without the shared memory, are what a dead process leaves."""
        self.generation += 1
        target = self.directory / str(self.generation)
        target.mkdir()
        for name in ("journal.db", "journal.db-wal"):
            shutil.copy(self.path.with_name(name), target / name)
        self._close()
        self._open()
        for sink in SINKS:
            # A cursor may come back as it was some moments ago, which means delivering again.
            assert self.durable[sink] <= self.journal.cursor(sink) <= self.model.cursors[sink]
            self.model.cursors[sink] = self.durable[sink] = self.journal.cursor(sink)

    @rule(after=st.integers(0, 40), limit=st.integers(1, 10))
    def read(self, after: int, limit: int) -> None:
        expected = [(seq, event) for seq, event in self.model.rows if seq > after][:limit]
        assert _plain(self.runner.run(self._read(after, limit))) == expected

    async def _read(self, after: int, limit: int) -> list[Record]:
        return list(await self.journal.read(after, limit))

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "journal"):
            return
        journal, model = self.journal, self.model
        assert journal.last_seq == model.last_seq
        assert _plain(self.runner.run(self._read(0, 1000))) == model.rows
        assert {sink: journal.cursor(sink) for sink in SINKS} == model.cursors
        stats = self.runner.run(journal.stats())
        assert stats.rows == len(model.rows)
        for sink, cursor in model.cursors.items():
            assert stats.sinks[sink].lag == sum(seq > cursor for seq, _ in model.rows)
        for account, (pts, channels, hashes) in model.states.items():
            state, known_hashes = self.runner.run(journal.load_state(account))
            assert state is not None
            assert (state.pts, state.channels, known_hashes) == (pts, channels, hashes)
        for account in ("main", "second"):
            expected = {key: chat for (name, key), chat in model.ledger.chats.items() if name == account}
            found = self.runner.run(journal.ledger(account))
            assert {key: (chat.base, chat.top) for key, chat in found.items()} == {
                key: (chat.base, chat.top) for key, chat in expected.items()
            }
            still_open = self.runner.run(journal.gaps(account))
            absent = self.runner.run(journal.gaps(account, None, "absent"))
            for key, chat in expected.items():
                its_gaps = [gap for gap in still_open if gap.chat == key]
                assert sum(gap.last - gap.first + 1 for gap in its_gaps) == len(chat.open)
                assert _ids_of(its_gaps) == chat.open
                assert _ids_of(gap for gap in absent if gap.chat == key) == chat.absent
                assert found[key].mark == min(chat.open, default=chat.top + 1) - 1
        for (scope, message), chat_id in model.chats.items():
            assert self.runner.run(journal.chat_of(scope, [message])) == {message: (chat_id, "private")}

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self._close()
            self.runner.close()
            shutil.rmtree(self.directory)


def _ids_of(gaps: Iterable[Gap]) -> set[int]:
    return {message for gap in gaps for message in range(gap.first, gap.last + 1)}


def _plain(records: list[Record]) -> list[tuple[int, Event]]:
    return [(record.seq, record.event) for record in records]


TestJournalAgainstModel = JournalMachine.TestCase
TestJournalAgainstModel.settings = settings(max_examples=40, stateful_step_count=25)
