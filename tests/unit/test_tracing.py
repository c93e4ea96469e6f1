"""Traces: which messages are chosen, that every part chooses the same, and the setting."""

import subprocess
import sys

import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from gateway.errors import ConfigurationError
from gateway.settings import load_settings
from gateway.tracing import Sampling, TraceIds, start_tracing

EVENTS = [f"0:-1001649127710:{number}" for number in range(5_000)]


def test_a_message_has_the_same_trace_in_every_process_and_no_other_message_has() -> None:
    program = f"from gateway.tracing import TraceIds; print(TraceIds.of({EVENTS[7]!r}))"
    elsewhere = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == str(TraceIds.of(EVENTS[7]))
    assert len({TraceIds.of(event).trace for event in EVENTS}) == len(EVENTS)
    assert len({TraceIds.of(event).publish for event in EVENTS}) == len(EVENTS)


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5, 1.0])
def test_the_chosen_share_is_the_one_that_opentelemetrys_own_sampler_chooses(ratio: float) -> None:
    ours, theirs = Sampling(ratio), TraceIdRatioBased(ratio)
    chosen = [event for event in EVENTS if ours.choose(event) is not None]
    assert len(chosen) == pytest.approx(ratio * len(EVENTS), abs=0.02 * len(EVENTS))
    for event in EVENTS:
        decision = theirs.should_sample(None, TraceIds.of(event).trace, "receive").decision
        assert (ours.choose(event) is not None) == (decision is Decision.RECORD_AND_SAMPLE)


def test_the_header_says_whether_the_message_is_traced() -> None:
    ids = TraceIds.of(EVENTS[0])
    assert Sampling(1).traceparent(EVENTS[0]) == f"00-{ids.trace:032x}-{ids.publish:016x}-01"
    assert Sampling(0).traceparent(EVENTS[0]) == f"00-{ids.trace:032x}-{ids.publish:016x}-00"


def test_a_collector_without_a_path_gets_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEGRAM_TRACING_ENDPOINT", "http://127.0.0.1:4318/")
    assert load_settings().tracing_endpoint == "http://127.0.0.1:4318/v1/traces"
    monkeypatch.setenv("TELEGRAM_TRACING_ENDPOINT", "https://collector/otlp/v1/traces")
    assert load_settings().tracing_endpoint == "https://collector/otlp/v1/traces"


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("TELEGRAM_TRACING_ENDPOINT", "127.0.0.1:4318", "starts with http://"),
        ("TELEGRAM_TRACING_ENDPOINT", "http://me:hunter2@collector", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("TELEGRAM_TRACING_RATIO", "1.5", "less than or equal to 1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, hint: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=hint) as refused:
        load_settings()
    assert name in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_without_an_endpoint_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TELEGRAM_TRACING_ENDPOINT", raising=False)
    assert start_tracing(load_settings()) is None
