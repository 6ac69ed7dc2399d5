"""netcore: nodes that reach each other by id, by key and by service, over many hops, no broker.

A program imports this package, writes a few classes and becomes a node::

    from netcore import Node, NetworkBehavior

    class Echo(NetworkBehavior):
        service_id = 10

        def on_message(self, agent, message):
            agent.reply(message, message.payload)

    with Node(1, behaviors=[Echo()]) as node:
        print(node.listen("/ip4/127.0.0.1/tcp/0"))
        node.run()
"""

from __future__ import annotations

from . import errors as _errors
from . import ids
from ._backend import BACKEND, kernels
from ._typing import TYPE_CHECKING
from .address import Endpoint, NodeAddr
from .agent import BehaviorAgent, ConnectionAgent, ConnectionSender
from .behavior import ConnectionHandler, NetworkBehavior
from .config import NodeConfig, TlsFiles
from .errors import *  # noqa: F403 - the tree is one thing, and errors.__all__ is its list
from .ids import ConnId, Key, NodeId, ServiceId, key_of
from .node import Node
from .route import BroadcastLevel, HandlerRoute, Metric, RouteAction, RouteRule
from .routing import (
    ForceLocalRouter,
    ForceNodeRouter,
    LayeredRouter,
    Path,
    RouterSync,
    RouterTable,
)
from .rpc import CallAnswer, RpcAnswer, RpcRequest
from .stats import ConnectionStats, KeptAddr, LinkStats, NodeStats
from .transport import Transport

if TYPE_CHECKING:
    from .explain import KnownNode, KnownService, Route, RouteCandidate
    from .transport import MemoryNetwork, MemoryTransport, TcpTransport, UnixTransport

__version__ = "0.1.0"

#: A decoded message; made by netcore, see docs/guide.md.
Message = kernels.Message

__all__ = [
    "BACKEND",
    "BehaviorAgent",
    "BroadcastLevel",
    "CallAnswer",
    "ConnId",
    "ConnectionAgent",
    "ConnectionHandler",
    "ConnectionSender",
    "ConnectionStats",
    "Endpoint",
    "ForceLocalRouter",
    "ForceNodeRouter",
    "HandlerRoute",
    "KeptAddr",
    "Key",
    "KnownNode",
    "KnownService",
    "LayeredRouter",
    "LinkStats",
    "MemoryNetwork",
    "MemoryTransport",
    "Message",
    "Metric",
    "NetworkBehavior",
    "Node",
    "NodeAddr",
    "NodeConfig",
    "NodeId",
    "NodeStats",
    "Path",
    "Route",
    "RouteAction",
    "RouteCandidate",
    "RouteRule",
    "RouterSync",
    "RouterTable",
    "RpcAnswer",
    "RpcRequest",
    "ServiceId",
    "TcpTransport",
    "TlsFiles",
    "Transport",
    "UnixTransport",
    "ids",
    "key_of",
    *_errors.__all__,
]

if not TYPE_CHECKING:  # to type checkers nothing is different, and no other name exists

    def __getattr__(name: str) -> object:
        """Return what is imported by the first node, or question, that wants it."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import explain, transport

        home = explain if name in explain.__all__ else transport
        found = globals()[name] = getattr(home, name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
