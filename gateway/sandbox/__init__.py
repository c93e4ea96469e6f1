"""A loopback Telegram: an MTProto server for the demo, consumers' developers and end-to-end tests."""

from gateway.sandbox.chats import Chat, Topic
from gateway.sandbox.control_client import ControlClient, ControlError
from gateway.sandbox.messages import Entity, Media, Message
from gateway.sandbox.sandbox import Sandbox
from gateway.sandbox.traffic import MIXED, ONLY_NEW, Mix
from gateway.sandbox.truth import TruthEvent
from gateway.sandbox.users import User
from gateway.sandbox.world import World

__all__ = [
    "MIXED",
    "ONLY_NEW",
    "Chat",
    "ControlClient",
    "ControlError",
    "Entity",
    "Media",
    "Message",
    "Mix",
    "Sandbox",
    "Topic",
    "TruthEvent",
    "User",
    "World",
]
