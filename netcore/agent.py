"""What a hook may ask for: sends are queued at once, everything else happens after the hook."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter

from . import wire
from ._typing import TYPE_CHECKING, Protocol, final
from .address import NodeAddr, parse_addr
from .commands import CloseConn, CloseNode, Command, ToBehavior, ToHandler
from .ids import (
    ConnId,
    NodeId,
    ServiceId,
    check_conn_id,
    check_node_id,
    format_conn,
    is_outgoing,
)
from .route import BroadcastLevel, HandlerRoute, RouteRule

if TYPE_CHECKING:
    from ._backend import kernels
    from .rpc import CallAnswer

__all__ = ["AgentHost", "BehaviorAgent", "ConnectionAgent", "ConnectionSender", "Later"]

Payload = bytes | bytearray | memoryview


class Later(Protocol):
    """What ``call_later`` returns."""

    def cancel(self) -> None:
        """Do not call; idempotent."""


class AgentHost(Protocol):
    """What agents ask; the plane."""

    @property
    def node_id(self) -> NodeId:
        """This node."""

    @property
    def now_ms(self) -> int:
        """The time: of the running turn, else of this moment."""

    def push(self, command: Command) -> None:
        """Queue a command."""

    def connect(self, addr: NodeAddr, *, parallel: bool, keep: bool = False) -> ConnId:
        """Queue a dial."""

    def forget(self, addr: NodeAddr) -> bool:
        """Keep no link to an address any more."""

    def offer_service(self, service_id: int, is_offered: bool) -> None:
        """Tell the router whether this node offers a service."""

    def call_later(self, delay_ms: int, fn: Callable[[], object]) -> Later:
        """Call a function after a while, like a hook."""

    def is_open(self, conn_id: int) -> bool:
        """Whether there is such a link, and neither end has begun to close it."""

    def rtt_ms(self, conn_id: int) -> float | None:
        """Smoothed round-trip time of a link."""


class _Agent:
    """What both kinds of agent can do.

    ``how`` in every send: ``to_service`` (who gets it there; the own service unless said),
    ``stream_id`` (0..2**32 - 1), ``meta`` (0..3), ``ttl`` (1..255 hops, 64 unless said).
    Every send raises ``NoRouteError``, ``SendQueueFullError``, ``MessageTooBigError``,
    ``NodeClosedError``, ``ValueError`` (a number out of range) or ``TypeError`` (not bytes-like).
    """

    __slots__ = ("_host", "_port", "_service_id")

    def __init__(self, host: AgentHost, port: kernels.Port, service_id: int) -> None:
        self._host = host
        self._port = port
        self._service_id = ServiceId(service_id)

    @property
    def local_node_id(self) -> NodeId:
        """The id of this node."""
        return self._host.node_id

    @property
    def service_id(self) -> ServiceId:
        """The service this agent acts for."""
        return self._service_id

    @property
    def now_ms(self) -> int:
        """The node's time: monotonic milliseconds, of the running turn; between turns, of now."""
        return self._host.now_ms

    def send_to_node(
        self,
        node_id: int,
        payload: Payload,
        *,
        to_service: int | None = None,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = 64,
    ) -> None:
        """Send to the node with this id, over as many hops as it takes."""
        self._port.send_to_node(
            node_id, payload, to_service=to_service, stream_id=stream_id, meta=meta, ttl=ttl
        )

    def send_to_key(
        self,
        key: int | str | bytes,
        payload: Payload,
        *,
        to_service: int | None = None,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = 64,
    ) -> None:
        """Send to the node closest to the key; ``str`` and ``bytes`` are hashed by ``key_of``."""
        self._port.send_to_key(
            key, payload, to_service=to_service, stream_id=stream_id, meta=meta, ttl=ttl
        )

    def send_to_service(
        self, service_id: int, payload: Payload, *, stream_id: int = 0, meta: int = 0, ttl: int = 64
    ) -> None:
        """Send to a node that offers the service: this one, else the nearest."""
        self._port.send_to_service(service_id, payload, stream_id=stream_id, meta=meta, ttl=ttl)

    def broadcast(
        self,
        payload: Payload,
        *,
        level: int = BroadcastLevel.GLOBAL,
        to_service: int | None = None,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = 64,
    ) -> None:
        """Send to every node within the level that offers the service, this one included."""
        self._port.broadcast(
            payload,
            level=level,
            to_service=to_service,
            stream_id=stream_id,
            meta=meta,
            ttl=ttl,
        )

    def send_local(
        self,
        payload: Payload,
        *,
        to_service: int | None = None,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = 64,
    ) -> None:
        """Send to this node's own behavior; it gets it after the running hook."""
        self._port.send_local(
            payload, to_service=to_service, stream_id=stream_id, meta=meta, ttl=ttl
        )

    def send_to_conn(
        self,
        conn_id: int,
        payload: Payload,
        *,
        to_service: int | None = None,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = 64,
    ) -> None:
        """Send one hop over exactly this link, without routing."""
        self._port.send_to_conn(
            conn_id, payload, to_service=to_service, stream_id=stream_id, meta=meta, ttl=ttl
        )

    def reply(self, message: kernels.Message, payload: Payload) -> None:
        """Send back to the message's node and service, with its ``stream_id``."""
        self._port.reply(message, payload)

    def call(
        self,
        rule: RouteRule,
        service_id: int,
        payload: Payload,
        on_done: Callable[[CallAnswer], object],
        timeout_ms: int = 5_000,
    ) -> None:
        """Call a service; ``on_done(answer)`` follows exactly once, never inside this call.

        Args:
            rule: Which node; ``RouteRule.service()`` the nearest that offers the service.
            service_id: Whose ``on_rpc`` there.
            payload: Bytes-like.
            on_done: Gets a ``CallAnswer``: ``ok``, ``payload``, ``error`` (a ``CallError``).
            timeout_ms: 1..2**32 - 1; afterwards the error is ``CallTimeout``.

        Raises:
            LocalError: It could not be sent (as for sends), or ``max_pending_calls`` is reached;
                ``on_done`` is not called then.
        """
        self._port.call(rule, service_id, payload, on_done, timeout_ms)

    def call_later(self, delay_ms: int, fn: Callable[[], object]) -> Later:
        """Call ``fn()`` after ``delay_ms`` like a hook: isolated, never inside another one."""
        return self._host.call_later(delay_ms, fn)

    def register_service(self) -> None:
        """Offer the own service to the network, as every service is when the node is made."""
        self._host.offer_service(self._service_id, True)

    def unregister_service(self) -> None:
        """Offer it no longer: messages by service go to the nearest other provider, also from here.

        The behavior stays: it gets its hooks, and what is sent to this node by id, by key, over a
        link or by ``send_local``.

        Raises:
            LocalError: The router cannot take a service back.
        """
        self._host.offer_service(self._service_id, False)

    def close_conn(self, conn_id: int) -> None:
        """End a link politely: what is queued still goes out. Unknown ids are ignored.

        Its address is not kept any more, if it was; nor is that of a dial that is ended by this.
        """
        # What netcore's own services close was the neighbour's fault, and is wanted back.
        for_good = self._service_id < wire.FIRST_RESERVED_SERVICE
        self._host.push(CloseConn(check_conn_id(conn_id), for_good))

    def close_node(self, node_id: int) -> None:
        """End all links to a node politely, and keep no address of it any more."""
        self._host.push(CloseNode(check_node_id(node_id)))


@final
class BehaviorAgent(_Agent):
    """What a behavior may ask for, in its hooks and, by ``Node.agent``, outside of them."""

    def __init__(self, host: AgentHost, port: kernels.Port, service_id: int) -> None:
        super().__init__(host, port, service_id)
        # The methods above are for readers and editors; what runs are the kernel's own, which
        # spares a Python frame per message.
        for name in _ROUTED_SENDS:
            setattr(self, name, getattr(port, name))

    def send(
        self,
        rule: RouteRule,
        payload: Payload,
        *,
        to_service: int | None = None,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = 64,
    ) -> None:
        """Send where the rule says."""
        self._port.send(
            rule, payload, to_service=to_service, stream_id=stream_id, meta=meta, ttl=ttl
        )

    def connect_to(
        self, addr: NodeAddr | str, *, parallel: bool = False, keep: bool = False
    ) -> ConnId:
        """Dial; the outcome arrives in the hooks, under the conn id returned here.

        Args:
            addr: Whom; several alternatives are tried in order.
            parallel: Also when there is a link to that node already.
            keep: Dial again whenever that fails or the link ends, until ``forget``; see
                ``Node.connect``.

        Raises:
            AddressError: ``addr`` is not an address.
            QueueFullError: ``max_commands`` wait already, or ``max_kept`` addresses are kept.
        """
        return self._host.connect(parse_addr(addr), parallel=parallel, keep=keep)

    def forget(self, addr: NodeAddr | str) -> bool:
        """Keep no link to an address any more; see ``Node.forget``."""
        return self._host.forget(parse_addr(addr))

    def send_to_handler(self, route: HandlerRoute, event: object) -> None:
        """Give any object to this service's handler on a link, as ``on_behavior_event``."""
        self._host.push(ToHandler(self._service_id, _checked(route), event))


def _checked(route: HandlerRoute) -> HandlerRoute:
    # Here, where the traceback still names the caller: the command is carried out later.
    if not isinstance(route, HandlerRoute):
        raise TypeError(f"expected a HandlerRoute, not {type(route).__name__}")
    return route


_ROUTED_SENDS = (
    "send",
    "send_to_node",
    "send_to_key",
    "send_to_service",
    "broadcast",
    "send_local",
    "send_to_conn",
    "reply",
    "call",
)


@final
class ConnectionAgent(_Agent):
    """What a handler may ask for, on its own link and beyond.

    Attributes:
        remote_addr: Where the other end of the own link is, as text.
    """

    # One per handler and link, so nothing is kept that the connection knows.
    __slots__ = ("__weakref__", "_conn", "remote_addr")

    def __init__(
        self,
        host: AgentHost,
        port: kernels.Port,
        service_id: int,
        conn: kernels.Connection,
        remote_addr: str,
    ) -> None:
        super().__init__(host, port, service_id)
        self._conn = conn
        self.remote_addr = remote_addr

    @property
    def conn_id(self) -> ConnId:
        """The own link."""
        return ConnId(self._conn.conn_id)

    @property
    def remote_node_id(self) -> NodeId:
        """The node at its other end."""
        return NodeId(self._conn.remote_node_id)

    @property
    def is_open(self) -> bool:
        """Whether neither end has begun to close the link: it takes sends."""
        return self._host.is_open(self.conn_id)

    @property
    def rtt_ms(self) -> float | None:
        """Smoothed round-trip time of the link; None until it is known."""
        return self._host.rtt_ms(self.conn_id)

    def send(
        self,
        payload: Payload,
        *,
        to_service: int | None = None,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = 64,
    ) -> None:
        """Send one hop over the own link, without routing."""
        self._port.send_on_link(
            payload, to_service=to_service, stream_id=stream_id, meta=meta, ttl=ttl
        )

    def send_routed(
        self,
        rule: RouteRule,
        payload: Payload,
        *,
        to_service: int | None = None,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = 64,
    ) -> None:
        """Send where the rule says."""
        self._port.send(
            rule, payload, to_service=to_service, stream_id=stream_id, meta=meta, ttl=ttl
        )

    def send_to_handler(self, route: HandlerRoute, event: object) -> None:
        """Give any object to this service's handler on a link, as ``on_other_handler_event``."""
        self._host.push(
            ToHandler(self._service_id, _checked(route), event, self.remote_node_id, self.conn_id)
        )

    def send_behavior(self, event: object) -> None:
        """Give any object to this service's behavior, as ``on_handler_event``."""
        self._host.push(ToBehavior(self._service_id, self.remote_node_id, self.conn_id, event))

    def close_conn(self, conn_id: int | None = None) -> None:
        """End the own link, or another one, politely."""
        super().close_conn(self.conn_id if conn_id is None else conn_id)


@final
class ConnectionSender:
    """A link, as the connected and disconnected hooks of a behavior get it; equal by ``conn_id``.

    Attributes:
        remote_addr: Where its other end is, as text.
    """

    __slots__ = ("_conn", "_host", "_port", "remote_addr")

    def __init__(
        self,
        host: AgentHost,
        port: kernels.Port,
        conn: kernels.Connection,
        remote_addr: str,
    ) -> None:
        self.remote_addr = remote_addr
        self._conn = conn
        self._port = port
        self._host = host

    @property
    def conn_id(self) -> ConnId:
        """Its id within this node, the one ``connect`` returned."""
        return ConnId(self._conn.conn_id)

    @property
    def remote_node_id(self) -> NodeId:
        """The node at its other end."""
        return NodeId(self._conn.remote_node_id)

    @property
    def is_outgoing(self) -> bool:
        """Whether this node dialled."""
        return is_outgoing(self.conn_id)

    def send(
        self,
        payload: Payload,
        *,
        to_service: int | None = None,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = 64,
    ) -> None:
        """Send one hop over this link, without routing; raises like the agents' sends."""
        self._port.send_on_link(
            payload, to_service=to_service, stream_id=stream_id, meta=meta, ttl=ttl
        )

    def close(self) -> None:
        """End the link politely, after the running hook; its address is not kept any more."""
        self._host.push(CloseConn(self.conn_id))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ConnectionSender):
            return NotImplemented
        return self.conn_id == other.conn_id

    def __hash__(self) -> int:
        return hash(self.conn_id)

    def __repr__(self) -> str:
        return f"<{format_conn(self.conn_id)} to node {self.remote_node_id}>"


def _use_kernel_sends(cls: type, sends: Mapping[str, str]) -> None:
    """Replace sends of a class by the port's own, as ``BehaviorAgent`` does for each object.

    A property over an ``attrgetter`` runs no Python frame, and costs an object nothing.
    """
    for name, method in sends.items():
        setattr(cls, name, property(attrgetter(f"_port.{method}"), doc=getattr(cls, name).__doc__))


_use_kernel_sends(ConnectionSender, {"send": "send_on_link"})
_use_kernel_sends(
    ConnectionAgent,
    {**{name: name for name in _ROUTED_SENDS}, "send_routed": "send", "send": "send_on_link"},
)
