"""What is hard about single messages, seen in all three sinks: hostile texts, and every kind of media."""

import json
from typing import Any

import asyncpg
import redis.asyncio as aioredis

from gateway.event import Event, decode
from gateway.sandbox import Entity, Media
from tests.e2e.conftest import Rig
from tests.e2e.media_kinds import EVERY_KIND


class Sinks:
    """One message, as each of the three sinks holds it."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    async def all_of(self, channel_id: str, message_id: int) -> list[dict[str, Any]]:
        """The fields that describe content: out of RabbitMQ, Redis and PostgreSQL."""
        (event,) = [
            event
            for event in self._rig.consumer.events.values()
            if (event.channel_id, event.message_id, event.kind) == (channel_id, message_id, "message.new")
        ]
        client: aioredis.Redis = aioredis.from_url(self._rig.stack.environment["TELEGRAM_REDIS_URL"])
        cached = await client.get(f"telegram:msg:{event.chat_key}:{message_id}")
        await client.aclose()
        assert isinstance(cached, bytes)
        connection = await asyncpg.connect(self._rig.stack.postgres.dsn)
        try:
            row = await connection.fetchrow(
                "SELECT text, caption, entities, media_type, media, metadata, sender_name, chat_title "
                "FROM telegram_gateway.messages WHERE channel_id = $1 AND message_id = $2",
                channel_id,
                message_id,
            )
        finally:
            await connection.close()
        assert row is not None
        stored = {
            name: json.loads(value) if name in ("entities", "media", "metadata") and value else value
            for name, value in row.items()
        }
        return [_described(event), _described(decode(cached)), stored]


def _described(event: Event) -> dict[str, Any]:
    return {
        "text": event.text,
        "caption": event.caption,
        "entities": event.entities,
        "media_type": event.media_type,
        "media": event.media,
        "metadata": event.metadata,
        "sender_name": event.sender.name if event.sender is not None else None,
        "chat_title": event.chat_title,
    }


async def test_no_text_is_too_hard_for_a_sink(rig: Rig) -> None:
    world = rig.sandbox.world
    mallory = world.add_user("Mal\0lory")
    chat = world.add_supergroup("Mesa\0 de Operações", [*rig.scene.accounts, mallory])
    emoji = Entity("custom_emoji", 2_000 * 2 + 10, 2, document_id=5_368_324_170_671_202_286)
    texts = {
        "NUL": "a\0b",
        "4096 units": "📈" * 2_048,
        "4096 units and an emoji of one's own": "📈" * 2_000 + "x" * 10 + "🚀" + "y" * 84,
        "right to left, joiners, not characters": "\u202eabc\u202c 👨‍👩‍👧‍👦 e\u0301 \ufffe\uffff \x01\x7f",
        "looks like JSON": '"}\\u0000\\ud83d{"',
    }
    posts = {
        name: world.post(
            chat, text, sender=mallory, entities=[emoji] if "own" in name else [Entity("bold", 0, 1)]
        )
        for name, text in texts.items()
    }
    await rig.assert_everything_arrived()
    sinks = Sinks(rig)
    for name, post in posts.items():
        held = await sinks.all_of(chat.ref, post.id)
        for one in held:
            assert one["text"] == texts[name].replace("\0", "\ufffd"), name
            assert len(one["text"].encode("utf-16-le")) == len(texts[name].encode("utf-16-le")), name
            assert (one["sender_name"], one["chat_title"]) == ("Mal\ufffdlory", "Mesa\ufffd de Operações")
        assert held[0] == held[1] == held[2], name
    (entity,) = held_entities(await sinks.all_of(chat.ref, posts["4096 units and an emoji of one's own"].id))
    assert entity == {
        "type": "custom_emoji",
        "offset": 4_010,
        "length": 2,
        "document_id": 5_368_324_170_671_202_286,
    }
    units = texts["4096 units and an emoji of one's own"].encode("utf-16-le")
    assert units[2 * entity["offset"] : 2 * (entity["offset"] + entity["length"])].decode("utf-16-le") == "🚀"


def held_entities(held: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert held[0]["entities"] == held[1]["entities"] == held[2]["entities"]
    entities: list[dict[str, Any]] = held[0]["entities"]
    return entities


async def test_every_kind_of_media_is_described_alike_in_every_sink(rig: Rig) -> None:
    world = rig.sandbox.world
    channel = rig.scene.chats[0]
    posts = {
        name: world.post(channel, "legenda" if kind != "webpage" else "", media=Media.other(media))
        for name, (kind, media, _) in EVERY_KIND.items()
    }
    await rig.assert_everything_arrived()
    sinks = Sinks(rig)
    for name, (kind, _, described) in EVERY_KIND.items():
        for one in await sinks.all_of(channel.ref, posts[name].id):
            assert (one["media_type"], one["media"] or {}) == (kind, described), name
            assert one["caption"] == (None if kind == "webpage" else "legenda"), name
