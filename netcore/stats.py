"""Counters and measurements, as frozen values. The names of all counters stand here only."""

from __future__ import annotations

from ._typing import Final, Literal
from .address import NodeAddr
from .errors import OutgoingConnectionError
from .values import dataclass, field

__all__ = [
    "DROP_COUNTERS",
    "SWITCH_COUNTERS",
    "ConnectionStats",
    "KeptAddr",
    "LinkStats",
    "NodeStats",
]

#: Why an accepted message ended without delivery; each one a counter of ``NodeStats``.
DROP_COUNTERS: Final = (
    "dropped_no_route",
    "dropped_ttl_expired",
    "dropped_relay_queue_full",
    "dropped_returned",
    "dropped_no_service",
    "dropped_link_closed",
    "dropped_router_error",
    "dropped_too_big",
    "dropped_send_queue_full",
)

#: What the switch kernel counts, in the order of its ``counters()``.
SWITCH_COUNTERS: Final = (
    "messages_sent",
    "messages_delivered",
    "messages_relayed",
    *DROP_COUNTERS,
    "sends_refused",
    "control_sent",
    "control_received",
    "frames_ignored",
    "protocol_errors",
    "control_overflows",
    "bytes_sent",
    "bytes_received",
    "broadcasts_sent",
    "broadcasts_received",
    "broadcasts_delivered",
    "broadcasts_duplicate",
    "broadcasts_stale",
    "broadcast_copies",
    "broadcast_copies_dropped",
    "broadcast_origins_forgotten",
    "queue_overflows",
    "links_shed",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStats:
    """What a link measures about itself; ``None`` is unknown, never 0.

    Attributes:
        conn_id: The link.
        remote_node_id: The node at its other end.
        rtt_ms: Smoothed round-trip time.
        sent_bytes_per_s: Since the measurement before.
        received_bytes_per_s: Likewise.
        queued_bytes: Waiting to be sent.
        loss: Share of lost packets, where the transport knows it.
        over_use: Whether the transport sees congestion, where it knows.
        suspect: No sign of life for a while; routes have moved away where there are others.
        writable: The queue has room: a send would not be refused.
    """

    conn_id: int
    remote_node_id: int
    rtt_ms: float | None = None
    sent_bytes_per_s: float | None = None
    received_bytes_per_s: float | None = None
    queued_bytes: int = 0
    loss: float | None = None
    over_use: bool | None = None
    suspect: bool = False
    writable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStats:
    """One live link, as ``Node.connections`` and ``NodeStats.links`` show it."""

    conn_id: int
    remote_node_id: int
    remote_addr: str
    is_outgoing: bool
    rtt_ms: float | None
    suspect: bool
    closing: bool
    queued_bytes: int
    frames_sent: int
    frames_received: int
    bytes_sent: int
    bytes_received: int
    relay_queue_full: int
    sends_refused: int
    sends_dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAddr:
    """An address whose link is kept up, as ``Node.kept`` shows it.

    Attributes:
        addr: As it was given.
        parallel: Whether a link of its own is wanted, beside others to that node.
        state: "dialing", "up" (its node has a link, whoever dialled it) or "waiting".
        node_id: Who lives there; None until it is known.
        conn_id: Of the attempt under way or of its own link, None when there is neither.
        attempts: Dials so far.
        last_error: Why the last one failed; None while it is up and before the first failure.
        next_attempt_ms: In how many milliseconds it is dialled; None unless it waits.
    """

    addr: NodeAddr
    parallel: bool
    state: Literal["dialing", "up", "waiting"]
    node_id: int | None
    conn_id: int | None
    attempts: int
    last_error: OutgoingConnectionError | None
    next_attempt_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStats:
    """Counters of a node since its start, and a few gauges (marked so).

    ``messages_sent`` counts what this node's own code sent and the node accepted (messages and
    calls; not control traffic); over a network of living nodes the sum of ``messages_sent`` is
    the sum of ``messages_delivered`` plus the sum of ``dropped``, once nothing is in flight.

    Broadcasts are none of these messages: each is copied from link to link. Over a network of
    living nodes the sum of ``broadcast_copies`` is the sum of ``broadcasts_received``,
    ``broadcasts_duplicate``, ``broadcasts_stale`` and ``broadcast_copies_dropped``.

    Attributes:
        backend: "fast" or "pure".
        messages_sent: Accepted from this node's own code, local ones included.
        messages_delivered: Handed to a hook or to the RPC layer here.
        messages_relayed: Passed on to the next hop.
        dropped_no_route: The router knew no way.
        dropped_ttl_expired: The hop count was used up.
        dropped_relay_queue_full: The next hop's queue was full.
        dropped_returned: The only way led back to the neighbour it came from.
        dropped_no_service: It arrived and no behavior here has that service id.
        dropped_link_closed: Queued on a link that ended.
        dropped_router_error: The injected router raised.
        dropped_too_big: The next hop takes only smaller frames.
        dropped_send_queue_full: By ``send_queue_policy``, because a send met a full queue: the
            message sent, or older ones that waited, relayed ones among them.
        sends_refused: Sends that raised; not part of ``messages_sent``.
        control_sent: Control frames and messages of reserved services queued.
        control_received: The same, received.
        frames_ignored: Extension frames of a kind this version does not know.
        protocol_errors: Links closed because of what the neighbour sent.
        control_overflows: Links closed because their control queue was full.
        bytes_sent: To sockets.
        bytes_received: From sockets.
        broadcasts_sent: Accepted from this node's own code.
        broadcasts_received: Copies that came with a broadcast not seen here before.
        broadcasts_delivered: Handed to a hook here, this node's own included.
        broadcasts_duplicate: Copies of one that was seen here before, or began here.
        broadcasts_stale: Copies so far behind the newest of their origin that nobody knows.
        broadcast_copies: Made for links: one for each link that a broadcast goes out on.
        broadcast_copies_dropped: Of those: the hop count was used up, the link's queue was full or
            takes only smaller frames, or they were queued on a link that ended. Also those of this
            node to itself that waited when it closed.
        broadcast_origins_forgotten: Origins forgotten because of ``max_broadcast_origins``.
        queue_overflows: Links closed because a send met a full queue and ``send_queue_policy``
            is "close".
        links_shed: Links closed because of ``max_queued_bytes``.
        queued_bytes: Gauge: what counts against that, of all links.
        links: Gauge: the live links.
        links_opened: Links that were reported as connected.
        links_closed: Links that were reported as disconnected.
        links_refused: Incoming links refused after authentication.
        half_open: Gauge: handshakes under way.
        half_open_refused: Connections closed because max_half_open was reached.
        half_open_evicted: Incoming handshakes ended to make room for another source's, or because
            they had been silent; part of ``handshakes_failed``.
        accepts_over_budget: Connections closed because their source had used up
            ``accept_budget_per_s``.
        handshakes_failed: Incoming handshakes that ended without a link.
        tls_handshakes_failed: TLS handshakes, of either direction, that TLS itself has ended.
        tls_links_broken: Links that ended because TLS records were not genuine.
        dials: Calls of ``connect``, and attempts for addresses that are kept.
        dials_failed: Those that ended in an error.
        redials: Those made for a kept address, after its first.
        kept: Gauge: addresses whose link is kept up.
        kept_refused: Not kept because of ``max_kept``.
        accept_errors: accept() failed, for example for want of file descriptors.
        waits_failed: The system refused to wait for events; it was asked again.
        hook_errors: Exceptions that left a hook or a callback.
        slow_hooks: How often a hook or a callback took longer than ``slow_hook_ms``.
        events_dropped: Handler events without a handler to go to.
        commands_refused: Requests of hooks beyond ``max_commands``.
        posts_refused: ``post`` calls beyond ``max_posts``.
        calls_sent: RPC requests of this node.
        calls_failed: Those that ended in an error.
        calls_pending: Gauge: those not ended yet.
        calls_refused: Not started because of ``max_pending_calls``.
        calls_received: RPC requests to this node.
        calls_busy: Those answered BUSY because of ``max_answers_open``.
        calls_malformed: CALL frames whose envelope made no sense.
        answers_late: RPC answers nobody waited for.
        suspects: Times that a link fell silent.
        routes_refused: Entries of neighbours' announcements that broke a rule.
    """

    backend: str
    node_id: int
    messages_sent: int = 0
    messages_delivered: int = 0
    messages_relayed: int = 0
    dropped_no_route: int = 0
    dropped_ttl_expired: int = 0
    dropped_relay_queue_full: int = 0
    dropped_returned: int = 0
    dropped_no_service: int = 0
    dropped_link_closed: int = 0
    dropped_router_error: int = 0
    dropped_too_big: int = 0
    dropped_send_queue_full: int = 0
    sends_refused: int = 0
    control_sent: int = 0
    control_received: int = 0
    frames_ignored: int = 0
    protocol_errors: int = 0
    control_overflows: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    broadcasts_sent: int = 0
    broadcasts_received: int = 0
    broadcasts_delivered: int = 0
    broadcasts_duplicate: int = 0
    broadcasts_stale: int = 0
    broadcast_copies: int = 0
    broadcast_copies_dropped: int = 0
    broadcast_origins_forgotten: int = 0
    queue_overflows: int = 0
    links_shed: int = 0
    queued_bytes: int = 0
    links: tuple[LinkStats, ...] = field(default=())
    links_opened: int = 0
    links_closed: int = 0
    links_refused: int = 0
    half_open: int = 0
    half_open_refused: int = 0
    half_open_evicted: int = 0
    accepts_over_budget: int = 0
    handshakes_failed: int = 0
    tls_handshakes_failed: int = 0
    tls_links_broken: int = 0
    dials: int = 0
    dials_failed: int = 0
    redials: int = 0
    kept: int = 0
    kept_refused: int = 0
    accept_errors: int = 0
    waits_failed: int = 0
    hook_errors: int = 0
    slow_hooks: int = 0
    events_dropped: int = 0
    commands_refused: int = 0
    posts_refused: int = 0
    calls_sent: int = 0
    calls_failed: int = 0
    calls_pending: int = 0
    calls_refused: int = 0
    calls_received: int = 0
    calls_busy: int = 0
    calls_malformed: int = 0
    answers_late: int = 0
    suspects: int = 0
    routes_refused: int = 0

    @property
    def dropped(self) -> int:
        """Sum of the ``dropped_*`` counters."""
        return sum(getattr(self, name) for name in DROP_COUNTERS)

    def as_dict(self) -> dict[str, object]:
        """Return the counters as plain data, without the links."""
        return {name: getattr(self, name) for name in NodeStats.__annotations__ if name != "links"}
