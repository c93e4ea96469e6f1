"""The great rehearsal: a gateway's whole life on one host, by the operator's own commands, under traffic."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.systemd.machine import Unsupported
from tests.systemd.rehearsal import API, API_HASH, BROKEN, FIRST, GATEWAY, NEXT, WORKER, Host, rehearsal_host

CREDENTIALS = "/root/credentials"
UNITS = (GATEWAY, API, WORKER)


@pytest.mark.timeout(900)
async def test_from_installation_to_removal_no_message_is_lost(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    try:
        async with rehearsal_host(tmp_path) as host:
            try:
                await rehearse(host)
            except BaseException:
                print(host.journal())
                raise
            finally:
                for phase, seconds in host.seconds.items():
                    record_property(f"phase: {phase}", f"{seconds:6.1f} s")
    except Unsupported as reason:
        pytest.skip(str(reason))


async def rehearse(host: Host) -> None:
    with host.phase("install"):
        await install(host)
    async with host.consumer.running():
        with host.phase("start"):
            await start(host)
        with host.phase("messages flow"):
            await host.post(300)
            await host.everything_arrives()
        with host.phase("upgrade"):
            await upgrade(host)
        with host.phase("broken upgrade rolls itself back"):
            await broken_upgrade(host)
        with host.phase("everything is there"):
            await host.post(100)
            await host.everything_arrives()
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
    await host.log_in()

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


async def start(host: Host) -> None:
    await host.run("systemctl", "enable", "--now", *UNITS, "telegram-gateway-backup.timer")
    host.since = host.sandbox.world.position
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


async def broken_upgrade(host: Host) -> None:
    steps = await host.migrations()
    async with host.traffic():
        said = await host.install(BROKEN, "upgrade", "--no-backup", "--wait", "15", code=3)
    assert f"not ready after 15 s: {GATEWAY}" in said
    assert "applied 0019_broken" in said or "_broken" in said
    assert (await host.status())["version"] == NEXT
    assert await host.migrations() == steps
    assert "version 0.2.0 runs again" in said


async def uninstall(host: Host) -> None:
    root = host.machine.root
    await host.script(NEXT, "uninstall")
    units = await host.run("systemctl", "list-unit-files", "--no-legend", "telegram-gateway*", code=1)
    assert units == ""
    assert (root / "opt/telegram-gateway/.session/main.session").exists()
    assert (root / "var/lib/telegram-gateway/journal.db").exists()
    assert (root / "etc/telegram-gateway/telegram-gateway.env").exists()
    assert not (root / "opt/telegram-gateway/releases").exists()
