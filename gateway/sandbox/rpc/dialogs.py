"""The list of an account's chats, and the topics of a forum."""

from __future__ import annotations

from typing import Any

from telethon.tl import functions, types

from gateway.sandbox import tl
from gateway.sandbox.backend import RpcError
from gateway.sandbox.chats import GENERAL_TOPIC, Chat, Topic
from gateway.sandbox.rpc.call import Call, Handlers

handlers = Handlers()

_PAGE_LIMIT = 100


def dialog(call: Call, chat: Chat) -> Any:
    """A chat's line in the list."""
    ids = chat.ids_for(call.me)
    read = call.me.read_up_to.get(chat, 0)
    return types.Dialog(
        call.view.peer(chat),
        top_message=ids[-1] if ids else 0,
        read_inbox_max_id=read,
        read_outbox_max_id=0,
        unread_count=sum(1 for message_id in ids[-_PAGE_LIMIT:] if message_id > read),
        unread_mentions_count=0,
        unread_reactions_count=0,
        unread_poll_votes_count=0,
        notify_settings=tl.notify_settings(),
        pts=chat.log.pts if chat.is_channel else None,
    )


def state(call: Call, pts: int | None = None) -> Any:
    """The account's update state, at `pts` or now."""
    return types.updates.State(
        pts=call.me.log.pts if pts is None else pts,
        qts=0,
        date=call.world.now(),
        seq=call.me.seq,
        unread_count=0,
    )


def _order(call: Call, chat: Chat) -> tuple[int, int, int]:
    top = chat.top_for(call.me)
    marked_id = chat.marked_id_for(call.me)
    return (chat.date, 0, marked_id) if top is None else (top.date, top.id_for(call.me.id), marked_id)


@handlers.answers(functions.messages.GetDialogsRequest)
def get_dialogs(call: Call, request: Any) -> Any:
    call.refuse_bots()
    if request.folder_id:
        return types.messages.Dialogs([], [], [], [])
    mine = [chat for chat in call.me.chats if chat.kind != "private" or chat.ids_for(call.me)]
    mine.sort(key=lambda chat: _order(call, chat), reverse=True)
    start = _start(call, mine, request)
    page = mine[start : start + min(max(request.limit, 1), _PAGE_LIMIT)]
    found = _described(call, page)
    if start == 0 and len(page) == len(mine):
        return types.messages.Dialogs(*found)
    return types.messages.DialogsSlice(len(mine), *found)


def _start(call: Call, mine: list[Chat], request: Any) -> int:
    """Behind the chat that the last page ended with; by date where it is not named."""
    if not isinstance(request.offset_peer, types.InputPeerEmpty):
        last = call.chat_named(request.offset_peer)
        if last in mine:
            return mine.index(last) + 1
    before = tl.timestamp(request.offset_date)
    if before:
        return sum(1 for chat in mine if _order(call, chat)[0] >= before)
    return 0


def _described(call: Call, chats: list[Chat]) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    tops = [top for chat in chats if (top := chat.top_for(call.me)) is not None]
    users, others = call.view.people(tops, chats)
    dialogs = [dialog(call, chat) for chat in chats]
    return dialogs, [call.view.message(top) for top in tops], others, users


@handlers.answers(functions.messages.GetPeerDialogsRequest)
def get_peer_dialogs(call: Call, request: Any) -> Any:
    chats = [call.chat_named(peer) for peer in request.peers]
    return types.messages.PeerDialogs(*_described(call, chats), state(call))


@handlers.answers(functions.messages.GetPinnedDialogsRequest)
def get_pinned_dialogs(call: Call, request: Any) -> Any:
    return types.messages.PeerDialogs([], [], [], [], state(call))


@handlers.answers(functions.messages.GetForumTopicsRequest)
def get_forum_topics(call: Call, request: Any) -> Any:
    chat = call.chat_named(request.peer)
    topics = sorted(_forum(chat).values(), key=lambda topic: topic.top_message, reverse=True)
    if request.q:
        topics = [topic for topic in topics if request.q.lower() in topic.title.lower()]
    if request.offset_topic:
        place = next((i for i, topic in enumerate(topics) if topic.id == request.offset_topic), -1)
        topics = topics[place + 1 :]
    return _topics(call, chat, topics[: min(request.limit, _PAGE_LIMIT)])


@handlers.answers(functions.messages.GetForumTopicsByIDRequest)
def get_forum_topics_by_id(call: Call, request: Any) -> Any:
    chat = call.chat_named(request.peer)
    known = _forum(chat)
    return _topics(call, chat, [known[topic] for topic in request.topics if topic in known])


def _forum(chat: Chat) -> dict[int, Topic]:
    if not chat.forum:
        raise RpcError(400, "CHANNEL_FORUM_MISSING")
    return chat.topics


def _topics(call: Call, chat: Chat, topics: list[Topic]) -> Any:
    tops = [chat.messages[topic.top_message] for topic in topics if topic.top_message in chat.messages]
    users, chats = call.view.people(tops, [chat])
    described = [
        types.ForumTopic(
            topic.id,
            topic.date,
            call.view.peer(chat),
            topic.title,
            tl.TOPIC_COLOUR,
            topic.top_message,
            read_inbox_max_id=0,
            read_outbox_max_id=0,
            unread_count=0,
            unread_mentions_count=0,
            unread_reactions_count=0,
            unread_poll_votes_count=0,
            from_id=types.PeerUser(topic.creator.id)
            if topic.creator is not None
            else types.PeerChannel(chat.id),
            notify_settings=tl.notify_settings(),
            pinned=(topic.id == GENERAL_TOPIC) or None,
        )
        for topic in topics
    ]
    messages = [call.view.message(top) for top in tops]
    return types.messages.ForumTopics(len(chat.topics), described, messages, chats, users, chat.log.pts)
