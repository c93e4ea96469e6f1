"""The OpenAPI document says what the API does: examples work, and hostile requests find no other answer."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator
from prometheus_client import CollectorRegistry

from gateway.event import encode, utc_now
from gateway.health import JournalStatus, OpenGap, OpenGaps, Status
from gateway.http import serve
from gateway.telegram.account import AccountHealth
from tests.api.conftest import Api
from tests.api.operations import PUBLIC, STREAMS, Operation, operations
from tests.sink_events import CHANNEL, new

# What is deleted is deleted last.
OPERATIONS = sorted(operations(), key=lambda operation: operation.method == "delete")
DOCUMENT = OPERATIONS[0].document
# Their examples name what exists only for as long as somebody has not dealt with it.
MAY_BE_GONE = {
    "get_dead_letter",
    "drop_dead_letter",
    "requeue_dead_letter",
    "get_sync",
}
SECONDS = 45


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """Of a schema that refers to the document's components."""
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


@pytest_asyncio.fixture(scope="module", autouse=True)
async def the_examples_messages(api: Api) -> None:
    """What the examples ask for."""
    connection = await asyncpg.connect(api.stack.postgres.dsn)
    bodies = [encode(new(number)).decode() for number in range(4700, 4720)]
    await connection.fetchval("SELECT telegram_gateway.ingest($1)", f"[{','.join(bodies)}]")
    await connection.execute("UPDATE telegram_gateway.channels SET is_active = true, hidden_at = NULL")
    await connection.close()


@pytest_asyncio.fixture
async def daemon(api: Api) -> AsyncIterator[None]:
    """The daemon's own port, as of one that has a gap."""
    gap = OpenGap("main", CHANNEL, 4720, 4725, "reconcile", reread=False, since=utc_now())
    status = Status("0", True, [AccountHealth("main")], JournalStatus(0, 0, 1 << 30, 0, False), [])

    async def its_status() -> Status:
        return status

    async def its_gaps() -> OpenGaps:
        return OpenGaps(1, [gap])

    async with serve(("127.0.0.1", api.daemon_port), CollectorRegistry(), its_status, its_gaps):
        yield


def test_the_document_is_openapi_3_1_and_every_schema_in_it_is_one() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_operation_has_a_name_a_tag_a_description_and_its_errors() -> None:
    names = [str(operation) for operation in OPERATIONS]
    assert len(set(names)) == len(names)
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for operation in OPERATIONS:
        assert operation.spec["description"], operation
        assert set(operation.spec["tags"]) <= tags, operation
        for code, answer in operation.spec["responses"].items():
            assert answer["description"] != "Successful Response" or code[0] == "2", operation
            if code[0] in "45" and str(operation) not in PUBLIC:
                assert "application/problem+json" in answer["content"], (operation, code)


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
async def test_its_examples_work_and_the_answer_is_as_described(api: Api, operation: Operation) -> None:
    client = api.client(("admin",))
    answer = await client.send(operation.request(client), stream=True)
    try:
        kind = answer.headers.get("content-type", "").partition(";")[0]
        described = operation.spec["responses"][str(answer.status_code)]
        if operation.streams and answer.status_code == 200:
            assert kind == STREAMS
            return
        await answer.aread()
    finally:
        await answer.aclose()
    allowed = {200, 201, 202, 204}
    allowed |= {404} if str(operation) in MAY_BE_GONE else set()
    assert answer.status_code in allowed, answer.text
    if answer.status_code == 204:
        assert answer.content == b""
        return
    schema = described["content"][kind]["schema"]
    value = answer.json() if kind.endswith("json") else answer.text
    assert [error.message for error in validator(schema).iter_errors(value)] == []


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_the_examples_in_the_document_fit_its_schemas(operation: Operation) -> None:
    for answer in operation.spec["responses"].values():
        for content in answer.get("content", {}).values():
            examples = [each["value"] for each in content.get("examples", {}).values()]
            examples += [content["example"]] if "example" in content else []
            for example in examples:
                errors = validator(content["schema"]).iter_errors(example)
                assert [error.message for error in errors] == []


@pytest.mark.usefixtures("daemon")
async def test_hostile_requests_break_nothing_and_find_no_answer_that_is_not_described(
    api: Api, tmp_path: Path
) -> None:
    streams = [operation.path for operation in OPERATIONS if operation.streams]
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"{api.url}/openapi.json",
        "--seed=20261121",
        "--generation-database=none",
        "--max-examples=20",
        f"--max-time={SECONDS}",
        "--request-timeout=60",
        "--phases=examples,coverage,fuzzing",
        "--exclude-checks=positive_data_acceptance",
        "--suppress-health-check=too_slow",  # a machine that stands still for a second is no finding
        "--no-shrink",
        "--no-color",
        "--continue-on-failure",
        "--workers=1",
        f"--header=Authorization: Bearer {await api.token(('admin',))}",
        *(f"--exclude-path={path}" for path in streams),
    ]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=tmp_path
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()[-12_000:]
    failed = [line for line in api.log.splitlines() if json.loads(line[3:])["event"] == "request_failed"]
    assert failed == []
