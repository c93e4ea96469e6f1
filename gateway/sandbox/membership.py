"""Who is in a chat: joining, leaving, being banned, and chats that close or move."""

from __future__ import annotations

from gateway.sandbox.chats import Chat
from gateway.sandbox.messages import Action
from gateway.sandbox.recording import Recorder
from gateway.sandbox.users import User


class Membership(Recorder):
    """People join and leave here, or are thrown out."""

    def join(self, chat: Chat, user: User) -> None:
        """Adds a member; groups and supergroups say so in a service message."""
        if chat.kind == "private" or user.id in chat.members:
            return
        if user.id in chat.banned:
            raise ValueError(f"{user.first_name!r} is banned from {chat.ref}; unban first")
        if chat.is_channel:
            self._enter(chat, user)
        else:
            chat.members[user.id] = user
            chat.joined[user.id] = self.now()
            user.chats[chat] = None
            chat.version += 1
        if chat.kind != "channel":
            self._service(chat, Action("ChatAddUser", users=(user.id,)), user)

    def leave(self, chat: Chat, user: User) -> None:
        """Takes a member out; a basic group tells the one who leaves, too."""
        if chat.kind == "private" or user.id not in chat.members:
            return
        farewell = Action("ChatDeleteUser", users=(user.id,))
        if chat.kind == "group":
            self._service(chat, farewell, user)
            del chat.members[user.id]
            chat.version += 1
        else:
            self._exit(chat, user)
            if chat.kind == "supergroup":
                self._service(chat, farewell, user)

    def ban(self, chat: Chat, user: User, *, error: str | None = None) -> None:
        """Throws a member out for good: the chat goes from the user's dialogs and refuses every request.

        The refusal is `error`: CHANNEL_PRIVATE unless told, CHAT_FORBIDDEN in basic groups.
        """
        if chat.kind == "private" or user.id not in chat.members:
            raise ValueError(f"{user.first_name!r} is no member of {chat.ref}")
        refusal = error or ("CHAT_FORBIDDEN" if chat.kind == "group" else "CHANNEL_PRIVATE")
        removal = Action("ChatDeleteUser", users=(user.id,))
        chat.banned[user.id] = refusal
        if chat.kind == "group":
            self._service(chat, removal, chat.creator)
            del chat.members[user.id]
            del user.chats[chat]
            chat.version += 1
            return
        self._exit(chat, user)
        if chat.kind == "supergroup":
            self._service(chat, removal, chat.creator)

    def unban(self, chat: Chat, user: User) -> None:
        """Lets the user join again; nobody is told."""
        chat.banned.pop(user.id, None)
        chat.version += 1

    def make_private(self, chat: Chat) -> None:
        """Takes the username from a public chat: who is no member is kept out from now on."""
        if not chat.is_channel:
            raise ValueError(f"{chat.ref} is neither channel nor supergroup, so it was never public")
        chat.username = None
        chat.version += 1
        for user in chat.members.values():
            self._notice(chat, user)

    def migrate(self, group: Chat) -> Chat:
        """Turns a basic group into a supergroup, which is a new chat; the group stays behind, closed."""
        if group.kind != "group" or group.migrated_to is not None:
            raise ValueError(f"{group.title!r} is no open basic group, so it cannot migrate")
        chat = self._add_channel("supergroup", group.title, group.members.values(), None)
        moved = self._compose(group, "", group.creator, action=Action("ChatMigrateTo", peer_id=chat.id))
        group.migrated_to = chat
        chat.migrated_from = group
        group.version += 1
        self._tell(group, self._record(group, moved))
        self._service(chat, Action("ChannelMigrateFrom", group.title, peer_id=group.id), group.creator)
        return chat
