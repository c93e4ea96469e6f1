"""Logs: fields for journald, JSON with a priority for other readers, and no secret in any of them."""

import io
import json
import logging
import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from telethon.errors import TypeNotFoundError

from gateway import journald
from gateway.logs import configure_logging, redact


class Receiver:
    """journald's place: reads entries as its protocol describes them."""

    def __init__(self, address: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(address))

    def entry(self) -> dict[str, str]:
        data, fields = self.socket.recv(1 << 18), {}
        while data:
            line, _, data = data.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                (size,) = struct.unpack("<Q", data[:8])
                value, data = data[8 : 8 + size], data[9 + size :]
            fields[name.decode()] = value.decode()
        return fields


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What a test sets up for the whole process is gone after it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def stderr(tmp_path: Path) -> Iterator[io.TextIOWrapper]:
    """A stream that systemd has connected to the journal, as its variable says."""
    with (tmp_path / "stderr").open("w+") as stream:
        yield stream


@pytest.fixture
def journal(stderr: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    status = os.fstat(stderr.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    with tempfile.TemporaryDirectory() as directory:  # a socket's path must be short
        monkeypatch.setattr(journald, "SOCKET", f"{directory}/socket")
        receiver = Receiver(Path(directory, "socket"))
        configure_logging("INFO", stream=stderr)
        yield receiver
        receiver.socket.close()


def test_the_journal_gets_a_field_for_each_word_and_a_line_to_read(journal: Receiver) -> None:
    structlog.get_logger().warning("flood_wait", account="main", seconds=3, reason="too fast", of=None)
    entry = journal.entry()
    assert entry["MESSAGE"] == 'flood_wait account=main seconds=3 reason="too fast" of=null'
    assert (entry["EVENT"], entry["ACCOUNT"], entry["SECONDS"]) == ("flood_wait", "main", "3")
    assert (entry["PRIORITY"], entry["REASON"], entry["SYSLOG_IDENTIFIER"]) == (
        "4",
        "too fast",
        "telegram-gateway",
    )
    assert entry["CODE_FILE"] == __file__
    assert entry["CODE_FUNC"] == "test_the_journal_gets_a_field_for_each_word_and_a_line_to_read"


def test_a_field_that_is_journalds_own_is_not_overwritten(journal: Receiver) -> None:
    structlog.get_logger().info("message_hidden", message=7, message_id=8, unit="other.service")
    entry = journal.entry()
    assert entry["MESSAGE"].startswith("message_hidden")
    assert "MESSAGE_ID" not in entry
    assert "UNIT" not in entry
    assert (entry["TELEGRAM_MESSAGE"], entry["TELEGRAM_MESSAGE_ID"]) == ("7", "8")


def test_a_line_break_makes_no_field_of_its_own(journal: Receiver) -> None:
    structlog.get_logger().error("sink_down", reason="gone\nEVENT=ready\nPRIORITY=7")
    entry = journal.entry()
    assert (entry["EVENT"], entry["PRIORITY"]) == ("sink_down", "3")
    assert entry["REASON"] == "gone\nEVENT=ready\nPRIORITY=7"


def test_a_traceback_is_to_be_read_with_the_message(journal: Receiver) -> None:
    try:
        int("amqp://u:hunter2@h/")
    except ValueError:
        structlog.get_logger().critical("crashed", exc_info=True)
    entry = journal.entry()
    assert entry["MESSAGE"].splitlines()[0] == "crashed"
    assert "ValueError" in entry["MESSAGE"]
    assert entry["EXCEPTION"].startswith("Traceback")
    assert "hunter2" not in str(entry)


def test_other_libraries_log_to_the_journal_too_and_name_no_event(journal: Receiver) -> None:
    logging.getLogger("aiormq").error("lost amqp://u:hunter2@h/")
    entry = journal.entry()
    assert (entry["LOGGER"], entry["PRIORITY"]) == ("aiormq", "3")
    assert "EVENT" not in entry
    assert entry["CODE_FILE"] == __file__
    assert "hunter2" not in str(entry)


def test_what_journald_does_not_take_is_a_line_as_before(journal: Receiver, stderr: io.TextIOWrapper) -> None:
    journal.socket.close()
    structlog.get_logger().warning("sink_retry", sink="redis")
    stderr.seek(0)
    line = stderr.read()
    assert line.startswith("<4>")
    assert json.loads(line[3:])["sink"] == "redis"


def test_a_variable_that_was_meant_for_a_process_above_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, stderr: io.TextIOWrapper
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:12345")
    configure_logging("INFO", stream=stderr)
    structlog.get_logger().info("ready")
    stderr.seek(0)
    assert json.loads(stderr.read()[3:])["event"] == "ready"


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
