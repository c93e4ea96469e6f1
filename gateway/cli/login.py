"""`telegram-gateway login`: logs an account in, interactively or from flags and environment alone."""

import asyncio
import os
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import click
import qrcode

from gateway.cli.session import keep_backup
from gateway.errors import ConfigurationError, LoginFailed
from gateway.logs import configure_logging
from gateway.settings import load_settings
from gateway.telegram.login import Login
from gateway.telegram.server import ServerAddress
from gateway.telegram.session import SessionDirectory
from gateway.telegram.session_backup import SessionBackups


class _Terminal:
    """Answers from the flags first, then from the person at the terminal."""

    def __init__(self, phone: str | None, code: str | None, password: str | None) -> None:
        self._phone = phone
        self._code = code
        self._password = password

    async def phone(self) -> str:
        return self._phone or await _ask("Phone number (+5511999990001)", "phone")

    async def code(self, retry: bool) -> str:
        if self._code is not None:
            if retry:
                raise LoginFailed("the login code was wrong; run login again to get a new one")
            return self._code
        return await _ask("Wrong code. Code" if retry else "Login code", "code")

    async def password(self, retry: bool) -> str:
        if self._password is not None:
            if retry:
                raise LoginFailed("the two-step password was wrong; run login again with the right one")
            return self._password
        return await _ask(
            "Wrong password. Password" if retry else "Two-step password", "password", hidden=True
        )


async def _ask(text: str, flag: str, *, hidden: bool = False) -> str:
    """A line typed at the terminal. Read on the event loop: a thread in `input` would not hear Ctrl-C."""
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"the {flag} is needed and there is no terminal to ask at; "
            f"give --{flag} or set TELEGRAM_LOGIN_{flag.upper()}"
        )
    with _echo(not hidden):
        while True:
            click.echo(f"{text}: ", nl=False)
            typed = await _read_line()
            if hidden or not typed:
                click.echo()
            if not typed:
                raise click.Abort
            if answer := typed.decode(errors="replace").strip():
                return answer


async def _read_line() -> bytes:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sys.stdin, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return os.read(sys.stdin.fileno(), 4096)  # the terminal hands over one line at a time


@contextmanager
def _echo(shown: bool) -> Iterator[None]:
    before = termios.tcgetattr(sys.stdin)
    if not shown:
        silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _draw(url: str) -> None:
    code = qrcode.QRCode(border=2)
    code.add_data(url)
    code.print_ascii(invert=True)
    click.echo(f"Scan it in Telegram: Settings → Devices → Link Desktop Device. Or open: {url}")


@click.command(name="login")
@click.option("--account", default="main", show_default=True, help="Name of the session file.")
@click.option("--phone", envvar="TELEGRAM_LOGIN_PHONE", help="Phone number, +5511999990001.")
@click.option("--code", envvar="TELEGRAM_LOGIN_CODE", help="Login code, when it is known beforehand.")
@click.option("--password", envvar="TELEGRAM_LOGIN_PASSWORD", help="Two-step password.")
@click.option("--bot-token", envvar="TELEGRAM_LOGIN_BOT_TOKEN", help="Log in as this bot.")
@click.option("--qr", is_flag=True, help="Draw a QR code to scan.")
def command(
    account: str, phone: str | None, code: str | None, password: str | None, bot_token: str | None, qr: bool
) -> int:
    """Log an account in and write its session file.

    A secret is better given in TELEGRAM_LOGIN_CODE, TELEGRAM_LOGIN_PASSWORD or TELEGRAM_LOGIN_BOT_TOKEN
    than as a flag, which other users of the host can see.
    """
    if qr and bot_token:
        raise ConfigurationError("--qr and --bot-token contradict each other; give one of them")
    settings = load_settings(accounts=(account,))
    configure_logging(settings.log_level)
    api_id, api_hash = settings.require_api_credentials()
    sessions = SessionDirectory.from_settings(settings)
    login = Login(
        account,
        sessions,
        api_id=api_id,
        api_hash=api_hash,
        server=ServerAddress.from_settings(settings),
    )
    terminal = _Terminal(phone, code, password)
    if bot_token:
        who = asyncio.run(login.with_bot_token(bot_token))
    elif qr:
        who = asyncio.run(login.with_qr(_draw, terminal))
    else:
        who = asyncio.run(login.with_code(terminal))
    kind = "bot" if who.bot else "user"
    click.echo(f"Logged in as {who.name} ({kind} {who.user_id}); session: {sessions.file(account)}")
    keep_backup(SessionBackups(settings.session_backups, sessions), account)
    return 0
