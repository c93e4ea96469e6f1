"""Every kind of thing that can happen in a chat, and what each sink makes of it."""

import asyncio

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
    (closing,) = [message for message in group.messages.values() if message.action is not None]
    joined = world.add_channel("Canal novo", [ana])
    world.post(joined, "antes da entrada")
    await asyncio.sleep(1.1)  # dates have whole seconds, and what is of the second of joining is fetched
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
    migration = {
        event.metadata["action"]: event
        for event in events
        if event.metadata.get("action", "").startswith(("chat_migrate", "channel_migrate"))
    }
    left, entered = migration["chat_migrate_to"], migration["channel_migrate_from"]
    assert (left.channel_id, left.metadata["migrated_to"]) == (group.ref, moved.ref)
    assert (entered.channel_id, entered.metadata["migrated_from"]) == (moved.ref, group.ref)
    assert left.message_id == closing.id_for(account.id)
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


async def test_comments_and_topics_are_in_their_threads(rig: Rig) -> None:
    world = rig.sandbox.world
    ana = next(user for user in world.users.values() if user.first_name == "Ana")
    channel = rig.scene.chats[0]
    forum = next(chat for chat in rig.scene.chats if chat.forum)
    group = world.add_supergroup("Comentários", [*rig.scene.accounts, ana])
    world.link_discussion(channel, group)
    post = world.post(channel, "Alvo 26 ou 27?")
    album = world.post_album(channel, ["Gráficos", ""])
    copy = world.copy_of(post)
    comment = world.post(group, "27", sender=ana, reply_to=copy)
    answer = world.post(group, "também acho", sender=ana, reply_to=comment)
    apart = world.post(group, "bom dia a todos", sender=ana)
    pinned = world.pin(group, comment)
    topic = world.add_topic(forum, "Opções")
    world.post(forum, "Trava de alta", sender=ana, topic=topic)
    general = world.post(forum, "Bem-vindos", sender=ana)
    reply = world.post(forum, "Obrigado", sender=ana, reply_to=general)
    renamed = world.edit_topic(forum, topic, title="Opções e futuros")
    closed = world.edit_topic(forum, topic, closed=True)
    await rig.assert_everything_arrived()
    events = {(event.channel_id, event.message_id): event for event in rig.consumer.events.values()}

    original = events[channel.ref, post.id]
    assert original.metadata["comments"] == {"channel_id": group.ref}
    copied = events[group.ref, copy.id]
    assert copied.metadata["automatic_forward"] is True
    assert copied.sender is not None
    assert str(copied.sender.id) == channel.ref
    assert copied.forward is not None
    assert (str(copied.forward["from"]["id"]), copied.forward["message_id"]) == (channel.ref, post.id)
    assert (copied.text, copied.thread_id) == ("Alvo 26 ou 27?", None)
    in_album = [events[group.ref, world.copy_of(item).id] for item in album]
    assert {event.grouped_id for event in in_album} == {album[0].grouped_id}
    threads = {
        name: events[group.ref, one.id].thread_id
        for name, one in (
            ("comment", comment),
            ("answer", answer),
            ("apart", apart),
            ("pinned", pinned),
        )
    }
    assert threads == {"comment": copy.id, "answer": copy.id, "apart": None, "pinned": None}
    assert (events[group.ref, answer.id].reply_to or {})["message_id"] == comment.id

    assert events[forum.ref, general.id].thread_id is events[forum.ref, reply.id].thread_id is None
    assert events[forum.ref, renamed.id].metadata["action_data"]["title"] == "Opções e futuros"
    assert events[forum.ref, closed.id].metadata["action_data"]["closed"] is True
    for change in (renamed, closed):
        event = events[forum.ref, change.id]
        assert (event.metadata["action"], event.thread_id) == ("topic_edit", topic.id)


async def test_a_deletion_without_a_chat_touches_nothing_with_the_same_id(rig: Rig) -> None:
    world = rig.sandbox.world
    account = rig.scene.accounts[0]
    ana = next(user for user in world.users.values() if user.first_name == "Ana")
    private, group, channel = (
        world.private(account, ana),
        world.add_group("Grupo", [account, ana]),
        rig.scene.chats[0],
    )
    secret = world.post(private, "só entre nós", sender=ana)
    wanted = secret.id_for(account.id)
    world.skip_ids(channel, max(wanted - channel.next_message_id, 0))
    public = world.post(channel, "COMPRA VALE3")
    while public.id < wanted:
        public = world.post(channel, "COMPRA VALE3")
    in_group = world.post(group, "fica", sender=ana)
    assert public.id == wanted != in_group.id_for(account.id)
    world.delete(private, secret)
    await rig.assert_everything_arrived()
    connection = await asyncpg.connect(rig.stack.postgres.dsn)
    try:
        rows = await connection.fetch(
            "SELECT channel_id, is_deleted FROM telegram_gateway.messages_current WHERE message_id = $1",
            wanted,
        )
    finally:
        await connection.close()
    assert {row["channel_id"]: row["is_deleted"] for row in rows} == {str(ana.id): True, channel.ref: False}
    (deletion,) = [event for event in rig.consumer.events.values() if event.kind == "message.deleted"]
    assert (deletion.channel_id, deletion.account_scope) == (str(ana.id), account.id)


async def test_a_ban_and_a_chat_gone_private_leave_the_rest_alone(rig: Rig) -> None:
    """What came before stays, what comes after the return comes, and nobody else's stream stops."""
    world = rig.sandbox.world
    account = rig.scene.accounts[0]
    ana = next(user for user in world.users.values() if user.first_name == "Ana")
    channel, other = rig.scene.chats[:2]
    mesa = world.add_supergroup("Mesa fechada", [ana, account], username="mesa_fechada")
    group = world.add_group("Grupo fechado", [ana, account])
    for chat in (mesa, group):
        world.post(chat, f"antes em {chat.title}", sender=ana)
        world.ban(chat, account)
    world.post(mesa, "durante", sender=ana)
    world.make_private(channel)
    world.post(channel, "só para assinantes")
    world.post(other, "tudo como sempre")
    for chat in (mesa, group):
        world.unban(chat, account)
        world.join(chat, account)
        world.post(chat, f"de volta em {chat.title}", sender=ana)
    await rig.assert_everything_arrived(backfilled=True)
    words = {event.content for event in rig.consumer.events.values()}
    assert {"antes em Mesa fechada", "de volta em Mesa fechada", "só para assinantes"} <= words
    (private,) = [event for event in rig.consumer.events.values() if event.text == "só para assinantes"]
    assert (private.chat_title, private.chat_username) == (channel.title, None)
