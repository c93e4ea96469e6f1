"""A consumer in a process of its own, for tests that kill it: each event is a row of `consumer_effects`."""

import asyncio
import os
import signal
import sys

from gateway.consumer import ConsumerSettings, Event, HybridConsumer, Poller, QueueConsumer, Transaction

KINDS: dict[str, type[QueueConsumer | Poller | HybridConsumer]] = {
    "queue": QueueConsumer,
    "poller": Poller,
    "hybrid": HybridConsumer,
}


async def main(kind: str, name: str, deadly: int) -> None:
    async def handle(event: Event, transaction: Transaction) -> None:
        if event.message_id == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        await transaction.execute(
            "INSERT INTO consumer_effects (consumer, message_id) VALUES ($1, $2)", name, event.message_id
        )

    consumer = KINDS[kind](ConsumerSettings.from_environment(name))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consumer.stop)
    async with consumer:
        await consumer.run_in_transaction(handle)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
