"""The secret files of the containers in `deploy/compose*.yaml`, each owned by the one user who reads it.

`deploy/bin/secrets` runs this on a host that has no Python environment yet: nothing but the standard library.
"""

import argparse
import hashlib
import json
import os
import secrets as random_secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import GatewayError
from gateway.server_secrets import Passwords, server_files, write_private

_CONFIG_DIR = Path(__file__).resolve().parents[1] / "deploy"
# It takes nothing: Alertmanager counts and logs each failure until it is given a real address.
UNSET_URL = "http://127.0.0.1:9093/no-address-was-given"

# Users of the images, as `user:` in the compose files has them.
_POSTGRES = 70
_REDIS = 999
_RABBITMQ = 999
_NOBODY = 65534
_REDIS_EXPORTER = 59000
_GRAFANA = 472


@dataclass(frozen=True)
class Secret:
    """One file: who reads it, what it holds, and whether what is there already stays."""

    uid: int
    text: str
    keep: bool = False


def container_secrets(passwords: Passwords, config_dir: Path) -> dict[str, Secret]:
    """Every file by name, with new random values where a file is kept if it exists."""
    # The salt only has to differ between passwords; a fixed one leaves the file alone when nothing changed.
    servers = server_files(passwords, config_dir, hashlib.sha256(passwords.rabbitmq.encode()).digest()[:4])
    redis = {f"redis://127.0.0.1:{port}": passwords.redis for port in (6379, 6380)}
    sentinels = {f"redis://127.0.0.1:{port}": passwords.redis_sentinel for port in (26379, 26380, 26381)}
    return {
        "timescaledb-admin-password": Secret(_POSTGRES, random_secrets.token_hex(24), keep=True),
        "timescaledb-gateway-password": Secret(_POSTGRES, passwords.db),
        "pgbouncer-userlist": Secret(_POSTGRES, servers["userlist.txt"]),
        "redis-passwords": Secret(_REDIS, servers["redis-passwords.conf"]),
        "sentinel-passwords": Secret(_REDIS, servers["sentinel-passwords.conf"]),
        "rabbitmq-definitions": Secret(_RABBITMQ, servers["definitions.json"]),
        "postgres-exporter-password": Secret(_NOBODY, passwords.db),
        "pgbouncer-exporter-pgpass": Secret(_NOBODY, f"127.0.0.1:6434:pgbouncer:telegram:{passwords.db}\n"),
        "redis-exporter-passwords": Secret(_REDIS_EXPORTER, json.dumps(redis | sentinels)),
        "grafana-admin-password": Secret(_GRAFANA, random_secrets.token_hex(24), keep=True),
        "grafana-secret-key": Secret(_GRAFANA, random_secrets.token_hex(24), keep=True),
        "alertmanager-page-url": Secret(_NOBODY, UNSET_URL, keep=True),
        "alertmanager-notify-url": Secret(_NOBODY, UNSET_URL, keep=True),
        "alertmanager-watchdog-url": Secret(_NOBODY, UNSET_URL, keep=True),
    }


def write_container_secrets(credentials: Path, directory: Path, config_dir: Path = _CONFIG_DIR) -> list[str]:
    """Makes what is missing or outdated in `directory`, from the gateway's own passwords in `credentials`.

    Returns the names of the files that were written. A password that exists in `credentials` is taken, one
    that does not is made there; so that is where a password is changed.
    """
    for place in (credentials, directory):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.chmod(0o700)
    passwords = Passwords.load_or_generate(credentials, prefix="")
    wanted = container_secrets(passwords, config_dir)
    return [name for name, secret in wanted.items() if _put(directory / name, secret)]


def _put(file: Path, secret: Secret) -> bool:
    """Whether the file had to be written; its owner and mode are right afterwards in any case."""
    if not file.exists():
        fresh = file.with_name(f".{file.name}.new")
        write_private(fresh, secret.text)
        os.chown(fresh, secret.uid, -1)
        fresh.replace(file)
        return True
    os.chown(file, secret.uid, -1)
    file.chmod(0o600)
    if secret.keep or file.read_text() == secret.text:
        return False
    # In place: a running container has this very file mounted, and would keep a replaced one.
    file.write_text(secret.text)
    return True


def main() -> None:
    """The command behind `deploy/bin/secrets`."""
    parser = argparse.ArgumentParser(
        prog="secrets",
        description="Make the secret files of the containers: random, 0600, each its reader's own. "
        "Files that exist are kept, and follow the gateway's passwords when those change.",
    )
    parser.add_argument("--credentials", type=Path, default=Path("/etc/telegram-gateway/credentials"))
    parser.add_argument("--directory", type=Path, default=Path("/etc/telegram-gateway/containers"))
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("run this as root: each file is given to the user of the container that reads it")
    try:
        written = write_container_secrets(options.credentials, options.directory)
    except GatewayError as error:
        sys.exit(f"secrets: {error}")
    report = [f"{options.directory}: {', '.join(written) if written else 'everything is in place'}"]
    for kind in ("page", "notify", "watchdog"):
        file = options.directory / f"alertmanager-{kind}-url"
        if file.read_text().strip() == UNSET_URL:
            report.append(f"no alert reaches anybody yet: put a webhook's address into {file}")
    sys.stdout.write("\n".join(report) + "\n")
