"""All links of a node, and what happens to each frame: deliver, relay or drop, and count it.

Facts first:

- Nothing here calls a hook while another hook runs: messages of this node to itself wait in a queue
  that the sink drains after the hook.
- Every message that was accepted ends in one counter: sent = delivered + relayed + dropped_*.
  Broadcasts have counters of their own.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Sequence

from .. import wire
from .._typing import TYPE_CHECKING, Final, NoReturn, Protocol, cast, final
from ..config import SEND_QUEUE_POLICIES, SendQueuePolicy
from ..errors import (
    LocalError,
    MessageTooBigError,
    NodeClosedError,
    NoRouteError,
    QueueFullError,
    SendQueueFullError,
)
from ..ids import check_service_id, format_conn
from ..route import RouteAction, RouteRule
from ..stats import SWITCH_COUNTERS
from .buffer import Held
from .codec import Message, decode_header, decode_message, encode_header, message_of
from .connection import OPEN, Channel, Connection, Hook
from .loop import Loop, Source
from .records import Records
from .table import RouteTable

if TYPE_CHECKING:
    from .broadcast import BroadcastDesk
    from .calls import CallDesk

__all__ = ["Payload", "Switch"]

_FRAME = struct.Struct(">I")
#: So many hooks of received frames between two looks at the clock.
HOOKS_BETWEEN: Final = 16
#: This part of the bound of all queues is made free when it is exceeded.
SHED_SHARE: Final = 16
SHED_TEXT: Final = "most of max_queued_bytes waited for it"

Payload = bytes | bytearray | memoryview
#: (action, conn_id, node_id), the answer of a route table.
Route = tuple[int, int, int]


class Sink(Protocol):
    """What the switch tells the plane. Never called re-entrantly from a send."""

    @property
    def commands(self) -> Sequence[object]:
        """What hooks asked for; the same object for ever."""

    def drain(self) -> None:
        """Something waits in ``commands`` or in the local queue; called after each hook."""

    def on_call(self, conn: Connection | None, message: Message) -> None:
        """A CALL frame arrived for this node; ``conn`` is None for one sent by this node."""

    def on_control(self, conn: Connection, kind: int, body: bytes) -> None:
        """A PING or PONG arrived. May raise FrameError."""

    def on_writable(self, conn: Connection) -> None:
        """A link that refused a send has drained to its low watermark."""

    def on_closing(self, conn: Connection) -> None:
        """One of the two ends began to close the link; it takes no more sends."""

    def on_closed(self, conn: Connection, code: int, text: str) -> None:
        """The link is gone. Exactly once per connection that was started."""

    def on_hook_error(self, hook: object, exc: Exception) -> None:
        """A hook or the injected router raised."""


class Router(Protocol):
    """Any object that routes; a ``RouteTable`` is asked without this detour."""

    def path_to(self, rule: RouteRule, service_id: int) -> RouteAction:
        """Return where a message with this rule, for this service, goes."""


def as_payload(payload: Payload) -> bytes:
    """Return ``payload`` as bytes.

    Raises:
        TypeError: It is not bytes-like.
    """
    if type(payload) is bytes:
        return payload
    if not isinstance(payload, bytes | bytearray | memoryview):
        raise TypeError(
            f"a payload is bytes, bytearray or memoryview, not {type(payload).__name__}"
        )
    return bytes(payload)


@final
class Switch(Source):
    """All links of one node, and the decision what happens to each frame.

    Args:
        loop: Of the same backend.
        router: A ``RouteTable`` of the same backend, or any object with ``path_to``; which of the
            two is decided here, once.
        sink: Who is told about everything that is not data.
        node_id: This node.
        max_frame_bytes: Largest body of a frame this node takes.
        read_budget_bytes: What one link may bring per turn.
        write_high_bytes: A send is accepted while less than this waits on its link.
        write_low_bytes: ``on_writable`` comes when a link that refused a send drained to this.
        control_queue_bytes: Bound of the control queue of a link.
        local_queue_bytes: Bound of the messages of this node to itself.
        close_timeout_ms: For a link to end politely.
        send_queue_policy: What a send does that meets a full queue: one of
            ``config.SEND_QUEUE_POLICIES``.
        max_queued_bytes: Bound of what waits on all links together; 0: none.
    """

    def __init__(
        self,
        loop: Loop,
        router: RouteTable | Router,
        sink: Sink,
        *,
        node_id: int,
        max_frame_bytes: int,
        read_budget_bytes: int,
        write_high_bytes: int,
        write_low_bytes: int,
        control_queue_bytes: int,
        local_queue_bytes: int,
        close_timeout_ms: int,
        send_queue_policy: SendQueuePolicy = "error",
        max_queued_bytes: int = 0,
    ) -> None:
        super().__init__()
        self.loop = loop
        self.node_id = node_id
        self.max_frame_bytes = max_frame_bytes
        self.read_budget_bytes = read_budget_bytes
        self.write_high_bytes = write_high_bytes
        self.write_low_bytes = write_low_bytes
        self.control_queue_bytes = control_queue_bytes
        self.local_queue_bytes = local_queue_bytes
        self.close_timeout_ms = close_timeout_ms
        if send_queue_policy not in SEND_QUEUE_POLICIES:
            raise ValueError(f"no such send_queue_policy: {send_queue_policy!r}")
        self.send_queue_policy = send_queue_policy
        self.max_queued_bytes = max_queued_bytes
        self._sink = sink
        self._commands = sink.commands
        self._table: RouteTable | None = router if isinstance(router, RouteTable) else None
        self._local_node = -1 if self._table is None else self._table.local_node
        self._hooks = 0  # called, for frames that came
        self._router: Router | None = None if isinstance(router, RouteTable) else router
        self._connections: dict[int, Connection] = {}
        self._held = Held()
        self._behaviors: list[tuple[Hook, object] | None] = [None] * wire.SERVICES
        self._local: deque[tuple[int, Message]] = deque()
        self._local_bytes = 0
        self._busy = False  # frames are being parsed, so a hook may be running
        self._closed: NodeClosedError | None = None
        self._calls: CallDesk | None = None  # set by itself; asked by ports
        self._broadcasts: BroadcastDesk | None = None  # likewise
        self._counts = dict.fromkeys(SWITCH_COUNTERS, 0)

    # -- set-up ------------------------------------------------------------------------------------

    def set_behavior(self, service_id: int, hook: Hook | None, agent: object = None) -> None:
        """Deliver messages for a service to ``hook(agent, message)``; None ends that."""
        self._behaviors[check_service_id(service_id)] = None if hook is None else (hook, agent)

    def add_connection(
        self,
        conn_id: int,
        remote_node_id: int,
        *,
        sock: socket.socket | None = None,
        channel: Channel | None = None,
        records: Records | None = None,
        max_frame_bytes: int | None = None,
        unsent: bytes = b"",
        rest: bytes = b"",
        rest_bytes: int | None = None,
        owner: object = None,
    ) -> Connection:
        """Return a new link over a stream whose handshake is done; ``start`` it afterwards.

        Args:
            conn_id: Not yet in use here.
            remote_node_id: The neighbour.
            sock: A connected, non-blocking socket; the link takes its descriptor (``detach``).
            channel: Instead of a socket.
            records: The record layer, at level *auth*.
            max_frame_bytes: The smaller of both ends' values.
            unsent: Bytes of the handshake that must leave before anything else.
            rest: Bytes of frames that arrived behind the handshake, opened already.
            rest_bytes: How many they were on the way; None: as many.
            owner: Any object, kept as ``Connection.owner``.

        Raises:
            LocalError: The conn id is in use, or there is not exactly one stream.
        """
        if self._closed is not None:
            raise self._closed.with_traceback(None)  # else it grows with every send
        if conn_id in self._connections:
            raise LocalError(f"{format_conn(conn_id)} is in use")
        if (sock is None) == (channel is None):
            raise LocalError("a connection needs a socket or a channel, and not both")
        limit = self.max_frame_bytes if max_frame_bytes is None else max_frame_bytes
        conn = Connection(self, conn_id, remote_node_id, sock, channel, records, limit)
        conn._unsent = unsent
        conn._uncounted = len(unsent)
        conn._tail = bytearray(rest)
        conn.bytes_received = len(rest) if rest_bytes is None else rest_bytes
        self._counts["bytes_received"] += conn.bytes_received
        conn.owner = owner
        self._connections[conn_id] = conn
        return conn

    def find_connection(self, conn_id: int) -> Connection | None:
        """Return the link with this id, also while it closes."""
        return self._connections.get(conn_id)

    def connections(self) -> list[Connection]:
        """Return all links, oldest first."""
        return list(self._connections.values())

    def counters(self) -> dict[str, int]:
        """Return the counters named in ``stats.SWITCH_COUNTERS``."""
        return dict(self._counts)

    def refuse_sends(self, error: NodeClosedError) -> None:
        """Raise ``error`` from every send from now on."""
        self._closed = error

    # -- sending -----------------------------------------------------------------------------------

    def originate(
        self,
        frame_kind: int,
        route_kind: int,
        argument: int,
        payload: Payload,
        from_service: int,
        to_service: int,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = wire.DEFAULT_TTL_HOPS,
    ) -> None:
        """Send a message of this node where the router says.

        Args:
            frame_kind: ``wire.KIND_MESSAGE`` or ``wire.KIND_CALL``.
            route_kind: One of ``wire.ROUTE_*``; direct means this node itself.
            argument: Node id, key, service meta or broadcast level.
            payload: Bytes-like; not kept.
            from_service: 0..255.
            to_service: 0..255.
            stream_id: 0..2**32 - 1.
            meta: 0..3.
            ttl: 1..255, the most hops the message may make.

        Raises:
            NoRouteError: The router knows no way, or the link is closing. Not for a broadcast:
                with nobody to send it to, it reaches whoever is here.
            SendQueueFullError: The next link's queue is at its high watermark, and the policy is
                "error"; for a broadcast, those of all links that it goes out on.
            QueueFullError: Too many messages of this node to itself wait.
            MessageTooBigError: The frame would be too big for this node or the next link.
            NodeClosedError: The node was closed.
            ValueError: A number is out of range.
            TypeError: The payload is not bytes-like.
        """
        if route_kind == wire.ROUTE_SERVICES and frame_kind == wire.KIND_MESSAGE:
            if self._broadcasts is None:
                raise LocalError("nobody takes broadcasts here")
            self._broadcasts._send(
                argument, payload, from_service, to_service, stream_id, meta, ttl
            )
            return
        data = self._check_send(payload, ttl)
        header = encode_header(
            route_kind, argument, ttl, from_service, to_service, stream_id, meta, self.node_id
        )
        size = len(header) + len(data)
        if size > self.max_frame_bytes:
            self._refuse(MessageTooBigError(size, self.max_frame_bytes))
        action, conn_id, _ = self._path(route_kind, argument, to_service, wire.NO_NODE)
        if action == wire.ACTION_LOCAL:
            self._push_local(frame_kind, decode_message(header + data, self.node_id))
            return
        conn = self._connections.get(conn_id) if action == wire.ACTION_NEXT else None
        if conn is None or conn.state != OPEN:
            self._refuse(NoRouteError(_destination(route_kind, argument, to_service)))
        if conn._takes(size):
            self._counts["messages_sent"] += 1
            conn._push(_FRAME.pack(frame_kind << 24 | size) + header + data)

    def send_on(
        self,
        conn: Connection | None,
        payload: Payload,
        from_service: int,
        to_service: int,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = wire.DEFAULT_TTL_HOPS,
    ) -> None:
        """Send a direct message: one hop, on exactly this link.

        A message for a reserved service uses the control queue. Raises like ``originate``.
        """
        data = self._check_send(payload, ttl)
        header = encode_header(
            wire.ROUTE_DIRECT, 0, ttl, from_service, to_service, stream_id, meta, None
        )
        if conn is None or conn.state != OPEN:
            self._refuse(NoRouteError("a link that is closed or closing"))
        size = len(header) + len(data)
        if size > conn.max_frame_bytes:
            self._refuse(MessageTooBigError(size, conn.max_frame_bytes))
        frame = _FRAME.pack(wire.KIND_MESSAGE << 24 | size) + header + data
        if to_service >= wire.FIRST_RESERVED_SERVICE:
            queued = conn._queue.control_bytes
            if queued >= self.control_queue_bytes:
                self._refuse(SendQueueFullError(conn.conn_id, queued, self.control_queue_bytes))
            conn._push_control(frame)
        elif conn._takes(size):
            self._counts["messages_sent"] += 1
            conn._push(frame)

    def send_local(
        self,
        payload: Payload,
        from_service: int,
        to_service: int,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = wire.DEFAULT_TTL_HOPS,
    ) -> None:
        """Send a message to this node itself; it is delivered after the running hook.

        Raises like ``originate``.
        """
        self.originate(
            wire.KIND_MESSAGE, wire.ROUTE_DIRECT, 0, payload, from_service, to_service, stream_id,
            meta, ttl,
        )  # fmt: skip

    def _check_send(self, payload: Payload, ttl: int) -> bytes:
        if self._closed is not None:
            raise self._closed.with_traceback(None)
        data = as_payload(payload)
        if ttl == 0:
            raise ValueError("ttl must be in 1..255, not 0")
        return data

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait on all links together; a broadcast's shared payload counts once."""
        return self._held.bytes

    def _check_held(self) -> None:
        """Hold the bound of all queues together; after each append."""
        if self.max_queued_bytes and self._held.bytes > self.max_queued_bytes:
            self._shed()

    def _shed(self) -> None:
        """Give up the link for which the most waits, then the next, until there is some room.

        First what the streams take now may leave. Room for a sixteenth of the bound is made, so
        that not every append looks at all links.
        """
        for conn in self._connections.values():
            conn._write_early()
        while self._held.bytes > self.max_queued_bytes - self.max_queued_bytes // SHED_SHARE:
            largest = max(self._connections.values(), key=lambda conn: conn._held_bytes)
            if not largest._held_bytes:
                return  # nothing that could be given up
            largest._give_up("links_shed", wire.CLOSE_SHED, SHED_TEXT)

    def _refuse(self, error: LocalError) -> NoReturn:
        self._counts["sends_refused"] += 1
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame: a cycle, with all the callers' frames

    # -- local delivery ----------------------------------------------------------------------------

    @property
    def local_pending(self) -> int:
        """Messages of this node to itself that wait for ``deliver_local``."""
        return len(self._local)

    def _push_local(self, frame_kind: int, message: Message) -> None:
        if self._local_bytes >= self.local_queue_bytes:
            self._refuse(QueueFullError("local_queue_bytes", self.local_queue_bytes))
        if frame_kind != wire.KIND_BROADCAST:
            self._counts["messages_sent"] += 1
        self._local.append((frame_kind, message))
        self._local_bytes += wire.MAX_HEADER_BYTES + len(message.payload)
        self.loop.mark_dirty(self)

    def deliver_local(self) -> bool:
        """Deliver the oldest message of this node to itself; False when there is none."""
        if not self._local:
            return False
        frame_kind, message = self._local.popleft()
        self._local_bytes -= wire.MAX_HEADER_BYTES + len(message.payload)
        self._deliver(frame_kind, None, message)
        return True

    def drop_local(self) -> None:
        """Forget the messages of this node to itself, counted as dropped: nobody takes them."""
        broadcasts = sum(kind == wire.KIND_BROADCAST for kind, _ in self._local)
        self._counts["broadcast_copies_dropped"] += broadcasts
        self._counts["dropped_no_service"] += len(self._local) - broadcasts
        self._local.clear()
        self._local_bytes = 0

    def flush(self) -> None:
        """Let the sink drain what was asked for outside a hook."""
        self._sink.drain()

    # -- receiving ---------------------------------------------------------------------------------

    def _path(self, kind: int, argument: int, service: int, from_node: int) -> Route:
        if kind == wire.ROUTE_DIRECT:
            return wire.ACTION_LOCAL, 0, 0
        table = self._table
        if table is None:
            return self._ask_router(kind, argument, service)
        if kind == wire.ROUTE_NODE:
            return table.path_to_node(argument, from_node)
        if kind == wire.ROUTE_KEY:
            return table.path_to_key(argument, from_node)
        return table.path_to_service(service, from_node)

    def _ask_router(self, kind: int, argument: int, service: int) -> Route:
        try:
            answer = cast(Router, self._router).path_to(RouteRule(kind, argument), service)
            action, conn_id, node_id = answer.action, answer.conn_id, answer.node_id
        except Exception as exc:
            self._sink.on_hook_error(self._router, exc)
            return ROUTER_ERROR
        # Whatever else it answers is not a link of ours, and not the neighbour.
        return (
            action,
            conn_id if isinstance(conn_id, int) else 0,
            node_id if isinstance(node_id, int) else wire.NO_NODE,
        )

    def _on_routed(self, conn: Connection, kind: int, body: bytes) -> None:
        """Deliver, relay or drop one MESSAGE or CALL."""
        header = decode_header(body)
        link_node = conn.remote_node_id
        # What the table would say of messages to this node; a router of the caller's is asked.
        if header[0] != wire.ROUTE_NODE or header[1] != self._local_node:
            route = self._path(header[0], header[1], header[4], link_node)
            if route[0] != wire.ACTION_LOCAL:
                self._relay(conn, kind, body, route)
                return
        self._hooks += 1
        if not self._hooks % HOOKS_BETWEEN:
            self.loop._write_early()
        self._deliver(kind, conn, message_of(header, body, link_node))

    def _on_broadcast(self, conn: Connection, body: bytes) -> None:
        """Take in one BROADCAST."""
        if self._broadcasts is None:
            self._counts["frames_ignored"] += 1
        else:
            self._broadcasts._on_frame(conn, body)

    def _relay(self, conn: Connection, kind: int, body: bytes, route: Route) -> None:
        action, conn_id, node_id = route
        if action != wire.ACTION_NEXT:
            name = "dropped_router_error" if route is ROUTER_ERROR else "dropped_no_route"
            self._counts[name] += 1
            return
        out = self._connections.get(conn_id)
        if node_id == conn.remote_node_id:
            self._counts["dropped_returned"] += 1
        elif body[1] <= 1:
            self._counts["dropped_ttl_expired"] += 1
        elif out is None or out.state != OPEN:
            self._counts["dropped_no_route"] += 1
        elif len(body) > out.max_frame_bytes:
            self._counts["dropped_too_big"] += 1
        elif out.queued_bytes >= self.write_high_bytes:
            self._counts["dropped_relay_queue_full"] += 1
            out.relay_queue_full += 1
        else:
            self._counts["messages_relayed"] += 1
            head = _FRAME.pack(kind << 24 | len(body)) + bytes((body[0], body[1] - 1))
            out._push(head + body[2:])

    def _deliver(self, kind: int, conn: Connection | None, message: Message) -> None:
        """Hand one message or call to whoever it is for; then let the sink drain."""
        service = message.to_service
        if kind == wire.KIND_CALL:
            self._counts["messages_delivered"] += 1
            self._call_hook(self._sink.on_call, conn, message)
            return
        target = conn._handlers.get(service) if conn is not None and conn._handlers else None
        if target is None:
            target = self._behaviors[service]
        if kind == wire.KIND_BROADCAST:
            name = "broadcast_copies_dropped" if target is None else "broadcasts_delivered"
            self._counts[name] += 1
        elif (
            service >= wire.FIRST_RESERVED_SERVICE
            and conn is not None
            and message.route.kind == wire.ROUTE_DIRECT
        ):
            self._counts["control_received"] += 1
        elif target is None:
            self._counts["dropped_no_service"] += 1
        else:
            self._counts["messages_delivered"] += 1
        if target is not None:
            self._call_hook(target[0], target[1], message)

    def _call_hook(self, hook: Hook, agent: object, message: Message) -> None:
        self.loop._watch.enter(hook)
        try:
            hook(agent, message)
        except Exception as exc:
            self._sink.on_hook_error(hook, exc)
        if self._commands or self._local:
            self.loop._watch.leave()
            self._sink.drain()


#: What ``_ask_router`` returns when the router raised; told from REJECT by identity.
ROUTER_ERROR: Final[Route] = (wire.ACTION_REJECT, 0, wire.NO_NODE)


def _destination(route_kind: int, argument: int, to_service: int) -> str:
    if route_kind == wire.ROUTE_NODE:
        return f"node {argument}"
    if route_kind == wire.ROUTE_KEY:
        return f"the node closest to key {argument}"
    return f"service {to_service}"
