"""What hooks ask for, as values: queued while a hook runs, carried out after it."""

from __future__ import annotations

from .address import NodeAddr
from .ids import ConnId, NodeId, ServiceId
from .route import HandlerRoute
from .values import dataclass

__all__ = [
    "CancelDial",
    "CloseConn",
    "CloseNode",
    "Command",
    "Connect",
    "Disconnected",
    "ToBehavior",
    "ToHandler",
]


@dataclass(frozen=True, slots=True)
class Connect:
    """Dial."""

    conn_id: ConnId
    addr: NodeAddr
    parallel: bool


@dataclass(frozen=True, slots=True)
class CancelDial:
    """End a dial, unless it has ended."""

    conn_id: ConnId


@dataclass(frozen=True, slots=True)
class CloseConn:
    """End one link politely, or a dial; with ``for_good`` its address is not kept any more."""

    conn_id: ConnId
    for_good: bool = True


@dataclass(frozen=True, slots=True)
class CloseNode:
    """End all links to a node politely."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class ToHandler:
    """An event for a handler; ``from_conn`` is None when the behavior sent it."""

    service_id: ServiceId
    route: HandlerRoute
    event: object
    from_node: NodeId | None = None
    from_conn: ConnId | None = None


@dataclass(frozen=True, slots=True)
class ToBehavior:
    """An event of a handler for its behavior."""

    service_id: ServiceId
    node_id: NodeId
    conn_id: ConnId
    event: object


@dataclass(frozen=True, slots=True)
class Disconnected:
    """Tell the behaviors that a link is gone: behind the last events of its handlers."""

    link: object


Command = Connect | CancelDial | CloseConn | CloseNode | ToHandler | ToBehavior | Disconnected
