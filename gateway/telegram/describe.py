"""Describes what surrounds a message's words as JSON values: replies, threads, service actions, flags."""

from typing import Any

from telethon.tl import types

from gateway.telegram.chats import ChatInfo, marked, marked_channel
from gateway.telegram.plain import clean_text, plain, snake_case

_FLAGS = ("out", "silent", "pinned", "noforwards", "from_scheduled", "mentioned")
_COUNTS = ("views", "forwards", "ttl_period", "effect", "via_bot_id")


def describe_reply(reply: Any) -> dict[str, Any] | None:
    """What a message answers; a header may name nothing at all."""
    if reply is None:
        return None
    if not isinstance(reply, types.MessageReplyHeader):
        return _story(reply)
    described: dict[str, Any] = {}
    if reply.reply_to_msg_id is not None:
        described["message_id"] = reply.reply_to_msg_id
    if reply.reply_to_peer_id is not None:
        described["channel_id"] = str(marked(reply.reply_to_peer_id))
    if reply.reply_to_top_id is not None:
        described["top_message_id"] = reply.reply_to_top_id
    if reply.quote_text:
        described["quote"] = clean_text(reply.quote_text)
    return described or None


def _story(reply: Any) -> dict[str, Any]:
    return {"story_id": reply.story_id, "channel_id": str(marked(reply.peer))}


def thread_of(message: Any, chat: ChatInfo) -> int | None:
    """The forum topic or comment thread a message is in (https://core.telegram.org/api/threads).

    A supergroup's thread is named by the message that it began with; for the comments of a channel's post
    that is the post's copy in the discussion group. A forum's General topic is no thread.
    """
    reply = message.reply_to
    if not isinstance(reply, types.MessageReplyHeader):
        return None
    if reply.reply_to_top_id is not None:
        return int(reply.reply_to_top_id)
    if reply.reply_to_msg_id is None or reply.reply_to_peer_id is not None:
        return None
    # A service message names what it is about: what was pinned is no thread.
    answers = chat.type == "supergroup" and not chat.forum and isinstance(message, types.Message)
    return int(reply.reply_to_msg_id) if reply.forum_topic or answers else None


def describe_action(action: Any) -> dict[str, Any]:
    """What a service message tells; a migration also names the other chat by its marked id."""
    fields = plain(action.to_dict())
    metadata: dict[str, Any] = {"action": snake_case(fields.pop("_").removeprefix("MessageAction"))}
    if fields:
        metadata["action_data"] = fields
    if isinstance(action, types.MessageActionChatMigrateTo):
        metadata["migrated_to"] = str(marked_channel(action.channel_id))
    elif isinstance(action, types.MessageActionChannelMigrateFrom):
        metadata["migrated_from"] = str(-action.chat_id)
    return metadata


def describe_flags(message: Any) -> dict[str, Any]:
    """What else is known of a message; not content, and it may differ from account to account."""
    described: dict[str, Any] = {name: True for name in _FLAGS if getattr(message, name)}
    for name in _COUNTS:
        value = getattr(message, name)
        if value is not None:
            described[name] = value
    if message.post_author:
        described["post_author"] = clean_text(message.post_author)
    if _is_automatic_forward(message):
        described["automatic_forward"] = True
    if message.replies is not None and message.replies.comments and message.replies.channel_id:
        described["comments"] = {"channel_id": str(marked_channel(message.replies.channel_id))}
    return described


def _is_automatic_forward(message: Any) -> bool:
    """Whether this is a channel's post in the channel's discussion group, under which its comments are."""
    forward, author = message.fwd_from, message.from_id
    return (
        forward is not None
        and isinstance(author, types.PeerChannel)
        and isinstance(forward.saved_from_peer, types.PeerChannel)
        and forward.saved_from_peer.channel_id == author.channel_id
    )
