"""Each phase on real PostgreSQL: what a kill, a duplicate, an odd row and a second run come to, and the
way back."""

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.localstack import LocalStack
from tests import old_stack
from tests.migration_rig import Move, moving

ROWS = 6000
# What writes messages where there are some already does not come to an end.
STOPS_AFTER_A_BATCH = (
    """
    CREATE FUNCTION telegram_gateway.stop() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM telegram_gateway.messages) THEN PERFORM pg_sleep(600); END IF;
        RETURN NULL;
    END $$
    """,
    "CREATE TRIGGER stop BEFORE INSERT ON telegram_gateway.messages EXECUTE FUNCTION telegram_gateway.stop()",
)
CONTENT = """
SELECT channel_id, message_id::text, text, caption, media_type, sender_id, sender_name, sender_username,
received_at
FROM telegram_gateway.{table} ORDER BY 1, message_id::bigint
"""


@pytest_asyncio.fixture(scope="module")
async def stack() -> AsyncIterator[LocalStack]:
    async with LocalStack(servers=("postgres", "pgbouncer")) as running:
        yield running


@pytest_asyncio.fixture
async def move(stack: LocalStack, tmp_path: Path) -> AsyncIterator[Move]:
    async with moving(stack, tmp_path) as move:
        await old_stack.fill(move.old, rows=ROWS, days=6)
        yield move


async def test_every_message_comes_over_once_with_its_newest_content_and_status(move: Move) -> None:
    await move.run("copy")
    said = await move.run("verify")
    assert f"{ROWS} messages in the old database, {ROWS} in the new one" in said
    newest = await move.ask_old(
        "SELECT DISTINCT ON (channel_id, message_id) channel_id, message_id, text, caption, media_type, "
        "sender_id, "
        "sender_name, sender_username, min(received_at) OVER (PARTITION BY channel_id, message_id) "
        "FROM telegram_gateway.messages WHERE channel_id || message_id ~ '^[-0-9]+$' AND message_id <> '0' "
        "ORDER BY channel_id, message_id, updated_at DESC"
    )
    taken = await move.ask_new(CONTENT.format(table="messages"))
    assert sorted(map(tuple, newest)) == sorted(map(tuple, taken)), "no message, word or sender was changed"
    statuses = await move.ask_old(
        "SELECT status, count(*) FROM (SELECT DISTINCT ON (channel_id, message_id) status FROM "
        "telegram_gateway.messages "
        "WHERE channel_id || message_id ~ '^[-0-9]+$' AND message_id <> '0' "
        "ORDER BY channel_id, message_id, updated_at DESC) AS newest GROUP BY 1"
    )
    there = {row[0]: row[1] for row in statuses}
    rows = await move.ask_new(
        "SELECT status, count(*) FROM telegram_gateway.message_processing WHERE consumer = 'tp-capital' "
        "GROUP BY 1"
    )
    here = {row[0]: row[1] for row in rows}
    assert here == {
        "received": there["received"] + there["queued"] + there["reprocess_pending"],
        "published": there["published"] + there["reprocessed"],
        "retrying": there["retrying"],
        "failed": there["failed"],
        "ignored": there["deleted"],
    }
    hidden = await move.ask_new("SELECT count(*) FROM telegram_gateway.hidden_messages")
    assert hidden[0][0] == there["deleted"], "what was deleted by hand stays out of sight"
    sources = await move.ask_new("SELECT DISTINCT source, chat_type FROM telegram_gateway.messages")
    assert [tuple(row) for row in sources] == [("import", "channel")]
    failed = await move.ask_new(
        "SELECT DISTINCT attempts, left(error, 9) FROM telegram_gateway.message_processing WHERE status "
        "= 'failed'"
    )
    assert [tuple(row) for row in failed] == [(3, "no signal")]


async def test_rows_that_have_no_place_are_kept_in_a_private_file_as_they_were(move: Move) -> None:
    said = await move.run("copy")
    assert f"{old_stack.REJECTED} rows have no usable id" in said
    file = move.state_dir / "migration" / "rejected.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row["channel_id"] + "/" + row["message_id"] for row in rows} == {
        "@sem_numero/1",
        "-1001649127710/abc",
        "-1001649127710/0",
    }
    assert all(row["text"] for row in rows)
    assert file.stat().st_mode & 0o777 == 0o600
    undated = await move.ask_new(
        "SELECT count(*) FROM telegram_gateway.messages "
        "WHERE metadata -> 'old_gateway' ->> 'telegram_date' = 'missing' "
        "AND telegram_date = date_trunc('second', received_at)"
    )
    assert undated[0][0] == ROWS // 1000, "without a date, a message is of when it was received"


async def test_a_copy_that_is_killed_goes_on_where_it_was(move: Move) -> None:
    for statement in STOPS_AFTER_A_BATCH:
        await move.ask_new(statement)
    process = await move.start("migrate", "copy")
    async with asyncio.timeout(120):
        while not (before := (await move.ask_new("SELECT count(*) FROM telegram_gateway.messages"))[0][0]):
            assert process.returncode is None
            await asyncio.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    await process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 0 < before < ROWS
    await move.ask_new("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    await move.ask_new("DROP FUNCTION telegram_gateway.stop() CASCADE")
    await move.run("copy")
    await move.run("verify")
    assert "0 messages of 0 days" in await move.run("copy"), "there is nothing left to carry"


async def test_verify_finds_a_missing_an_added_and_an_altered_row(move: Move) -> None:
    await move.run("copy")
    await move.run("verify")
    await move.ask_old(
        "UPDATE telegram_gateway.messages SET text = 'outra coisa' WHERE channel_id = $1 AND message_id "
        "= '30'",
        old_stack.CHANNELS[1],
    )
    said = await move.run("verify", code=78)
    assert old_stack.CHANNELS[1] in said
    assert "content" in said
    await move.ask_new(
        "DELETE FROM telegram_gateway.messages WHERE channel_id = $1 AND message_id = 77",
        old_stack.CHANNELS[2],
    )
    await move.ask_new(
        "UPDATE telegram_gateway.message_processing SET status = 'failed' WHERE channel_id = $1 AND "
        "message_id = 90",
        old_stack.CHANNELS[3],
    )
    said = await move.run("verify", code=78)
    assert "number of messages" in said
    assert "status" in said
    assert "3 of" in said
    assert "not verified" in await move.run("switch", code=78)


async def test_what_the_old_stack_changes_after_the_copy_comes_as_edit_and_status(move: Move) -> None:
    await move.run("copy")
    await move.ask_old(
        "UPDATE telegram_gateway.messages SET text = 'corrigido depois', status = 'published', "
        "updated_at = now() "
        "WHERE channel_id = $1 AND message_id = '91'",
        old_stack.CHANNELS[0],
    )
    await move.ask_old(
        "INSERT INTO telegram_gateway.messages (channel_id, message_id, text, telegram_date) "
        "VALUES ($1, '900001', 'nova', date_trunc('second', now()))",
        old_stack.CHANNELS[0],
    )
    await move.run("copy")
    await move.run("verify")
    current = await move.ask_new(
        "SELECT m.text, p.status FROM telegram_gateway.messages_current m "
        "JOIN telegram_gateway.message_processing p USING (account_scope, channel_id, message_id) "
        "WHERE channel_id = $1 AND message_id IN (91, 900001) ORDER BY message_id",
        old_stack.CHANNELS[0],
    )
    assert [tuple(row) for row in current] == [("corrigido depois", "published"), ("nova", "received")]


async def test_what_goes_there_and_back_is_the_same_and_can_go_again(move: Move) -> None:
    """The old table is as it was, but for what came since: once, with what the consumer made of it."""
    await move.run("copy")
    before = await move.ask_old("SELECT to_jsonb(m) FROM telegram_gateway.messages m")
    assert "carried back: 0 messages added, 0 edited, 0 with a new status" in await move.run("rollback")
    after = await move.ask_old("SELECT to_jsonb(m) FROM telegram_gateway.messages m")
    assert sorted(row[0] for row in after) == sorted(row[0] for row in before)

    chat = old_stack.CHANNELS[0]
    event = {
        "v": 1, "kind": "message.new", "account": "main", "account_scope": 0, "channel_id": chat,
        "chat_type": "channel", "chat_title": "TP", "message_id": 5001, "text": "COMPRA VALE3",
        "telegram_date": "2026-11-21T10:00:00Z", "received_at": "2026-11-21T10:00:01.5Z", "source": "mtproto",
        "id": f"0:{chat}:5001", "message_type": "channel_post", "metadata": {"views": 3},
        "entities": [{"type": "bold", "offset": 0, "length": 6}],
    }  # fmt: skip
    edit = {**event, "kind": "message.edited", "id": f"{event['id']}:edit:1:x", "text": "COMPRA VALE3 já",
            "edit_date": "2026-11-21T10:01:00Z", "received_at": "2026-11-21T10:01:01.5Z"}  # fmt: skip
    deleted = {
        key: event[key] for key in ("v", "account", "account_scope", "channel_id", "chat_type", "source")
    }
    deleted |= {"kind": "message.deleted", "id": f"0:{chat}:91:delete", "message_id": 91,
                "received_at": "2026-11-21T10:02:00.25Z"}  # fmt: skip
    await move.ask_new("SELECT telegram_gateway.ingest($1::json)", json.dumps([event, edit, deleted]))
    await move.ask_new(
        "SELECT telegram_gateway.record_processing('tp-capital', 0, $1, id, status, NULL) "
        "FROM (VALUES (5001::bigint, 'ignored'), (14, 'published')) AS done (id, status)",
        chat,
    )
    assert "nothing was changed" not in await move.run("rollback", "--dry-run")
    said = await move.run("rollback")
    assert "carried back: 1 messages added, 0 edited, 2 with a new status" in said
    added = await move.ask_old(
        "SELECT text, status, message_type, metadata, deleted_at FROM telegram_gateway.messages "
        "WHERE channel_id = $1 AND message_id = '5001'",
        chat,
    )
    assert [tuple(row) for row in added] == [
        ("COMPRA VALE3 já", "published", "channel_post", '{"views": 3}', None)
    ]
    moved_on = await move.ask_old(
        "SELECT message_id, status, deleted_at IS NOT NULL FROM telegram_gateway.messages "
        "WHERE channel_id = $1 AND message_id IN ('14', '91') ORDER BY 1",
        chat,
    )
    assert tuple(moved_on[0])[:2] == ("14", "published")
    assert moved_on[1][2] is True
    assert "0 messages added, 0 edited, 0 with" in await move.run("rollback"), "a second time changes nothing"

    await move.run("copy")
    await move.run("verify")
    twice = await move.ask_new(
        "SELECT count(*) FROM telegram_gateway.messages WHERE channel_id = $1 AND message_id = 5001", chat
    )
    assert twice[0][0] == 1
    revisions = await move.ask_new("SELECT count(*) FROM telegram_gateway.message_revisions")
    assert revisions[0][0] == 2, "what came from here is not taken for an edit of the old stack"


async def test_what_retention_would_drop_at_once_is_refused_and_can_stay_behind(move: Move) -> None:
    move.environment = {"TELEGRAM_DB_RETENTION": "4d"}
    said = await move.run("copy", code=78)
    assert "TELEGRAM_DB_RETENTION" in said
    assert "--since" in said
    assert (await move.ask_new("SELECT count(*) FROM telegram_gateway.messages"))[0][0] == 0
    await move.run("copy", "--since", "3d")
    said = await move.run("verify")
    assert 0 < int(re.search(r"(\d+) messages in the old database", said)[1]) < ROWS  # type: ignore[index]


async def test_preflight_says_what_is_wrong_and_changes_nothing(move: Move, stack: LocalStack) -> None:
    said = await move.run("preflight")
    assert "!!" not in said
    for seen in ("PostgreSQL 15", f"{ROWS} messages of 8 chats", "no usable id", "MB needed"):
        assert seen in said
    said = await move.run("preflight", "--dry-run", "--volume", "/nonexistent/volume", code=78)
    assert "!!  session: /nonexistent/volume" in said
    said = await move.run("preflight", "--old-dsn", "postgresql://x:hunter2@127.0.0.1/x", code=78)
    assert "TELEGRAM_OLD_DB_PASSWORD" in said
    assert "hunter2" not in said
    move.old = stack.postgres.dsn
    said = await move.run("preflight", "--dry-run", code=78)
    assert "this gateway's own database" in said
    assert (await move.ask_new("SELECT count(*) FROM telegram_gateway.messages"))[0][0] == 0


async def test_a_dry_run_writes_nothing(move: Move) -> None:
    for phase in (["copy"], ["verify"], ["rollback"], ["all"], ["watch"], ["sessions"]):
        code = 78 if phase == ["verify"] else 0
        await move.run(*phase, "--dry-run", code=code)
    assert (await move.ask_new("SELECT count(*) FROM telegram_gateway.messages"))[0][0] == 0
    assert not (move.state_dir / "migration").exists()
    assert not (move.state_dir / "journal.db").exists()


async def test_private_chats_need_to_know_whose_they_are(move: Move) -> None:
    await move.ask_old(
        "INSERT INTO telegram_gateway.messages (channel_id, message_id, text, telegram_date) "
        "VALUES ('777001', '5', 'oi', now()), ('-4242', '6', 'bom dia', now())"
    )
    assert "--user-id" in await move.run("copy", code=78)
    await move.run("copy", "--user-id", "42")
    await move.run("verify")
    rows = await move.ask_new(
        "SELECT account_scope, channel_id, chat_type FROM telegram_gateway.messages WHERE account_scope "
        "<> 0 ORDER BY 2"
    )
    assert [tuple(row) for row in rows] == [(42, "-4242", "group"), (42, "777001", "private")]


@pytest.mark.parametrize("what", ["old", "new"])
async def test_a_database_that_is_away_is_named_in_one_line(move: Move, what: str) -> None:
    nowhere = "postgresql://telegram@127.0.0.1:1/telegram_gateway"
    name = "TELEGRAM_OLD_DB_DSN" if what == "old" else "TELEGRAM_DB_DIRECT_DSN"
    move.environment = {name: nowhere}
    said = await move.run("verify", code=1)
    assert name in said
    assert len(said.splitlines()) == 1
    assert os.fspath(move.state_dir) not in said
