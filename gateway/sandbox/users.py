"""An account of the sandbox's world: who it is, and the mailbox that its private chats and groups share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.sandbox.messages import Entry
from gateway.sandbox.updates import UpdateLog

if TYPE_CHECKING:
    from gateway.sandbox.chats import Chat


@dataclass(slots=True, eq=False, repr=False)
class User:
    """A person or a bot. `phone` holds digits only; `password` is the two-step one."""

    id: int
    first_name: str
    log: UpdateLog
    phone: str | None = None
    username: str | None = None
    password: str | None = None
    bot_token: str | None = None
    code: str | None = None
    seq: int = 1

    # Private chats and basic groups: their messages count in this account's own ids.
    next_message_id: int = 1
    mailbox: dict[int, tuple[Chat, int]] = field(default_factory=dict)
    ids_by_chat: dict[Chat, list[int]] = field(default_factory=dict)

    chats: dict[Chat, None] = field(default_factory=dict)
    read_up_to: dict[Chat, int] = field(default_factory=dict)
    # Joined, left and changed chats: updates without a pts, found again by their time.
    notices: list[tuple[int, Chat]] = field(default_factory=list)

    # The ground truth of what only this account saw, and from where to where it was in each channel.
    records: list[Entry] = field(default_factory=list)
    windows: dict[Chat, list[tuple[int, int | None]]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<user {self.id} {self.first_name!r}>"

    @property
    def is_bot(self) -> bool:
        return self.bot_token is not None
