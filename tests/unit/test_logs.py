"""Logs: JSON with a priority for journald, and no secret in any of them."""

import io
import json
import logging

import structlog
from telethon.errors import TypeNotFoundError

from gateway.logs import configure_logging, redact


def _line(stream: io.StringIO) -> tuple[str, dict[str, object]]:
    text = stream.getvalue().strip().splitlines()[-1]
    return text[:3], json.loads(text[3:])


def test_a_line_is_json_behind_its_syslog_priority() -> None:
    stream = io.StringIO()
    configure_logging("INFO", stream=stream)
    structlog.get_logger().warning("sink_retry", sink="redis", attempt=3)
    priority, fields = _line(stream)
    assert priority == "<4>"
    assert (fields["event"], fields["sink"], fields["attempt"]) == ("sink_retry", "redis", 3)


def test_secrets_are_blanked_by_name_and_in_urls() -> None:
    stream = io.StringIO()
    configure_logging("INFO", stream=stream)
    structlog.get_logger().error(
        "sink_down",
        password="hunter2",
        api_hash="abcdef",
        reason="cannot reach amqp://telegram:hunter2@127.0.0.1/telegram",
        token_text="110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw",
    )
    assert "hunter2" not in stream.getvalue()
    assert "abcdef" not in stream.getvalue()
    assert "AAHdq" not in stream.getvalue()


def test_other_libraries_log_in_the_same_form() -> None:
    stream = io.StringIO()
    configure_logging("INFO", stream=stream)
    logging.getLogger("aiormq").error("lost amqp://u:hunter2@h/")
    priority, fields = _line(stream)
    assert priority == "<3>"
    assert fields["logger"] == "aiormq"
    assert "hunter2" not in str(fields["event"])


def test_redact_leaves_ordinary_text_alone() -> None:
    assert redact("postgresql://telegram@127.0.0.1:6434/db at 10:30") == (
        "postgresql://telegram@127.0.0.1:6434/db at 10:30"
    )


def test_what_telethon_could_not_read_is_not_quoted() -> None:
    stream = io.StringIO()
    configure_logging("DEBUG", stream=stream)
    error = TypeNotFoundError(0x12345678, b"PETR4 compra 38,10")
    assert "PETR4" in str(error)
    logging.getLogger("telethon.network").error("Unhandled error while receiving data", exc_info=error)
    structlog.get_logger().warning("connection_lost", reason=str(error))
    structlog.get_logger().critical("crashed", exc_info=error)
    assert "crashed" in stream.getvalue()
    assert "TypeNotFoundError" in stream.getvalue()
    assert "PETR4" not in stream.getvalue()


def test_codes_that_are_no_secrets_are_shown() -> None:
    stream = io.StringIO()
    configure_logging("INFO", stream=stream)
    structlog.get_logger().critical("cannot_run", exit_code=78, code="12345")
    _, fields = _line(stream)
    assert fields["exit_code"] == 78
    assert "12345" not in stream.getvalue()
