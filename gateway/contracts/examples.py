"""Events as the gateway makes them: a test makes each again from what Telegram would have sent."""

from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import structs

from gateway.event import Event, Sender, delete_id, edit_id, new_id

POSTED = datetime(2026, 11, 21, 13, 30, 5, tzinfo=UTC)
EDITED = POSTED + timedelta(minutes=2)
RECEIVED = POSTED + timedelta(microseconds=214_508)
CHANNEL = "-1001649127710"
ACCOUNT_ID = 777000
SIGNAL = "ATIVO: PETR4\nCOMPRA: 25,50 A 26,00\nALVO 1: 26,80\nSTOP: 24,90"
CORRECTED = SIGNAL.replace("26,80", "27,10")

_CAPTURED: dict[str, Any] = {"account": "main", "received_at": RECEIVED, "source": "mtproto"}
_IN_CHANNEL: dict[str, Any] = {"account_scope": 0, "channel_id": CHANNEL, "chat_type": "channel", **_CAPTURED}

POST = Event(
    id=new_id(0, CHANNEL, 4711),
    kind="message.new",
    chat_title="Sinais B3",
    chat_username="sinais_b3",
    message_id=4711,
    sender=Sender(id=int(CHANNEL), name="Sinais B3", username="sinais_b3"),
    text=SIGNAL,
    entities=[{"type": "bold", "offset": 0, "length": 12}],
    telegram_date=POSTED,
    message_type="channel_post",
    metadata={"views": 1},
    **_IN_CHANNEL,
)
_EDIT = structs.replace(POST, kind="message.edited", text=CORRECTED, edit_date=EDITED, metadata={"views": 87})
EDIT = structs.replace(_EDIT, id=edit_id(0, CHANNEL, 4711, EDITED, _EDIT.content_digest))
DELETION = Event(id=delete_id(0, CHANNEL, 4711), kind="message.deleted", message_id=4711, **_IN_CHANNEL)
PIN = structs.replace(
    POST,
    id=new_id(0, CHANNEL, 4712),
    message_id=4712,
    message_type="service",
    text=None,
    entities=None,
    reply_to={"message_id": 4711},
    metadata={"action": "pin_message"},
)
PHOTO = Event(
    id=new_id(ACCOUNT_ID, "55", 19),
    kind="message.new",
    account_scope=ACCOUNT_ID,
    channel_id="55",
    chat_type="private",
    chat_title="Ana Souza",
    chat_username="ana",
    message_id=19,
    reply_to={"message_id": 18, "quote": "e o gráfico?"},
    sender=Sender(id=55, name="Ana Souza", username="ana"),
    caption="Está aqui.",
    media_type="photo",
    media={"id": 5_447_213_890_112_233_445, "dc_id": 2, "width": 1280, "height": 800, "size": 90_000},
    telegram_date=POSTED,
    message_type="private_message",
    **_CAPTURED,
)

EXAMPLES = (POST, EDIT, DELETION, PIN, PHOTO)
