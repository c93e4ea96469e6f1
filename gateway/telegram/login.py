"""Logging an account in: by code and two-step password, by bot token, or by scanning a QR code."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from telethon import TelegramClient, errors

from gateway import __version__
from gateway.errors import ConfigurationError, LoginFailed, SessionError
from gateway.telegram.reasons import reason
from gateway.telegram.server import ServerAddress
from gateway.telegram.session import GatewaySession, SessionDirectory

CONNECT_SECONDS = 30.0
QR_SECONDS = 300.0  # a QR code is renewed until then
ATTEMPTS = 3
KEY_ATTEMPTS = 3


class Prompt(Protocol):
    """Where phone, code and password come from: the terminal, or what was given beforehand."""

    async def phone(self) -> str:
        """The phone number, in international form."""

    async def code(self, retry: bool) -> str:
        """The login code; `retry` when the one before was wrong."""

    async def password(self, retry: bool) -> str:
        """The two-step password; `retry` when the one before was wrong."""


@dataclass(frozen=True)
class LoggedIn:
    """Who a login turned out to be."""

    user_id: int
    name: str
    bot: bool


class Login:
    """Logs one account in and writes its session file. Holds the session's lock meanwhile.

    Every method raises LoginFailed with what to do, SessionError when the session is in use or Telegram
    refuses the application, and ConnectionError when the server cannot be reached.
    """

    def __init__(
        self,
        account: str,
        sessions: SessionDirectory,
        *,
        api_id: int,
        api_hash: str,
        server: ServerAddress | None = None,
    ) -> None:
        self._account = account
        self._sessions = sessions
        self._api = (api_id, api_hash)
        self._server = server

    async def with_code(self, prompt: Prompt) -> LoggedIn:
        """By the code that Telegram sends to the phone, and the two-step password where there is one."""

        async def steps(client: TelegramClient) -> Any:
            phone = await prompt.phone()
            await client.send_code_request(phone)
            for attempt in range(ATTEMPTS):
                try:
                    return await client.sign_in(phone, await prompt.code(attempt > 0))
                except errors.SessionPasswordNeededError:
                    return await self._two_step(client, prompt)
                except (errors.PhoneCodeInvalidError, errors.PhoneCodeEmptyError):
                    continue
            raise LoginFailed("the login code was wrong; run login again to get a new one")

        return await self._log_in(steps)

    async def with_bot_token(self, token: str) -> LoggedIn:
        """As a bot."""

        async def steps(client: TelegramClient) -> Any:
            return await client.sign_in(bot_token=token)

        return await self._log_in(steps)

    async def with_qr(self, show: Callable[[str], None], prompt: Prompt) -> LoggedIn:
        """By a QR code: `show` is given its `tg://login` address, again each time it is renewed."""

        async def steps(client: TelegramClient) -> Any:
            code = await client.qr_login()
            try:
                async with asyncio.timeout(QR_SECONDS):
                    while True:
                        show(code.url)
                        try:
                            return await code.wait()
                        except TimeoutError:
                            await code.recreate()
            except TimeoutError:
                raise LoginFailed("the QR code was not scanned in time; run login again") from None
            except errors.SessionPasswordNeededError:
                return await self._two_step(client, prompt)

        return await self._log_in(steps)

    async def _two_step(self, client: TelegramClient, prompt: Prompt) -> Any:
        for attempt in range(ATTEMPTS):
            try:
                return await client.sign_in(password=await prompt.password(attempt > 0))
            except errors.PasswordHashInvalidError:
                continue
        raise LoginFailed("the two-step password was wrong; run login again with the right one")

    async def _log_in(self, steps: Callable[[TelegramClient], Awaitable[Any]]) -> LoggedIn:
        with self._sessions.lock(self._account):
            session = GatewaySession()
            if self._server is not None:
                session.set_dc(self._server.dc_id, self._server.host, self._server.port)
            client = TelegramClient(
                session,
                *self._api,
                app_version=f"telegram-gateway {__version__}",
                # One new key in 256 begins with a zero byte, and Telethon has to make another one.
                connection_retries=KEY_ATTEMPTS,
                auto_reconnect=False,
            )
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await client.connect()
                user = await steps(client)
                self._sessions.store(self._account, session.stored())
            except errors.FloodWaitError as error:
                raise LoginFailed(
                    f"Telegram allows no login for {error.seconds} s after too many tries; wait first"
                ) from None
            except errors.ApiIdInvalidError:
                raise ConfigurationError(
                    "Telegram does not know TELEGRAM_API_ID with this TELEGRAM_API_HASH; "
                    "copy both from https://my.telegram.org"
                ) from None
            except errors.PhoneNumberInvalidError:
                raise LoginFailed(
                    "Telegram does not know this phone number; write it as +5511999990001"
                ) from None
            except errors.AccessTokenInvalidError:
                raise LoginFailed("Telegram refuses this bot token; copy it again from @BotFather") from None
            except errors.RPCError as error:
                raise LoginFailed(f"Telegram refused the login ({reason(error)})") from None
            except (OSError, TimeoutError) as error:
                host = f"{session.server_address}:{session.port}"
                raise SessionError(
                    f"cannot reach Telegram at {host} ({error or 'timeout'}); "
                    "check the network or TELEGRAM_SERVER"
                ) from None
            finally:
                await client.disconnect()
        name = " ".join(part for part in (user.first_name, user.last_name) if part)
        return LoggedIn(user.id, name, bool(user.bot))
