"""The table `tp_capital.signals`: one row per message, as its newest revision says.

Every statement runs in the transaction that it is given, which is the one that records the event as done: a
row and its record come together or not at all. Each may be repeated, and older revisions change nothing.
"""

from datetime import datetime
from typing import Literal

from gateway.consumer import Event, Transaction
from gateway.tp_capital.parser import Reason, Signal

Outcome = Literal["stored", "withdrawn", "outdated"]

_SAVE = """
INSERT INTO tp_capital.signals AS s (
    account_scope, channel_id, message_id, event_id, ticker, buy_min, buy_max, targets, stop,
    signal_date, revised_at, received_at, source, mode
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT (account_scope, channel_id, message_id) DO UPDATE
SET event_id = excluded.event_id,
    ticker = excluded.ticker,
    buy_min = excluded.buy_min,
    buy_max = excluded.buy_max,
    targets = excluded.targets,
    stop = excluded.stop,
    withdrawn = NULL,
    signal_date = excluded.signal_date,
    revised_at = excluded.revised_at,
    received_at = excluded.received_at,
    source = excluded.source,
    mode = excluded.mode,
    updated_at = now()
WHERE s.withdrawn IS DISTINCT FROM 'deleted'
  AND (excluded.revised_at, excluded.received_at) >= (s.revised_at, s.received_at)
RETURNING 1
"""
# Gives no row when the message has none, else whether it was withdrawn now.
_WITHDRAW = """
WITH withdrawn AS (
    UPDATE tp_capital.signals
    SET event_id = $4, withdrawn = $5, revised_at = $6, received_at = $7, updated_at = now()
    WHERE (account_scope, channel_id, message_id) = ($1, $2, $3)
      AND withdrawn IS DISTINCT FROM 'deleted'
      AND (revised_at, received_at) <= ($6, $7)
    RETURNING 1
)
SELECT EXISTS (SELECT FROM withdrawn)
FROM tp_capital.signals
WHERE (account_scope, channel_id, message_id) = ($1, $2, $3)
"""
# Also for a message that has no row: its signal may still wait among the dead letters.
_DELETE = """
INSERT INTO tp_capital.signals AS s (
    account_scope, channel_id, message_id, event_id, withdrawn, revised_at, received_at, source, mode
) VALUES ($1, $2, $3, $4, 'deleted', $5, $5, $6, $7)
ON CONFLICT (account_scope, channel_id, message_id) DO UPDATE
SET event_id = excluded.event_id, withdrawn = 'deleted', updated_at = now()
"""


async def save(transaction: Transaction, event: Event, signal: Signal, mode: str) -> Outcome:
    """Makes the message's row say `signal`; outdated when a newer revision or a deletion was there before."""
    saved = await transaction.fetchval(
        _SAVE,
        *_key(event),
        signal.ticker,
        signal.buy_min,
        signal.buy_max,
        signal.targets,
        signal.stop,
        event.telegram_date,
        _revised_at(event),
        event.received_at,
        event.source,
        mode,
    )
    return "stored" if saved else "outdated"


async def withdraw(transaction: Transaction, event: Event, reason: Reason) -> Outcome | None:
    """Marks the row of a message whose newest revision is no signal; None when the message has no row."""
    withdrawn = await transaction.fetchval(
        _WITHDRAW, *_key(event), reason.value, _revised_at(event), event.received_at
    )
    return None if withdrawn is None else "withdrawn" if withdrawn else "outdated"


async def delete(transaction: Transaction, event: Event, mode: str) -> Outcome:
    """Marks the row of a message that was deleted, now and for whatever revision of it still comes."""
    await transaction.execute(_DELETE, *_key(event), event.received_at, event.source, mode)
    return "withdrawn"


def _key(event: Event) -> tuple[int, str, int, str]:
    return event.account_scope, event.channel_id, event.message_id, event.id


def _revised_at(event: Event) -> datetime:
    return event.edit_date or event.telegram_date or event.received_at
