"""Structured logs: one JSON object a line for journald, readable text on a terminal, secrets blanked out.

Message bodies are never given to a logger; this module only guards against secrets that slip in through
an exception's text or a URL.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

_SECRET_NAMES = re.compile(
    r"password|passwd|secret|token|api_hash|auth_key|phone|dsn|^(login_)?code$", re.IGNORECASE
)
_URL_PASSWORD = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@]+@", re.IGNORECASE)
_BOT_TOKEN = re.compile(r"\b\d{6,12}:[A-Za-z0-9_-]{30,}")
# Telethon's TypeNotFoundError quotes what it could not read: a message body as likely as not.
_UNREAD_BYTES = re.compile(r"(?<=Remaining bytes: )[^\n]+")
_REDACTED = "[redacted]"

# journald reads a syslog priority from "<N>" at the start of a line (sd-daemon(3)).
_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}


def redact(text: str) -> str:
    """`text` without passwords in URLs, bot tokens, and what Telegram sent and nobody could read."""
    text = _URL_PASSWORD.sub(rf"\g<head>{_REDACTED}@", text)
    return _UNREAD_BYTES.sub(_REDACTED, _BOT_TOKEN.sub(_REDACTED, text))


def _redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if _SECRET_NAMES.search(name):
            event[name] = _REDACTED
        elif isinstance(value, str):
            event[name] = redact(value)
        elif isinstance(value, BaseException):
            event[name] = redact(f"{type(value).__name__}: {value}")
    return event


class _JournaldRenderer:
    def __init__(self) -> None:
        self._json = structlog.processors.JSONRenderer(ensure_ascii=False)

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        level = str(event.get("level", "info"))
        rendered = self._json(logger, method, event)
        assert isinstance(rendered, str)
        return f"<{_PRIORITIES.get(level, 6)}>{rendered}"


def configure_logging(
    level: str = "INFO", *, stream: TextIO | None = None, journald: bool | None = None
) -> None:
    """Sets up structlog and the standard library's logging (Telethon, aiormq) to the same output.

    `journald` forces JSON lines with priorities; by default that is what a stream that is no terminal gets.
    """
    out = stream or sys.stderr
    as_json = not out.isatty() if journald is None else journald
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    renderer: Any = _JournaldRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=out.isatty())
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # Telethon logs whole updates, message bodies included, at DEBUG and sometimes at WARNING, and every
    # lost connection as an error; the gateway reports what matters itself.
    logging.getLogger("telethon").setLevel(logging.CRITICAL)
