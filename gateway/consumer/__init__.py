"""For programs that do something with the gateway's events: each of them once, in order, whatever fails.

    async def handle(event: Event) -> None:
        print(event.channel_id, event.content)

    async with QueueConsumer(ConsumerSettings.from_environment("my-consumer")) as consumer:
        await consumer.run(handle)

docs/consume.md has the modes, the guarantees and what happens when what fails.
"""

from gateway.consumer.consumer import Consumer, HybridConsumer, Poller, QueueConsumer
from gateway.consumer.database import Transaction
from gateway.consumer.effects import Handler, TransactionHandler
from gateway.consumer.outcomes import Ignored, Rejected, TryLater
from gateway.consumer.settings import ConsumerSettings
from gateway.event import Event

__all__ = [
    "Consumer",
    "ConsumerSettings",
    "Event",
    "Handler",
    "HybridConsumer",
    "Ignored",
    "Poller",
    "QueueConsumer",
    "Rejected",
    "Transaction",
    "TransactionHandler",
    "TryLater",
]
