"""What the sinks should hold in the end: the sandbox's ground truth, message by message."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from gateway.sandbox.truth import TruthEvent, truth_of
from gateway.sandbox.users import User

Key = tuple[int, str, int]  # account scope, channel id, message id
Held = tuple[str | None, bool]  # words, and whether it is deleted


@dataclass
class Expected:
    """One message as the world knows it: the ids of all its changes, its newest words, whether it is gone.

    `posted` is False where the account only saw it change: it was posted before the account came.
    """

    events: list[str] = field(default_factory=list)
    words: str | None = None
    deleted: bool = False
    posted: bool = False


def expectations(truth: Iterable[TruthEvent]) -> dict[Key, Expected]:
    """What the sinks should hold in the end; reactions and imported history are no content changes."""
    messages: dict[Key, Expected] = defaultdict(Expected)
    for event in truth:
        if event.reaction or not event.pushed:
            continue
        message = messages[event.account_scope, event.channel_id, event.message_id]
        message.events.append(event.id)
        message.posted |= event.kind == "message.new"
        if event.kind == "message.deleted":
            message.deleted = True
        else:
            message.words = event.text if event.text is not None else event.caption
    return dict(messages)


def truth_of_all(users: Iterable[User], since: int = 0) -> list[TruthEvent]:
    """What several accounts of one gateway could see, in order; what two of them saw counts once."""
    seen = {(event.position, event.message_id): event for user in users for event in truth_of(user, since)}
    return sorted(seen.values(), key=lambda event: event.position)


def history_of(users: Iterable[User]) -> dict[Key, Held]:
    """Every message of every chat these accounts ever were in, as the world has it now."""
    everywhere: list[TruthEvent] = []
    for user in users:
        always: dict[object, list[tuple[int, int | None]]] = {chat: [(0, None)] for chat in user.windows}
        everywhere += truth_of(user)
        everywhere += truth_of(replace(user, records=[], windows=always))  # type: ignore[arg-type]
    everywhere.sort(key=lambda event: event.position)
    return {key: (message.words, message.deleted) for key, message in expectations(everywhere).items()}
