"""What a gateway calls its leases and itself, and the leases it remembers on the local disk."""

import asyncio
import hashlib
import os
import socket
from pathlib import Path

import msgspec
import structlog

log = structlog.get_logger()

_MACHINE_ID = Path("/etc/machine-id")


def key_lease(auth_key: bytes) -> str:
    """The name of an authorisation key's lease, which gives nothing of the key away."""
    return f"key:{hashlib.sha256(auth_key).hexdigest()[:16]}"


def user_lease(user_id: int, server: tuple[str, int] | None) -> str:
    """The name of a Telegram user's lease; each server other than Telegram's own numbers its users itself."""
    return f"user:{user_id}" if server is None else f"user:{user_id}@{server[0]}:{server[1]}"


def holder_of(account: str, state_dir: Path) -> str:
    """Who runs `account` here: the same after every restart, another on any other host or state directory."""
    try:
        machine = hashlib.sha256(b"telegram-gateway" + _MACHINE_ID.read_bytes()).hexdigest()[:8]
    except OSError:
        machine = "no machine-id"
    return f"{account} at {socket.gethostname()}:{state_dir.resolve()} ({machine})"


class LeaseRecord(msgspec.Struct):
    """What is remembered on the local disk: leases held last, by name, and the user behind each key."""

    held: dict[str, int] = {}
    users: dict[str, int] = {}

    @classmethod
    def load(cls, file: Path) -> "LeaseRecord":
        """The record in `file`; an empty one when there is none or it is damaged."""
        try:
            return msgspec.json.decode(file.read_bytes(), type=cls)
        except FileNotFoundError:
            return cls()
        except (OSError, msgspec.DecodeError) as error:
            log.warning("lease_record_unreadable", file=str(file), reason=str(error))
            return cls()

    def store(self, file: Path) -> None:
        """Replaces `file`, durably; a failure is logged, and costs no more than a wait for the database."""
        scratch = file.with_suffix(".new")
        try:
            with scratch.open("wb") as written:
                written.write(msgspec.json.encode(self))
                written.flush()
                os.fsync(written.fileno())
            scratch.replace(file)
            directory = os.open(file.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            log.error("lease_record_not_written", file=str(file), reason=str(error))  # noqa: TRY400


def record_file(state_dir: Path) -> Path:
    """Where a gateway with this state directory remembers its leases."""
    return state_dir / "leases.json"


class LeaseRecordFile:
    """The record of a running gateway, on the disk as soon as something changes."""

    def __init__(self, state_dir: Path) -> None:
        self._file = record_file(state_dir)
        self._record = LeaseRecord.load(self._file)
        self._writing = asyncio.Lock()

    def epoch(self, name: str) -> int | None:
        """The epoch at which this host held the lease, if it held it last."""
        return self._record.held.get(name)

    def user(self, key: str) -> int | None:
        """Whose key this is, once known."""
        return self._record.users.get(key)

    async def remember(self, name: str, epoch: int) -> None:
        """This host holds a lease."""
        self._record.held[name] = epoch
        await self._write()

    async def forget(self, *names: str) -> None:
        """This host holds these leases no more."""
        if [self._record.held.pop(name) for name in names if name in self._record.held]:
            await self._write()

    async def learn_user(self, key: str, user_id: int) -> None:
        """Notes whose key this is."""
        if self._record.users.get(key) != user_id:
            self._record.users[key] = user_id
            await self._write()

    async def _write(self) -> None:
        async with self._writing:
            await asyncio.to_thread(self._record.store, self._file)
