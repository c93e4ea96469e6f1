"""The sink that stores every event in PostgreSQL through PgBouncer: one `telegram_gateway.ingest` a batch.

The bodies go over as they are in the journal, and the database takes them apart; what it already has it
leaves as it is. Messages of any age are accepted here, also ones that retention will soon drop.

Beside a message that comes edited goes its edit, for the database alone: another gateway may have stored the
message in its former words, and nobody have seen the edit (docs/decisions/0008-ledger.md).
"""

import asyncio
from collections.abc import Iterator, Sequence

import asyncpg
import msgspec

from gateway.database import connect, load_migrations, require_schema
from gateway.database.connection import CONNECTION_LOST, Connection
from gateway.errors import RecordsRefused, SchemaError, SinkUnavailable
from gateway.event import as_edit, encode
from gateway.journal import Record

# Only for a server that went silent: slow statements are the server's to end (statement_timeout of the role).
SILENCE_LIMIT = 60.0  # seconds

# What is wrong with the data and will be wrong again: data exceptions, integrity violations, and program
# limits (a value too large for an index).
_DATA_ERROR_CLASSES = {"22", "23", "54"}
# timescaledb's limit on what one transaction may decompress, to look for duplicates of old messages.
_DECOMPRESSION_LIMIT = "53400"
_NO_DECOMPRESSION_LIMIT = "SET LOCAL timescaledb.max_tuples_decompressed_per_dml_transaction = 0"
_INGEST = "SELECT telegram_gateway.ingest($1)"
# Only of a member: within a string, JSON escapes the quotes.
_HAS_EDIT_DATE = b'"edit_date":"'
_DERIVED = b',"derived":true}'


class _DataError(Exception):
    """The database understood a batch and can never store it."""


class _TooMuchToDecompress(Exception):
    """The batch is of old messages, in so many compressed segments that the database wants less at once."""


class TimescaleSink:
    """Stores new messages, edits and deletions, and keeps the table of channels up to date."""

    name = "timescaledb"

    def __init__(self, dsn: str, *, password: str | None = None) -> None:
        self._dsn = dsn
        self._password = password
        self._connection: Connection | None = None

    async def open(self) -> None:
        """Connects, and makes sure that the schema is the one this version writes to.

        Raises SinkUnavailable when the server cannot be reached, SchemaError or ConfigurationError when a
        person must act.
        """
        await self.close()
        connection = await connect(self._dsn, self._password)
        try:
            await require_schema(connection, load_migrations())
        except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
            connection.terminate()
            raise SinkUnavailable(f"PostgreSQL does not answer: {error}") from error
        except (SchemaError, asyncio.CancelledError):
            connection.terminate()
            raise
        self._connection = connection

    async def deliver(self, records: Sequence[Record]) -> None:
        """Stores `records`. A batch that the database cannot store is halved until the culprits are found.

        So is one that reaches too far into compressed history. A single record may decompress what it takes:
        that is what its chat wrote around that moment, and no more.
        """
        refused: dict[int, str] = {}
        pending = [records]
        while pending:
            batch = pending.pop()
            try:
                try:
                    await self._store(batch)
                except _TooMuchToDecompress:
                    if len(batch) > 1:
                        pending += _halves(batch)
                    else:
                        await self._store(batch, unlimited=True)
            except _DataError as error:
                if len(batch) > 1:
                    pending += _halves(batch)
                else:
                    refused[batch[0].seq] = str(error)
        if refused:
            raise RecordsRefused(refused)

    async def close(self) -> None:
        """Drops the connection; the server rolls back what was not committed."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _store(self, batch: Sequence[Record], *, unlimited: bool = False) -> None:
        connection = self._connection
        if connection is None:
            raise SinkUnavailable("PostgreSQL is not connected")
        # Rather than asyncpg's own timeout, which sends a cancel request: PgBouncer 1.18 can crash on those.
        watchdog = asyncio.get_running_loop().call_later(SILENCE_LIMIT, connection.terminate)
        try:
            bodies = b"[" + b",".join([element for record in batch for element in _elements(record)]) + b"]"
            if unlimited:
                async with connection.transaction():
                    await connection.execute(_NO_DECOMPRESSION_LIMIT)
                    await connection.fetchval(_INGEST, bodies.decode())
            else:
                await connection.fetchval(_INGEST, bodies.decode())
        except UnicodeDecodeError as error:
            raise _DataError(f"not UTF-8: {error.reason}") from None
        except asyncpg.PostgresError as error:
            code = error.sqlstate or ""
            if code == _DECOMPRESSION_LIMIT:
                raise _TooMuchToDecompress from None
            if code[:2] in _DATA_ERROR_CLASSES:
                # Not its detail, which quotes the row.
                raise _DataError(f"{type(error).__name__} ({code}): {error.args[0]}") from None
            raise SinkUnavailable(f"PostgreSQL did not store a batch ({code}): {error.args[0]}") from error
        except CONNECTION_LOST as error:
            raise SinkUnavailable(f"lost the connection to PostgreSQL: {error}") from error
        finally:
            watchdog.cancel()


def _elements(record: Record) -> Iterator[bytes]:
    yield record.body
    # Decoding every body would cost more than all else here.
    if _HAS_EDIT_DATE not in record.body:
        return
    try:
        event = record.event
    except (msgspec.DecodeError, UnicodeDecodeError):
        return  # the database says what is wrong with it
    if event.kind == "message.new" and event.edit_date is not None:
        yield encode(as_edit(event)).removesuffix(b"}") + _DERIVED


def _halves(batch: Sequence[Record]) -> tuple[Sequence[Record], Sequence[Record]]:
    middle = len(batch) // 2
    # The earlier half comes off the stack first: revisions are numbered in order of arrival.
    return batch[middle:], batch[:middle]
