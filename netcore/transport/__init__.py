"""Transports: streams to other nodes, and how two nodes come to trust each other over them.

===========  ================================================================================
base         what a node and a transport know of each other
negotiation  one handshake over one stream
half_open    handshakes under way, and who gives way when there are too many
dial         from an address to one link, or one error
resolve      host names, off the loop's thread
sockets      what tcp and unix share
tcp, unix    stream sockets
tls          contexts and conversations; secured: streams and channels that are TLS
memory       streams inside one process, on real or virtual time
===========  ================================================================================

Nothing here frames or routes: when a handshake is done its stream is handed over and forgotten.
"""

from __future__ import annotations

from .._typing import TYPE_CHECKING
from .base import (
    Attempt,
    Detached,
    Host,
    Listener,
    Stream,
    Transport,
)
from .dial import Dial, protocol_of
from .half_open import HalfOpen
from .negotiation import Negotiation

if TYPE_CHECKING:
    from .memory import MemoryNetwork, MemoryTransport
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

#: Imported by whoever first names them: they bring socket and threading with them.
_LATER = {
    "MemoryNetwork": "memory",
    "MemoryTransport": "memory",
    "Resolver": "resolve",
    "TcpTransport": "tcp",
    "UnixTransport": "unix",
}

if not TYPE_CHECKING:  # to type checkers nothing is different, and no other name exists

    def __getattr__(name: str) -> object:
        """Return what is imported late."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        found = globals()[name] = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATER})
