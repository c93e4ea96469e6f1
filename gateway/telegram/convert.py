"""Turns Telegram's updates into events: the one place that knows both.

What each update becomes: new messages, posts and service messages → `message.new`, with their last edit where
they come edited; edits with an edit date → `message.edited` (the journal drops those that change no content);
deletions → `message.deleted`, one an id. Everything else makes no event and is counted by its constructor.
"""

import base64
import struct
from datetime import datetime
from typing import Any

import structlog
from telethon.tl import types

from gateway import metrics
from gateway.event import ChatType, Event, MessageType, Source, as_edit, delete_id, new_id
from gateway.telegram.chats import ChatInfo, Directory, is_channel, marked, marked_channel
from gateway.telegram.describe import describe_action, describe_flags, describe_reply, thread_of
from gateway.telegram.media import describe_entities, describe_media
from gateway.telegram.plain import clean_text, plain

log = structlog.get_logger()

_NEW = (types.UpdateNewMessage, types.UpdateNewChannelMessage)
_EDITED = (types.UpdateEditMessage, types.UpdateEditChannelMessage)
_SHORT = (types.UpdateShortMessage, types.UpdateShortChatMessage)
# What makes events; all other updates are counted and left.
CAPTURED = (*_NEW, *_SHORT, *_EDITED, types.UpdateDeleteChannelMessages, types.UpdateDeleteMessages)
_WITH_TEXT = ("webpage", "rich_message")  # all other media has a caption


class Converter:
    """Converts one account's updates; `self_id`, its user id, is the scope of ids that count per account."""

    def __init__(self, account: str, self_id: int, directory: Directory) -> None:
        self._account = account
        self._self_id = self_id
        self._directory = directory

    def from_update(self, update: Any, received_at: datetime) -> list[Event]:
        """The events of one update of `CAPTURED`, in order; none for a reaction.

        Deletions in private chats and basic groups come without their chat: the caller finds it and calls
        `deleted`.
        """
        if isinstance(update, _NEW):
            return self._new(update.message, received_at, "mtproto")
        if isinstance(update, _SHORT):
            return self._new(self._expand(update), received_at, "mtproto")
        if isinstance(update, _EDITED):
            return self._edited(update.message, received_at, "mtproto")
        chat = marked_channel(update.channel_id)
        info = self._info(chat, None)
        return [self.deleted(chat, info.type, message_id, received_at) for message_id in update.messages]

    def from_history(self, message: Any, received_at: datetime) -> list[Event]:
        """The event of a message fetched from a chat's history, and its last edit if it was edited."""
        return self._new(message, received_at, "backfill")

    def reread(self, message: Any, received_at: datetime) -> list[Event]:
        """The last edit of a message that is known already and was fetched again; none if never edited."""
        return self._edited(message, received_at, "backfill")

    def chat_type(self, chat: int) -> ChatType:
        """What kind of chat a marked id is of, as far as is known."""
        return self._info(chat, None).type

    def deleted(
        self,
        chat: int,
        chat_type: ChatType,
        message_id: int,
        received_at: datetime,
        source: Source = "mtproto",
    ) -> Event:
        """The deletion of a message whose chat is known."""
        scope = self._scope(chat)
        return Event(
            id=delete_id(scope, str(chat), message_id),
            kind="message.deleted",
            account=self._account,
            account_scope=scope,
            channel_id=str(chat),
            chat_type=chat_type,
            message_id=message_id,
            received_at=received_at,
            source=source,
        )

    def _new(self, message: Any, received_at: datetime, source: Source) -> list[Event]:
        if isinstance(message, types.MessageEmpty):
            self._ignored("empty")
            return []
        event = self._build(message, received_at, source)
        # Another account may have brought the former words, and be gone: then only this tells of the edit.
        return [event] if event.edit_date is None else [event, as_edit(event)]

    def _edited(self, message: Any, received_at: datetime, source: Source) -> list[Event]:
        # Without an edit date only reactions, views or the pin have changed.
        if not isinstance(message, types.Message) or message.edit_date is None:
            self._ignored("reaction")
            return []
        return [as_edit(self._build(message, received_at, source))]

    def _build(self, message: Any, received_at: datetime, source: Source) -> Event:
        try:
            return self._convert(message, received_at, source)
        except (AttributeError, TypeError, ValueError, KeyError, LookupError) as error:
            # A message that this version cannot describe still reaches every sink, with its raw bytes,
            # so that it can be converted later; failing here would stop the account at it for ever.
            # The error's own text may quote the message, so only its kind and place are logged.
            log.error(  # noqa: TRY400
                "message_not_understood",
                account=self._account,
                constructor=type(message).__name__,
                error_type=type(error).__name__,
                line=error.__traceback__.tb_lineno if error.__traceback__ else None,
            )
            self._ignored("not_understood")
            return self._raw(message, received_at, source)

    def _convert(self, message: Any, received_at: datetime, source: Source) -> Event:
        chat = marked(message.peer_id)
        info = self._info(chat, message)
        scope = self._scope(chat)
        common: dict[str, Any] = {
            "id": new_id(scope, str(chat), message.id),
            "kind": "message.new",
            "account": self._account,
            "account_scope": scope,
            "channel_id": str(chat),
            "chat_type": info.type,
            "chat_title": info.title,
            "chat_username": info.username,
            "message_id": message.id,
            "reply_to": describe_reply(message.reply_to),
            "thread_id": thread_of(message, info),
            "sender": self._sender(message, chat),
            "telegram_date": message.date,
            "received_at": received_at,
            "source": source,
        }
        if isinstance(message, types.MessageService):
            return Event(**common, message_type="service", metadata=describe_action(message.action))
        media_type, media = describe_media(message.media)
        if media_type is None and message.rich_message is not None:
            media_type, media = "rich_message", plain(message.rich_message.to_dict())
        words = clean_text(message.message) if message.message else None
        has_caption = media_type is not None and media_type not in _WITH_TEXT
        return Event(
            **common,
            message_type=_message_type(info.type),
            grouped_id=message.grouped_id,
            forward=self._forward(message.fwd_from),
            text=None if has_caption else words or "",
            caption=words if has_caption else None,
            entities=describe_entities(message.entities),
            media_type=media_type,
            media=media,
            edit_date=message.edit_date,
            metadata=describe_flags(message),
        )

    def _raw(self, message: Any, received_at: datetime, source: Source) -> Event:
        chat = marked(message.peer_id)
        scope = self._scope(chat)
        info = self._info(chat, None)
        return Event(
            id=new_id(scope, str(chat), message.id),
            kind="message.new",
            account=self._account,
            account_scope=scope,
            channel_id=str(chat),
            chat_type=info.type,
            message_id=message.id,
            telegram_date=message.date,
            edit_date=getattr(message, "edit_date", None),  # service messages have none
            received_at=received_at,
            source=source,
            message_type=_message_type(info.type),
            metadata={"not_understood": _raw_bytes(message)},
        )

    def _expand(self, short: Any) -> Any:
        """The full message that Telegram abbreviated (https://core.telegram.org/constructor/updateShortMessage)."""
        if isinstance(short, types.UpdateShortMessage):
            peer = types.PeerUser(short.user_id)
            sender = types.PeerUser(self._self_id if short.out else short.user_id)
        else:
            peer = types.PeerChat(short.chat_id)
            sender = types.PeerUser(short.from_id)
        return types.Message(
            id=short.id,
            peer_id=peer,
            from_id=sender,
            date=short.date,
            message=short.message,
            out=short.out,
            mentioned=short.mentioned,
            silent=short.silent,
            fwd_from=short.fwd_from,
            via_bot_id=short.via_bot_id,
            reply_to=short.reply_to,
            entities=short.entities,
            ttl_period=short.ttl_period,
        )

    def _scope(self, chat: int) -> int:
        return 0 if is_channel(chat) else self._self_id

    def _info(self, chat: int, message: Any) -> ChatInfo:
        known = self._directory.chat(chat)
        if known is not None:
            return known
        if chat > 0:
            return ChatInfo("private", None, None)
        if chat > -1_000_000_000_000:
            return ChatInfo("group", None, None)
        return ChatInfo("channel" if getattr(message, "post", False) else "supergroup", None, None)

    def _sender(self, message: Any, chat: int) -> Any:
        if message.from_id is not None:
            return self._directory.sender(marked(message.from_id))
        if chat > 0:
            return self._directory.sender(self._self_id if message.out else chat)
        # A post without an author is the channel's own; in a supergroup it is an anonymous admin.
        return self._directory.sender(chat)

    def _forward(self, forward: Any) -> dict[str, Any] | None:
        if forward is None:
            return None
        described: dict[str, Any] = {"date": plain(forward.date)}
        if forward.from_id is not None:
            origin = self._directory.sender(marked(forward.from_id))
            described["from"] = {"id": origin.id, "name": origin.name, "username": origin.username}
        elif forward.from_name:
            described["from"] = {"name": clean_text(forward.from_name)}
        if forward.channel_post is not None:
            described["message_id"] = forward.channel_post
        if forward.post_author:
            described["post_author"] = clean_text(forward.post_author)
        return described

    def _ignored(self, reason: str) -> None:
        metrics.UPDATES_IGNORED.labels(self._account, reason).inc()


def _message_type(chat_type: ChatType) -> MessageType:
    if chat_type == "channel":
        return "channel_post"
    return "private_message" if chat_type == "private" else "group_message"


def _raw_bytes(message: Any) -> str:
    try:
        return base64.b64encode(bytes(message)).decode()
    except (AssertionError, AttributeError, TypeError, ValueError, struct.error):
        # Not even Telethon can write down what it has read.
        return type(message).__name__
