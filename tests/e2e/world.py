"""The scripted world of the end-to-end tests: every kind of chat, and a seeded mix of everything in them."""

import asyncio
import random
import time

from gateway.demo.comparison import expectations
from gateway.demo.consumer import SampleConsumer
from gateway.demo.process import GatewayProcess
from gateway.sandbox import Sandbox

PHONE = "+5511999990001"
POLL_SECONDS = 0.05
PATIENCE_SECONDS = 120.0


class TradingWorld:
    """One account in channels, supergroups, a forum, a basic group and private chats."""

    def __init__(self, sandbox: Sandbox, seed: int = 7) -> None:
        self.sandbox = sandbox
        self.random = random.Random(seed)
        world = self.world = sandbox.world
        self.account = world.add_user("Operador", phone=PHONE)
        self.ana = world.add_user("Ana", username="ana_souza")
        self.bruno = world.add_user("Bruno")
        members = [self.account, self.ana, self.bruno]
        self.channels = [
            world.add_channel(f"Sinais {number}", members, username=f"sinais{number}") for number in range(4)
        ]
        self.supergroup = world.add_supergroup("Mesa de operações", members)
        self.forum = world.add_supergroup("Fórum", members, forum=True)
        self.topic = world.add_topic(self.forum, "Ações")
        self.group = world.add_group("Família", members)
        self.private = world.private(self.account, self.ana)

    def step(self) -> int:
        """One thing happens somewhere; returns how many changes it made."""
        dice = self.random.random()
        world = self.world
        if dice < 0.62:
            channel = self.random.choice(self.channels)
            world.post(channel, self.signal())
        elif dice < 0.70:
            world.post(self.supergroup, self.signal(), sender=self.ana)
        elif dice < 0.74:
            world.post(self.forum, self.signal(), sender=self.bruno, topic=self.topic)
        elif dice < 0.79:
            world.post(self.group, "Bom dia!", sender=self.ana)
        elif dice < 0.86:
            world.post(self.private, "Viu o alvo?", sender=self.ana)
        elif dice < 0.88:
            return len(world.post_album(self.random.choice(self.channels), ["Gráfico", "", ""]))
        elif dice < 0.95:
            return self._edit_or_react()
        else:
            return self._delete()
        return 1

    def signal(self) -> str:
        """A trading signal such as the consumers parse."""
        ticker = self.random.choice(("PETR4", "VALE3", "KLBNK177", "WINFUT1", "ITUB4"))
        price = self.random.uniform(5, 60)
        return (
            f"🚀 ATIVO {ticker}\nCOMPRA: {price:.2f} A {price * 1.01:.2f}\n"
            f"ALVO 1: {price * 1.03:.2f}\nALVO FINAL: {price * 1.08:.2f}\nSTOP: {price * 0.97:.2f}"
        ).replace(".", ",")

    async def traffic(self, rate: float, count: int) -> None:
        """`count` steps at `rate` a second, on time on average whatever each costs."""
        started = time.monotonic()
        for number in range(count):
            self.step()
            ahead = started + (number + 1) / rate - time.monotonic()
            if ahead > 0:
                await asyncio.sleep(ahead)
            elif number % 20 == 0:
                await asyncio.sleep(0)

    async def wait_captured(self, gateway: GatewayProcess) -> None:
        """Returns once the journal has stopped growing and is not behind the world."""
        last, still_since = -1, time.monotonic()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            status = await gateway.status()
            seq = status["journal"]["last_seq"] if status else -1
            if seq != last:
                last, still_since = seq, time.monotonic()
            elif seq >= 0 and time.monotonic() - still_since > 2.0:
                return
            await asyncio.sleep(POLL_SECONDS)
        raise TimeoutError("the journal goes on growing although nothing is posted any more")

    async def wait_consumed(self, consumer: SampleConsumer) -> None:
        """Returns once the consumer knows every message of the world, or has had time enough to."""
        expected = expectations(self.sandbox.truth(self.account))
        wanted = {key for key, message in expected.items() if not message.deleted}
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            known = {(e.account_scope, e.channel_id, e.message_id) for e in consumer.events.values()}
            if wanted <= known:
                return
            await asyncio.sleep(POLL_SECONDS)

    def _edit_or_react(self) -> int:
        channel = self.random.choice(self.channels)
        if not channel.ids:
            return 0
        message = self.random.choice(channel.ids[-50:])
        if self.random.random() < 0.3:
            self.world.react(channel, message, "🔥")
        else:
            self.world.edit(channel, message, self.signal() + "\nATUALIZADO")
        return 1

    def _delete(self) -> int:
        chat = self.random.choice([*self.channels, self.private])
        if not chat.ids:
            return 0
        self.world.delete(chat, [self.random.choice(chat.ids[-50:])])
        return 1
