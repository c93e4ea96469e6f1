"""Half a trading day in the sandbox, for the pictures: signals, talk, and a consumer that gives up."""

import asyncio
from random import Random

from prometheus_client import CollectorRegistry

from gateway.consumer import ConsumerSettings, Event, QueueConsumer, Rejected
from gateway.sandbox.signals import remark, signal
from tests.console.conftest import Place

_TALK = (
    ("Ana", "Bom dia! Agenda cheia: Copom às 18:30 e balanço de VALE3 depois do pregão."),
    ("Bruno", "Bom dia. Dólar abrindo em leve queda, WDOFUT de lado."),
    ("Ana", "PETR4 de ontem: parcial no alvo 1, stop no zero a zero."),
    ("Bruno", "Feito. Liquidez boa em ITUB4 também."),
)
_REFUSED = ("no valid ticker", "the stop lies inside the buy range", "no buy range and no target with a stop")
CONSUMER = "tp-capital"


async def hold(place: Place, posts: int = 44, pause: float = 0.05) -> None:
    """So many posts, one after the other, with some talk and some corrections among them."""
    world, chance = place.sandbox.world, Random(23)
    chats = {chat.title: chat for chat in place.scene.chats}
    desk = chats["Mesa de Operações"]
    people = {user.first_name: user for user in desk.members.values()}
    channels = [chat for chat in place.scene.chats if chat.kind == "channel"]
    for number in range(posts):
        chat = chance.choice(channels)
        text = _drawable(signal(chance) if chance.random() < 0.7 else remark(chance))
        post = world.post(chat, text)
        if number % 13 == 5:
            world.edit(chat, post, f"{text} (corrigido)")
        if number % 9 == 4:
            name, words = _TALK[len(desk.messages) % len(_TALK)]
            world.post(desk, words, sender=people[name])
        await asyncio.sleep(pause)
    for chat in channels:
        if chat.ids:
            await place.arrived(chat)


async def give_up(place: Place, letters: int = len(_REFUSED)) -> None:
    """A consumer that parks so many messages, and is content with whatever it gets besides."""
    environment = place.api.environment
    parked = asyncio.Semaphore(0)
    reasons = iter(_REFUSED[:letters])

    async def handle(_event: Event) -> None:
        if (reason := next(reasons, None)) is not None:
            parked.release()
            raise Rejected(reason)

    settings = ConsumerSettings(
        name=CONSUMER,
        rabbitmq_url=environment["TELEGRAM_RABBITMQ_URL"],
        database_dsn=environment["TELEGRAM_DB_DSN"],
        redis_url=environment["TELEGRAM_REDIS_URL"],
    )
    async with (
        QueueConsumer(settings, registry=CollectorRegistry()) as consumer,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(consumer.run(handle))
        await consumer.ready.wait()
        await hold(place, posts=letters + 2)
        for _ in range(letters):
            await parked.acquire()
        consumer.stop()


def _drawable(text: str) -> str:
    """Without emoji: a machine without a font for them would draw boxes."""
    return "".join(letter for letter in text if ord(letter) < 0x10000).strip()
