"""What a handler may raise to say what became of an event; anything else it raises is a failed attempt."""


class Ignored(Exception):
    """The event is not for this consumer: recorded as ignored, and never offered again."""


class Rejected(Exception):
    """The event can never be handled: parked at once, with the reason, without further attempts."""


class TryLater(Exception):
    """Something the handler needs is away: tried again, with growing delays, for as long as it takes.

    It counts as no attempt. The event's chat waits, others go on.
    """
