"""What an operator may do with records that a sink refused for good: offer them again, or give them up.

Reached over the control socket. Deliveries go through the sink's runner, between its batches; a record leaves
the quarantine once the sink has acknowledged it.
"""

from collections.abc import AsyncIterator, Sequence

import msgspec
import structlog
from aiohttp import web

from gateway.control import answer, body_of, json_lines
from gateway.errors import ConfigurationError, GatewayError, RecordsRefused, SinkUnavailable
from gateway.journal import Journal, Quarantined
from gateway.sinks.base import ReplayedRecord
from gateway.sinks.runner import SinkRunner

log = structlog.get_logger()

RETRY_PATH = "/quarantine/retry"
DROP_PATH = "/quarantine/drop"


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which records: of one sink or of all, with these numbers or all."""

    sink: str | None = None
    seqs: tuple[int, ...] | None = None

    def holds(self, record: Quarantined) -> bool:
        return self.sink in (None, record.sink) and (self.seqs is None or record.seq in self.seqs)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one retry ended; `reason` is why the sink refused again, or null when it has the record now."""

    sink: str
    seq: int
    event_id: str
    reason: str | None = None


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """How many records were given up."""

    dropped: int


class QuarantineDesk:
    """Retries and drops for one daemon's journal and sinks."""

    def __init__(self, journal: Journal, runners: Sequence[SinkRunner]) -> None:
        self._journal = journal
        self._runners = {runner.name: runner for runner in runners}

    def routes(self) -> list[web.RouteDef]:
        return [web.post(RETRY_PATH, self._retry), web.post(DROP_PATH, self._drop)]

    async def _retry(self, request: web.Request) -> web.StreamResponse:
        selection = await body_of(request, Selection)
        async with json_lines(request) as (response, send):
            async for record in self._selected(selection):
                await send(await self._redeliver(record))
        return response

    async def _drop(self, request: web.Request) -> web.Response:
        selection = await body_of(request, Selection)
        dropped = 0
        async for record in self._selected(selection):
            if await self._journal.remove_quarantined(record.sink, record.seq):
                dropped += 1
                log.warning("quarantine_dropped", sink=record.sink, seq=record.seq, event_id=record.event.id)
        return answer(Dropped(dropped=dropped))

    async def _redeliver(self, record: Quarantined) -> Outcome:
        runner = self._runners.get(record.sink)
        if runner is None:
            raise ConfigurationError(
                f"sink {record.sink} is not enabled in this gateway, so record {record.seq} stays; "
                "enable the sink, choose another with --sink, or drop the record"
            )
        reason: str | None = None
        try:
            await runner.redeliver(ReplayedRecord(record.seq, record.body))
        except RecordsRefused as refusal:
            reason = refusal.reasons[record.seq]
            await self._journal.leave_quarantined(record.sink, record.seq, reason)
        except SinkUnavailable as error:
            raise GatewayError(
                f"sink {record.sink} is down ({error}), record {record.seq} and what follows stay; "
                "retry once it is up"
            ) from None
        else:
            await self._journal.remove_quarantined(record.sink, record.seq)
            log.info("quarantine_delivered", sink=record.sink, seq=record.seq, event_id=record.event.id)
        return Outcome(sink=record.sink, seq=record.seq, event_id=record.event.id, reason=reason)

    async def _selected(self, selection: Selection) -> AsyncIterator[Quarantined]:
        after = ("", 0)
        while (record := await self._journal.next_quarantined(after)) is not None:
            after = (record.sink, record.seq)
            if selection.holds(record):
                yield record
