"""Every kind of thing that can happen in a chat, and what each sink makes of it."""

import asyncpg

from gateway.event import Event
from gateway.sandbox import Entity
from tests.e2e.conftest import Rig


async def test_every_kind_of_change_becomes_its_event_in_every_sink(rig: Rig) -> None:
    world = rig.sandbox.world
    account = rig.scene.accounts[0]
    ana = next(user for user in world.users.values() if user.first_name == "Ana")
    channel, supergroup, forum, group, private = (
        next(chat for chat in rig.scene.chats if chat.kind == kind and chat.forum is is_forum)
        for kind, is_forum in (
            ("channel", False),
            ("supergroup", False),
            ("supergroup", True),
            ("group", False),
            ("private", False),
        )
    )

    post = world.post(channel, "COMPRA PETR4", entities=[Entity("bold", 0, 6)])
    world.edit(channel, post, "COMPRA PETR4: 25,50 A 26,00")
    world.react(channel, post, "🔥")
    world.post_album(channel, ["Gráfico semanal", "", ""])
    world.post(channel, "Relatório", media="document")
    world.post(channel, "veja https://b3.com.br", media="webpage")
    answered = world.post(supergroup, "Alguém entrou?", sender=ana)
    world.post(supergroup, "Eu", sender=account, reply_to=answered)
    world.post(supergroup, "Aviso", sender=None)
    world.post(supergroup, "COMPRA PETR4", sender=ana, forward_from=post)
    topic = world.add_topic(forum, "Opções")
    world.post(forum, "Trava de alta", sender=ana, topic=topic)
    in_group = world.post(group, "Bom dia", sender=ana)
    world.post(private, "Oi", sender=ana)
    gone = world.post(private, "apague isto", sender=ana)
    world.delete(private, gone)
    world.delete(channel, world.post(channel, "engano"))
    world.edit(group, in_group, "Bom dia!")
    world.pin(supergroup, answered)
    world.set_title(channel, "Sinais Premium")
    moved = world.migrate(group)
    world.post(moved, "agora somos um supergrupo", sender=ana)
    joined = world.add_channel("Canal novo", [ana])
    world.post(joined, "antes da entrada")
    world.join(joined, account)
    world.post(joined, "depois da entrada")

    await rig.assert_everything_arrived()
    events = list(rig.consumer.events.values())

    def of(text: str) -> Event:
        (event,) = [event for event in events if event.content == text and event.kind == "message.new"]
        return event

    assert of("Trava de alta").thread_id == topic.id
    assert len({event.grouped_id for event in events if event.media_type == "photo"}) == 1
    assert of("Relatório").caption == "Relatório"
    assert of("veja https://b3.com.br").media_type == "webpage"
    assert (of("Eu").reply_to or {})["message_id"] == answered.id
    assert of("Eu").metadata["out"] is True
    anonymous = of("Aviso")
    assert anonymous.sender is not None
    assert str(anonymous.sender.id) == anonymous.channel_id
    assert of("agora somos um supergrupo").chat_type == "supergroup"
    assert of("Oi").account_scope == account.id
    actions = {event.metadata["action"] for event in events if event.message_type == "service"}
    assert {"chat_migrate_to", "channel_migrate_from", "pin_message", "chat_edit_title"} <= actions
    assert any("topic_create" in action for action in actions)
    forwarded = [event for event in events if event.forward]
    assert [event.forward["message_id"] for event in forwarded if event.forward] == [post.id]
    assert "antes da entrada" not in {event.content for event in events}
    assert of("depois da entrada").chat_title == "Canal novo"
    edits = [event for event in events if event.kind == "message.edited"]
    assert sorted(event.content or "" for event in edits) == ["Bom dia!", "COMPRA PETR4: 25,50 A 26,00"]
    connection = await asyncpg.connect(rig.stack.postgres.dsn)
    try:
        title = await connection.fetchval(
            "SELECT title FROM telegram_gateway.channels WHERE id = $1", of("engano").channel_id
        )
    finally:
        await connection.close()
    assert title == "Sinais Premium"
