"""The world of the end-to-end tests: one account, and every kind of chat it can be in."""

from gateway.sandbox import Sandbox

PHONE = "+5511999990001"


class TradingWorld:
    """An account in channels, a supergroup, a forum, a basic group and a private chat."""

    def __init__(self, sandbox: Sandbox) -> None:
        world = sandbox.world
        self.account = world.add_user("Operador", phone=PHONE)
        ana = world.add_user("Ana", username="ana_souza")
        bruno = world.add_user("Bruno")
        members = [self.account, ana, bruno]
        self.channels = [
            world.add_channel(f"Sinais {number}", members, username=f"sinais_{number}") for number in range(4)
        ]
        self.supergroup = world.add_supergroup("Mesa de operações", members)
        self.forum = world.add_supergroup("Fórum", members, forum=True)
        self.topic = world.add_topic(self.forum, "Ações")
        self.group = world.add_group("Família", members)
        self.private = world.private(self.account, ana)
