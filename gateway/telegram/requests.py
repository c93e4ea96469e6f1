"""What every request to Telegram goes through: flood waits are kept to, and every request comes to an end.

Telethon would sleep through a flood wait, wait for an answer as long as the line holds, and end the
connection at an object that it does not know; each would hold up every chat of the account.
"""

import asyncio
import time
from typing import Any

import structlog
from telethon import TelegramClient, errors

from gateway import metrics
from gateway.telegram.reasons import UndecodableAnswer, reason

log = structlog.get_logger()

ANSWER_SECONDS = 30.0  # a request that is not answered by then has failed; a silent line is noticed otherwise


class PatientClient(TelegramClient):  # type: ignore[misc]  # untyped base
    """A client of `account` that raises FloodWaitError by itself until Telegram may be asked again."""

    def __init__(self, account: str, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.account = account
        self._flood_until: dict[str, float] = {}

    async def __call__(self, request: Any, ordered: bool = False, flood_sleep_threshold: Any = None) -> Any:
        method = type(request).__name__.removesuffix("Request")
        remaining = self._flood_until.get(method, 0.0) - time.monotonic()
        if remaining > 0:
            raise errors.FloodWaitError(request=request, capture=int(remaining) + 1)
        patience = asyncio.timeout(ANSWER_SECONDS)
        try:
            async with patience:
                return await self._ask(request, ordered, flood_sleep_threshold)
        except TimeoutError:
            if not patience.expired():
                raise
            # Telethon would wait for as long as the line holds, and with it every chat of the account.
            metrics.RPC_ERRORS.labels(self.account, "no_answer").inc()
            log.warning("answer_missing", account=self.account, method=method, seconds=ANSWER_SECONDS)
            raise errors.ServerError(request, "NO_ANSWER", 500) from None
        except errors.RPCError as error:
            if error.request is not request:
                raise  # of a request on the way to this one's answer, and noted there
            self._note(method, error)
            if isinstance(error, errors.AuthKeyError) and not isinstance(
                error, errors.AuthKeyDuplicatedError
            ):
                # Telethon calls every 406 an error of the key, and would have the account given up.
                raise errors.RPCError(request, reason(error), error.code) from None
            raise
        except errors.TypeNotFoundError as error:
            # Telethon would end the connection, and the next one would ask for the same answer. As a failed
            # difference it is asked for again, while all other chats go on.
            metrics.RPC_ERRORS.labels(self.account, "undecodable").inc()
            constructor = f"{error.invalid_constructor_id:08x}"
            log.error("answer_undecodable", account=self.account, method=method, constructor=constructor)  # noqa: TRY400
            raise UndecodableAnswer(request, constructor) from None

    def _note(self, method: str, error: errors.RPCError) -> None:
        metrics.RPC_ERRORS.labels(self.account, str(error.code)).inc()
        if isinstance(error, errors.FloodWaitError):
            self._flood_until[method] = time.monotonic() + error.seconds
            metrics.FLOOD_WAIT_SECONDS.labels(self.account, method).inc(error.seconds)
            log.warning("flood_wait", account=self.account, method=method, seconds=error.seconds)

    async def _ask(self, request: Any, ordered: bool, flood_sleep_threshold: Any) -> Any:
        return await super().__call__(request, ordered, flood_sleep_threshold)
