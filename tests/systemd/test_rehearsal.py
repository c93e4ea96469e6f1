"""The great rehearsal: a gateway's whole life on one host, by the operator's own commands, under traffic."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.old_stack import CHANNELS, OldStack
from tests.systemd.machine import Unsupported
from tests.systemd.rehearsal import (
    API,
    API_HASH,
    BROKEN,
    FIRST,
    GATEWAY,
    NEXT,
    ROWS,
    WORKER,
    Host,
    rehearsal_host,
)

CREDENTIALS = "/root/credentials"
UNITS = (GATEWAY, API, WORKER)


@pytest.mark.timeout(1800)
async def test_from_installation_to_removal_no_message_is_lost(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    try:
        async with rehearsal_host(tmp_path) as host:
            try:
                await rehearse(host, tmp_path)
            except BaseException:
                print(host.journal())
                raise
            finally:
                for phase, seconds in host.seconds.items():
                    record_property(f"phase: {phase}", f"{seconds:6.1f} s")
    except Unsupported as reason:
        pytest.skip(str(reason))


async def rehearse(host: Host, scratch: Path) -> None:
    old = await host.make_old_stack(scratch)
    async with host.consumer.running():
        with host.phase("install"):
            await install(host)
        with host.phase(f"migrate {ROWS} rows and the session"):
            await migrate(host, old)
        with host.phase("start"):
            await start(host)
        with host.phase("messages flow"):
            await host.post(300)
            await host.everything_arrives()
        with host.phase("upgrade"):
            await upgrade(host)
        with host.phase("broken upgrade rolls itself back"):
            await broken_upgrade(host)
        with host.phase("backup"):
            await host.run("systemctl", "start", "telegram-gateway-backup.service")
        with host.phase("wipe"):
            await wipe(host)
        with host.phase("restore"):
            await restore(host)
        with host.phase("back to the old stack"):
            await back_to_the_old_stack(host, old)
        with host.phase("uninstall"):
            await uninstall(host)
        assert await host.differences() == []


async def install(host: Host) -> None:
    root = host.machine.root
    host.write_credentials(CREDENTIALS)
    said = await host.install(FIRST, "install", "--credentials", CREDENTIALS, "--dry-run")
    assert "would make /opt/telegram-gateway/releases/0.1.0" in said
    assert not (root / "opt/telegram-gateway").exists()
    assert not (root / "etc/telegram-gateway").exists()

    # There is no session yet, and no application.
    said = await host.install(FIRST, "install", "--credentials", CREDENTIALS, code=78)
    assert "FAIL configuration: TELEGRAM_API_ID and TELEGRAM_API_HASH are not set" in said
    assert "applied 0001_messages" in said
    assert API_HASH not in said
    host.configure()


async def migrate(host: Host, old: OldStack) -> None:
    host.since = host.sandbox.world.position
    async with host.traffic():
        said = await host.move("migrate", "--stop-old", "touch /root/old-stopped", "--for", "5s")
    assert (host.machine.root / "root/old-stopped").exists()
    assert "-- watch:" in said
    carried = "SELECT FROM telegram_gateway.messages WHERE channel_id = ANY ($1::text[])"
    assert len(await host.ask(carried, CHANNELS)) == old.messages


async def start(host: Host) -> None:
    # The migration brought the session, and now nothing is missing.
    root = host.machine.root
    configured = (root / "etc/telegram-gateway/telegram-gateway.env").read_text()
    said = await host.install(FIRST, "install", "--credentials", CREDENTIALS)
    assert "FAIL" not in said
    assert (root / "etc/telegram-gateway/telegram-gateway.env").read_text() == configured
    owners = await host.run(
        *("stat", "--format=%a %U:%G %n", "/etc/telegram-gateway/credentials/api_hash"),
        *("/etc/telegram-gateway/telegram-gateway.env", "/opt/telegram-gateway/.session/main.session"),
    )
    assert owners.splitlines() == [
        "600 root:root /etc/telegram-gateway/credentials/api_hash",
        "640 root:telegram-gateway /etc/telegram-gateway/telegram-gateway.env",
        "600 telegram-gateway:telegram-gateway /opt/telegram-gateway/.session/main.session",
    ]
    await host.run("systemctl", "enable", "--now", *UNITS, "telegram-gateway-backup.timer")
    assert (await host.status())["version"] == FIRST


async def upgrade(host: Host) -> None:
    steps = await host.migrations()
    async with host.traffic():
        said = await host.install(NEXT, "upgrade")
    for unit in UNITS:
        assert f"{unit} is ready" in said
    assert (await host.status())["version"] == NEXT
    assert await host.migrations() == steps + 1
    assert "is installed already" in await host.install(NEXT, "upgrade")
    await host.everything_arrives()


async def broken_upgrade(host: Host) -> None:
    steps = await host.migrations()
    async with host.traffic():
        said = await host.install(BROKEN, "upgrade", "--no-backup", "--wait", "15", code=3)
    assert f"not ready after 15 s: {GATEWAY}" in said
    assert "_broken" in said
    assert (await host.status())["version"] == NEXT
    assert await host.migrations() == steps
    assert "version 0.2.0 runs again" in said
    await host.everything_arrives()


async def wipe(host: Host) -> None:
    # What came after the backup is in neither the backup nor, from now on, here.
    await host.post(100)
    await host.run("systemctl", "stop", *UNITS)
    await host.wipe()
    await host.post(50)


async def restore(host: Host) -> None:
    host.restored = True
    said = await host.run("telegram-gateway", "backup", "restore", "latest")
    assert "session of main: restored" in said
    await host.run("telegram-gateway", "db", "migrate")
    await host.run("telegram-gateway", "doctor")
    await host.run("systemctl", "start", *UNITS)
    await host.everything_arrives()


async def back_to_the_old_stack(host: Host, old: OldStack) -> None:
    await host.move("rollback-migration", "--start-old", "touch /root/old-started")
    assert (host.machine.root / "root/old-started").exists()
    assert host.machine.show(GATEWAY, "ActiveState") == "inactive"
    kept = "SELECT FROM telegram_gateway.messages"
    assert len(await host.ask(kept, old=True)) >= old.rows
    # What Telegram brought to us since is there as well, message by message.
    ours = await host.ask(
        "SELECT channel_id, message_id::text, text, caption FROM telegram_gateway.messages_current "
        "WHERE NOT is_deleted AND channel_id <> ALL ($1::text[])",
        CHANNELS,
    )
    theirs = await host.ask(
        "SELECT channel_id, message_id, text, caption FROM telegram_gateway.messages "
        "WHERE deleted_at IS NULL AND channel_id <> ALL ($1::text[]) AND channel_id ~ '^-?[0-9]+$'",
        CHANNELS,
        old=True,
    )
    assert len(ours) > 300
    assert sorted(map(repr, map(tuple, theirs))) == sorted(map(repr, map(tuple, ours)))


async def uninstall(host: Host) -> None:
    root = host.machine.root
    await host.script(NEXT, "uninstall")
    for unit in (*UNITS, "telegram-gateway-backup.timer"):
        assert host.machine.show(unit, "LoadState") == "not-found"
    assert not (root / "usr/local/bin/telegram-gateway").exists()
    assert (root / "opt/telegram-gateway/.session/main.session").exists()
    assert (root / "var/lib/telegram-gateway/journal.db").exists()
    assert (root / "etc/telegram-gateway/telegram-gateway.env").exists()
    assert not (root / "opt/telegram-gateway/releases").exists()

    await host.script(NEXT, "uninstall", "--purge", "--yes")
    places = "opt/telegram-gateway", "var/lib/telegram-gateway", "etc/telegram-gateway"
    assert not [place for place in (*places, "var/backups/telegram-gateway") if (root / place).exists()]
    await host.run("id", "telegram-gateway", code=1)
