"""Transports: streams to other nodes, and how two nodes come to trust each other over them.

===========  ================================================================================
base         what a node and a transport know of each other
negotiation  one handshake over one stream
dial         from an address to one link, or one error
resolve      host names, off the loop's thread
sockets      what tcp and unix share
tcp, unix    stream sockets
memory       streams inside one process, on real or virtual time
===========  ================================================================================

Nothing here frames or routes: when a handshake is done its stream is handed over and forgotten.
"""

from __future__ import annotations

from .base import (
    Attempt,
    Detached,
    HalfOpen,
    Host,
    Listener,
    Stream,
    Transport,
)
from .dial import Dial, protocol_of
from .memory import MemoryNetwork, MemoryTransport
from .negotiation import Negotiation
from .resolve import Resolver
from .tcp import TcpTransport
from .unix import UnixTransport

__all__ = [
    "Attempt",
    "Detached",
    "Dial",
    "HalfOpen",
    "Host",
    "Listener",
    "MemoryNetwork",
    "MemoryTransport",
    "Negotiation",
    "Resolver",
    "Stream",
    "TcpTransport",
    "Transport",
    "UnixTransport",
    "protocol_of",
]
