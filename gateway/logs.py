"""Structured logs: entries with fields for journald, text for a terminal, else one JSON object a line.

Message bodies are never given to a logger; this module only guards against secrets that slip in through
an exception's text or a URL.
"""

import atexit
import json
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
from structlog.processors import CallsiteParameter, CallsiteParameterAdder

from gateway.journald import Journald, encode, field_name, is_journal

_SECRET_NAMES = re.compile(
    r"password|passwd|secret|token|api_hash|auth_key|phone|dsn|^(login_)?code$", re.IGNORECASE
)
_URL_PASSWORD = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@]+@", re.IGNORECASE)
_BOT_TOKEN = re.compile(r"\b\d{6,12}:[A-Za-z0-9_-]{30,}")
# Telethon's TypeNotFoundError quotes what it could not read: a message body as likely as not.
_UNREAD_BYTES = re.compile(r"(?<=Remaining bytes: )[^\n]+")
_REDACTED = "[redacted]"

_IDENTIFIER = "telegram-gateway"
_PLAIN = re.compile(r"[^\s\"=]+\Z")

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


class _LineRenderer:
    """JSON behind a syslog priority, for whoever reads the stream."""

    def __init__(self) -> None:
        self._json = structlog.processors.JSONRenderer(ensure_ascii=False)

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        rendered = self._json(logger, method, event)
        assert isinstance(rendered, str)
        return f"<{_priority(event)}>{rendered}"


class _JournalEntries(logging.Handler):
    """Sends entries to journald: structlog's as the last of its processors, other libraries' as a handler."""

    def __init__(self, journald: Journald, stream: TextIO) -> None:
        super().__init__()
        self._journald = journald
        self._stream = stream
        self._line = _LineRenderer()

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        if not self._journald.send(encode(_fields(event))):
            self._stream.write(self._line(logger, method, event) + "\n")
            self._stream.flush()
        raise structlog.DropEvent  # it is written

    def emit(self, record: logging.LogRecord) -> None:
        event: Any = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "exc_info": record.exc_info,
            "pathname": record.pathname,
            "lineno": record.lineno,
            "func_name": record.funcName,
        }
        try:
            for process in (*_SHARED, self):
                event = process(None, "", event)
        except structlog.DropEvent:
            return


def _fields(event: MutableMapping[str, Any]) -> dict[str, str]:
    """The journal's fields. MESSAGE is for reading, everything else in it has a field as well."""
    values = dict(event)
    name, exception = str(values.pop("event")), values.pop("exception", None)
    code = {"CODE_FILE": "pathname", "CODE_LINE": "lineno", "CODE_FUNC": "func_name"}
    fields = {field: str(values.pop(key)) for field, key in code.items() if key in values}
    fields |= {"PRIORITY": str(_priority(event)), "SYSLOG_IDENTIFIER": _IDENTIFIER}
    del values["level"], values["timestamp"]  # PRIORITY, and journald's own
    if "logger" not in values:
        fields["EVENT"] = name
    words = [name]
    for key, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        words.append(f"{key}={text if _PLAIN.match(text) else json.dumps(text, ensure_ascii=False)}")
        if value is not None:
            fields[field_name(key)] = text
    message = " ".join(words)
    if exception is not None:
        fields["EXCEPTION"] = str(exception)
        message += f"\n{exception}"
    return {"MESSAGE": message, **fields}


def _priority(event: MutableMapping[str, Any]) -> int:
    return _PRIORITIES.get(str(event.get("level", "info")), 6)


_LEVEL = structlog.processors.add_log_level
_SHARED: tuple[Any, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
    _redact_event,
)


def configure_logging(level: str = "INFO", *, stream: TextIO | None = None) -> None:
    """Sets up structlog and the standard library's logging (Telethon, aiormq) to the same output.

    That is the journal where systemd has connected stderr to it. Otherwise it is `stream` (stderr): text for
    a terminal, and JSON lines with syslog priorities for anything else.
    """
    out = stream or sys.stderr
    handler: logging.Handler
    if is_journal(out):
        journald = Journald()
        atexit.register(journald.wait_taken)
        handler = entries = _JournalEntries(journald, out)
        place = {CallsiteParameter.PATHNAME, CallsiteParameter.LINENO, CallsiteParameter.FUNC_NAME}
        processors = [_LEVEL, CallsiteParameterAdder(place), *_SHARED, entries]
    else:
        terminal = out.isatty()
        renderer: Any = structlog.dev.ConsoleRenderer(colors=True) if terminal else _LineRenderer()
        processors = [_LEVEL, *_SHARED, renderer]
        handler = logging.StreamHandler(out)
        handler.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=[structlog.stdlib.add_logger_name, _LEVEL, *_SHARED],
                processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            )
        )
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # Telethon logs whole updates, message bodies included, at DEBUG and sometimes at WARNING, and every
    # lost connection as an error; the gateway reports what matters itself.
    logging.getLogger("telethon").setLevel(logging.CRITICAL)
