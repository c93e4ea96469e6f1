"""The second baseline: what one writes in an afternoon. A handler awaits Redis, RabbitMQ and the database.

It has what such a program has when it is done well: pools of a sensible size, publisher confirms, unique
keys. It has no journal, so what it holds when it dies is lost, and an error in any server loses the message.
"""

import json
import sys
import time
from typing import Any

import aio_pika
import asyncpg
from redis.asyncio import BlockingConnectionPool, Redis
from telethon import events

from gateway.event_message import EXCHANGE
from tests.bench.child import run, serve
from tests.bench.login import logged_in

REDIS_CONNECTIONS = 20
DATABASE_CONNECTIONS = 10
SCHEMA = """
CREATE SCHEMA IF NOT EXISTS afternoon;
CREATE TABLE IF NOT EXISTS afternoon.messages (
    channel_id bigint, message_id bigint, date timestamptz NOT NULL, text text, body jsonb NOT NULL,
    PRIMARY KEY (channel_id, message_id)
);
"""
_INSERT = "INSERT INTO afternoon.messages VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING"


async def main(
    mode: str, host: str, port: str, key: str, redis_url: str, rabbitmq_url: str, dsn: str
) -> None:
    client = await logged_in(host, port, key, sequential_updates=mode == "sequential")
    pool = BlockingConnectionPool.from_url(redis_url, max_connections=REDIS_CONNECTIONS, timeout=None)
    redis: Redis = Redis(connection_pool=pool)
    database = await asyncpg.create_pool(
        dsn, max_size=DATABASE_CONNECTIONS, statement_cache_size=0, ssl=False
    )
    broker = await aio_pika.connect_robust(rabbitmq_url)
    channel = await broker.channel(publisher_confirms=True)
    exchange = await channel.declare_exchange(EXCHANGE, aio_pika.ExchangeType.TOPIC, durable=True)
    done = {"handled": 0, "failed": 0, "last_ns": 0}

    @client.on(events.NewMessage)  # type: ignore[untyped-decorator]
    async def handle(event: Any) -> None:
        try:
            await hand_on(event.chat_id, event.message)
            done["handled"] += 1
        except BaseException:
            done["failed"] += 1
            raise
        finally:
            done["last_ns"] = time.monotonic_ns()

    async def hand_on(chat: int, message: Any) -> None:
        body = json.dumps(
            {
                "channel_id": str(chat),
                "message_id": message.id,
                "date": message.date.isoformat(),
                "text": message.message,
            },
            ensure_ascii=False,
        )
        if not await redis.set(f"afternoon:dedup:{chat}:{message.id}", 1, nx=True, ex=7200):
            return
        await redis.set(f"afternoon:msg:{chat}:{message.id}", body, ex=3600)
        await exchange.publish(
            aio_pika.Message(
                body.encode(),
                content_type="application/json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                message_id=f"{chat}:{message.id}",
            ),
            f"telegram.channel.{chat}",
        )
        await database.execute(_INSERT, chat, message.id, message.date, message.message, body)

    async def count() -> dict[str, Any]:
        return done

    await serve({}, {"count": count})
    await client.disconnect()
    await broker.close()
    await database.close()
    await redis.aclose()


if __name__ == "__main__":
    run(main(*sys.argv[1:]))
