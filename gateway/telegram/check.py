"""Asks Telegram, without receiving updates, whether a session is still logged in."""

import asyncio

from telethon import TelegramClient, errors
from telethon.errors import AuthKeyNotFound
from telethon.tl import functions, types

from gateway.errors import SessionDead, SessionError
from gateway.telegram.reasons import reason
from gateway.telegram.server import ServerAddress
from gateway.telegram.session import GatewaySession, SessionDirectory

CHECK_SECONDS = 30.0


async def check_session(
    account: str,
    sessions: SessionDirectory,
    api_id: int,
    api_hash: str,
    server: ServerAddress | None,
) -> str:
    """The name and id of who is logged in.

    Raises SessionDead when Telegram refuses the session, SessionError when the file cannot be used, another
    process uses it, or the server cannot be reached.
    """
    with sessions.lock(account):
        stored = sessions.load(account)
        if server is not None:
            stored = server.redirect(stored)
        client = TelegramClient(
            GatewaySession(stored),
            api_id,
            api_hash,
            connection_retries=0,
            auto_reconnect=False,
            receive_updates=False,
        )
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await client.connect()
                me = (await client(functions.users.GetUsersRequest([types.InputUserSelf()])))[0]
        except (errors.UnauthorizedError, errors.AuthKeyError, AuthKeyNotFound) as error:
            raise SessionDead(
                f"Telegram refuses the session ({reason(error)}); "
                f"log in again with: telegram-gateway login --account {account}"
            ) from None
        except (OSError, TimeoutError, errors.RPCError) as error:
            raise SessionError(
                f"cannot ask Telegram at {stored.server_address}:{stored.port} ({reason(error)})"
            ) from None
        finally:
            await client.disconnect()
    return f"{me.first_name} ({'bot' if me.bot else 'user'} {me.id})"
