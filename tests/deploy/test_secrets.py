"""deploy/bin/secrets: random, each file its reader's alone, and harmless to run again."""

import base64
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from gateway.container_secrets import UNSET_URL
from gateway.localstack.stack import CONFIG_DIR
from gateway.server_secrets import rabbitmq_password_hash
from tests.deploy.compose import service, services

SCRIPT = CONFIG_DIR / "bin" / "secrets"


class Made:
    """The script's two directories, and the script."""

    def __init__(self, directory: Path) -> None:
        self.credentials = directory / "credentials"
        self.directory = directory / "containers"

    def run(self) -> str:
        # As on a host that has Debian's Python and nothing else.
        return subprocess.run(
            [SCRIPT, "--credentials", self.credentials, "--directory", self.directory],
            env={"PATH": "/usr/bin:/bin"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def contents(self) -> dict[str, tuple[str, int, int]]:
        """Each file's text, owner and inode: a container that has it mounted does not see a replaced one."""
        return {
            file.name: (file.read_text(), file.stat().st_uid, file.stat().st_ino)
            for file in sorted(self.directory.iterdir())
        }

    def text(self, name: str) -> str:
        return (self.directory / name).read_text()


@pytest.fixture
def made(tmp_path: Path) -> Made:
    made = Made(tmp_path)
    made.run()
    return made


def test_every_file_is_readable_by_the_user_of_its_container_and_nobody_else(made: Made) -> None:
    assert made.directory.stat().st_mode & 0o777 == made.credentials.stat().st_mode & 0o777 == 0o700
    readers = {name: one.uid for one in services() for name in one.secrets}
    assert {name: uid for name, (_, uid, _) in made.contents().items()} == readers
    for file in (*made.directory.iterdir(), *made.credentials.iterdir()):
        assert file.stat().st_mode & 0o777 == 0o600
    # Those that the units load are root's.
    assert {file.name: file.stat().st_uid for file in made.credentials.iterdir()} == dict.fromkeys(
        ("db_password", "redis_password", "redis_sentinel_password", "rabbitmq_password"), 0
    )


def test_running_it_again_changes_nothing(made: Made) -> None:
    before = made.contents()
    assert "everything is in place" in made.run()
    assert made.contents() == before


def test_no_two_passwords_are_alike_and_none_is_shown(tmp_path: Path) -> None:
    first, second = Made(tmp_path / "first"), Made(tmp_path / "second")
    shown = first.run() + second.run()
    found: list[str] = []
    for one in (first, second):
        found += [file.read_text() for file in one.credentials.iterdir()]
        found += [one.text(name) for name in ("timescaledb-admin-password", "grafana-admin-password")]
        found.append(one.text("grafana-secret-key"))
    assert len(set(found)) == len(found) == 14
    assert all(re.fullmatch(r"[0-9a-f]{48}", value) for value in found)
    assert not [value for value in found if value in shown]


def test_the_gateways_password_is_taken_and_followed(made: Made) -> None:
    kept = made.text("grafana-admin-password")
    mounted = {name: inode for name, (_, _, inode) in made.contents().items()}
    for name in ("db", "redis", "redis_sentinel", "rabbitmq"):
        (made.credentials / f"{name}_password").write_text(f"new{name.replace('_', '')}\n")
    made.run()
    assert made.text("timescaledb-gateway-password") == "newdb"
    assert made.text("pgbouncer-userlist") == '"telegram" "newdb"\n'
    assert made.text("pgbouncer-exporter-pgpass").endswith(":telegram:newdb\n")
    assert "requirepass newredis\n" in made.text("redis-passwords")
    assert "sentinel auth-pass telegram newredis\n" in made.text("sentinel-passwords")
    assert "requirepass newredissentinel\n" in made.text("sentinel-passwords")
    definitions = json.loads(made.text("rabbitmq-definitions"))
    known = definitions["users"][0]["password_hash"]
    assert known == rabbitmq_password_hash("newrabbitmq", base64.b64decode(known)[:4])
    assert made.text("grafana-admin-password") == kept
    # The same files, so that running containers see what is new.
    assert {name: inode for name, (_, _, inode) in made.contents().items()} == mounted


def test_an_address_for_alerts_is_asked_for_until_it_is_there_and_then_kept(made: Made) -> None:
    file = made.directory / "alertmanager-page-url"
    assert file.read_text() == UNSET_URL
    assert str(file) in made.run()
    file.write_text("https://chat.example.com/hooks/page\n")
    assert str(file) not in made.run()
    assert file.read_text() == "https://chat.example.com/hooks/page\n"


def test_a_file_that_an_operator_left_open_is_closed_again(made: Made) -> None:
    file = made.directory / "grafana-admin-password"
    os.chown(file, 0, 0)
    file.chmod(0o644)
    made.run()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.stat().st_uid == service("grafana").uid


def test_a_password_that_a_server_could_not_read_back_is_refused(made: Made) -> None:
    (made.credentials / "redis_password").write_text('a "quoted" one')
    with pytest.raises(subprocess.CalledProcessError) as failed:
        made.run()
    assert "letters and digits" in failed.value.stderr
    assert "quoted" not in failed.value.stderr
