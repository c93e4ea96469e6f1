"""How the baselines log in to the sandbox: an unmodified Telethon client; only address and key differ."""

from pathlib import Path
from typing import Any

from telethon import TelegramClient
from telethon.crypto import rsa
from telethon.sessions import MemorySession

PHONE = "+5511999990001"


async def logged_in(host: str, port: str, key: str, **options: Any) -> Any:
    """A connected client that knows every channel, as Telethon's documentation has it."""
    rsa.add_key(Path(key).read_text(), old=False)
    session = MemorySession()
    session.set_dc(2, host, int(port))
    client = TelegramClient(session, 1, "sandbox", **options)
    await client.connect()
    await client.send_code_request(PHONE)
    await client.sign_in(PHONE, "12345")
    await client.get_dialogs()
    return client
