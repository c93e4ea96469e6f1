"""The sandbox's wire: MTProto 2.0 over TCP, from bytes on a socket to requests for the Backend and back."""

from gateway.sandbox.wire.faults import Faults
from gateway.sandbox.wire.server import WireServer

__all__ = ["Faults", "WireServer"]
