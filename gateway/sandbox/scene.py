"""The world that `telegram-gateway sandbox` starts with: a few accounts among signal channels and friends."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.sandbox.chats import Chat
from gateway.sandbox.users import User
from gateway.sandbox.world import World

_CHANNELS = ("TP Sinais", "Day Trade Brasil", "Swing Trade B3", "Mini Índice Ao Vivo", "Opções & Cia")


@dataclass(frozen=True, slots=True)
class Scene:
    """Whom to log in as, and where things happen."""

    accounts: list[User]
    chats: list[Chat]


def phone(number: int) -> str:
    """The phone of the nth account, counted from 0."""
    return f"+5511{999_990_001 + number}"


def populate(world: World, *, accounts: int = 1, channels: int = 3) -> Scene:
    """Accounts that are all members of every channel and group, and two friends who write to each."""
    people = [world.add_user(f"Operador {i + 1}", phone=phone(i)) for i in range(accounts)]
    ana = world.add_user("Ana", username="ana_trader")
    bruno = world.add_user("Bruno", username="bruno_b3")
    everybody = [*people, ana, bruno]
    chats = [
        world.add_channel(
            _CHANNELS[i] if i < len(_CHANNELS) else f"Sinais {i + 1}", everybody, username=f"sinais_{i + 1}"
        )
        for i in range(channels)
    ]
    chats.append(world.add_supergroup("Mesa de Operações", everybody))
    forum = world.add_supergroup("Fórum B3", everybody, forum=True)
    world.add_topic(forum, "Ações")
    world.add_topic(forum, "Futuros")
    chats.append(forum)
    chats.append(world.add_group("Grupo da Corretora", everybody))
    chats.extend(world.private(person, friend) for person in people for friend in (ana, bruno))
    return Scene(people, chats)
