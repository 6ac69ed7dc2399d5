"""Between the plane and the sockets: listening, dialling, handshakes, and their counters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ._typing import TYPE_CHECKING, final
from .address import Endpoint, NodeAddr
from .commands import Connect
from .config import NodeConfig
from .errors import (
    LocalError,
    OutgoingConnectionError,
)
from .handshake import Accepted, Identity
from .ids import ConnId, make_conn_id
from .keys import KeyRing
from .logs import logger_of
from .stats import LinkStats, NodeStats
from .transport import (
    Attempt,
    Dial,
    HalfOpen,
    Listener,
    Negotiation,
    Transport,
    protocol_of,
)

if TYPE_CHECKING:
    from random import Random

    from ._backend import kernels
    from .plane import Plane
    from .transport import Resolver
    from .transport.tls import TlsSetup

__all__ = ["Host"]

logger = logger_of("netcore.host")


@final
class Host:
    """What transports ask of a node, and what the plane asks of the sockets.

    Attributes:
        loop: The node's.
        config: The node's.
        identity: What the node says of itself in handshakes; the epoch is random per node object.
        half_open: Handshakes under way, and those refused.
        tls: What all streams become TLS with, None at the lower levels.
    """

    def __init__(
        self,
        config: NodeConfig,
        loop: kernels.Loop,
        records: type[kernels.Records],
        rng: Random,
        is_closed: Callable[[], bool],
    ) -> None:
        self.loop = loop
        self.config = config
        self.identity = Identity(
            node_id=config.node_id,
            epoch=rng.getrandbits(64),
            max_frame_bytes=config.max_frame_bytes,
            records=records,
            keys=KeyRing(config.secrets),
            tls=config.tls is not None,
        )
        self.tls = _tls_of(config)
        self.half_open = HalfOpen(config.max_half_open, config.accept_budget_per_s)
        self.handshakes_failed = 0
        self.accept_errors = 0
        self._rng = rng
        self._is_closed = is_closed
        self._plane: Plane | None = None
        self._transports: tuple[Transport, ...] = ()
        self._resolver = _resolver_of(loop)
        self._listeners: list[Listener] = []
        self._dials: dict[int, Dial] = {}
        self._incoming: dict[int, Negotiation] = {}
        self._uuids = 0
        self._links = 0
        self._logged_ms: dict[str, int] = {}

    def bind(self, plane: Plane, transports: Sequence[Transport]) -> None:
        """Use this plane and these transports; once, before anything else."""
        self._plane = plane
        self._transports = tuple(transports)
        for transport in self._transports:
            transport.bind(self)

    @property
    def plane(self) -> Plane:
        """The control side."""
        if self._plane is None:
            raise LocalError("the host has no plane yet")
        return self._plane

    # -- what transports ask -----------------------------------------------------------------------

    def random_bytes(self, count: int) -> bytes:
        """Return nonce material."""
        return self._rng.getrandbits(8 * count).to_bytes(count, "big")

    def next_conn_id(self, protocol: int, *, outgoing: bool) -> ConnId:
        """Return a conn id that this node has not used."""
        self._uuids += 1
        return make_conn_id(protocol, self._uuids, outgoing=outgoing)

    def next_link_number(self) -> int:
        """Return the next value of HELLO's link counter."""
        self._links = (self._links + 1) & 0xFFFF_FFFF
        return self._links

    def allow_auth(self, negotiation: Negotiation) -> OutgoingConnectionError | None:
        """Return why a dial that now knows its peer must not go on, or None."""
        peer = negotiation.peer
        node_id = None if peer is None else peer.node_id
        return self.plane.admission.refuse_auth(
            negotiation.conn_id, node_id, parallel=negotiation.parallel
        )

    def decide(self, negotiation: Negotiation) -> None:
        """An incoming initiator was verified."""
        self.half_open.verified(negotiation)
        self._incoming[negotiation.conn_id] = negotiation
        self.plane.handle_incoming(negotiation)

    def established(self, negotiation: Negotiation, accepted: Accepted) -> None:
        """A handshake is done: make the link."""
        conn_id = negotiation.conn_id
        self._incoming.pop(conn_id, None)
        self._dials.pop(conn_id, None)
        detached = negotiation.detach()
        try:
            conn = self.plane.switch.add_connection(
                conn_id,
                accepted.peer.node_id,
                sock=detached.sock,
                channel=detached.channel,
                records=accepted.records,
                max_frame_bytes=accepted.peer.max_frame_bytes,
                unsent=detached.unsent,
                rest=accepted.rest,
                rest_bytes=accepted.rest_bytes,
            )
        except BaseException:  # nobody else owns the stream now
            stream = detached.sock or detached.channel
            if stream is not None:
                stream.close()
            raise
        remote = "" if negotiation.remote is None else str(negotiation.remote)
        self.plane.handle_connected(conn, accepted.peer, remote, negotiation.rtt_ms)

    def failed(self, attempt: Attempt, error: OutgoingConnectionError) -> None:
        """A dial or an incoming handshake ended without a link."""
        conn_id = attempt.conn_id
        if attempt.outgoing:
            self._dials.pop(conn_id, None)
            found = None if attempt.peer is None else attempt.peer.node_id
            self.plane.handle_dial_failed(conn_id, attempt.expected_node, error, found)
            return
        self._incoming.pop(conn_id, None)
        self.handshakes_failed += 1
        logger.debug("incoming handshake from %s failed: %s", attempt.remote, error)
        self.plane.admission.on_attempt_ended(conn_id)

    def accept_failed(self, error: OSError) -> None:
        """accept() failed; the listener rests for a moment."""
        self.accept_errors += 1
        self._warn("accept", error)

    def wait_failed(self, error: OSError) -> None:
        """The loop could not wait for events; it tries again in a moment."""
        self._warn("wait for events", error)

    def _warn(self, what: str, error: OSError) -> None:
        """Log it, but not more than once a second."""
        now_ms = self.loop.now_ms
        if now_ms - self._logged_ms.get(what, now_ms - 1_000) >= 1_000:
            self._logged_ms[what] = now_ms
            logger.warning("node %s cannot %s: %s", self.config.node_id, what, error)

    # -- what the plane asks (Shell) ---------------------------------------------------------------

    def new_conn_id(self, addr: NodeAddr) -> ConnId:
        """Return a fresh id for a dial to this address."""
        protocol = protocol_of(addr, self._transports)
        return self.next_conn_id(protocol or 0, outgoing=True)

    def dial(self, command: Connect) -> None:
        """Begin to dial."""
        if self._is_closed():
            self.plane.handle_dial_failed(
                command.conn_id,
                command.addr.node_id,
                OutgoingConnectionError("the node was closed"),
            )
            return
        dial = Dial(
            self,
            command.conn_id,
            command.addr,
            parallel=command.parallel,
            transports=self._transports,
            resolver=self._resolver,
        )
        self._dials[command.conn_id] = dial
        dial.start()

    def is_dialing(self, node_id: int) -> bool:
        """Return whether a HELLO to that node is out and its dial has not ended."""
        for dial in self._dials.values():
            if dial.hello_sent:
                peer = dial.peer
                if (dial.expected_node if peer is None else peer.node_id) == node_id:
                    return True
        return False

    def cancel_dial(self, conn_id: int, error: OutgoingConnectionError) -> None:
        """End a dial."""
        dial = self._dials.get(conn_id)
        if dial is not None:
            dial.cancel(error)

    # -- what the node asks ------------------------------------------------------------------------

    def listen(self, endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
        """Listen on all of these, or on none; return them with their real ports."""
        opened: list[Listener] = []
        try:
            # One by one: what was opened before a failure is to be closed.
            opened.extend(self._transport_for(endpoint).listen(endpoint) for endpoint in endpoints)
        except BaseException:
            for listener in opened:
                listener.close()
            raise
        self._listeners += opened
        return tuple(listener.endpoint for listener in opened)

    def _transport_for(self, endpoint: Endpoint) -> Transport:
        for transport in self._transports:
            if endpoint.kind in transport.kinds:
                return transport
        raise LocalError(f"this node has no transport that listens on {endpoint}")

    def stop_accepting(self) -> None:
        """Close the listeners, and end what has not become a link yet."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for dial in list(self._dials.values()):
            dial.cancel(OutgoingConnectionError("the node was closed"))
        for negotiation in list(self._incoming.values()):
            negotiation.abort(OutgoingConnectionError("the node was closed"))
        self.half_open.close()
        for transport in self._transports:
            transport.close()

    def abandon(self) -> None:
        """Close the descriptors of listeners and handshakes, and nothing else: after a fork."""
        for transport in self._transports:
            transport.abandon()

    # -- what it counts ----------------------------------------------------------------------------

    def link_stats(self) -> tuple[LinkStats, ...]:
        """Return the live links, oldest first."""
        return tuple(
            LinkStats(
                conn_id=conn.conn_id,
                remote_node_id=conn.remote_node_id,
                remote_addr=link.remote_addr,
                is_outgoing=conn.conn_id & 0xFF == 0,
                rtt_ms=link.vitals.srtt_ms,
                suspect=link.vitals.suspect,
                closing=not link.is_open,
                queued_bytes=conn.queued_bytes,
                frames_sent=conn.frames_sent,
                frames_received=conn.frames_received,
                bytes_sent=conn.bytes_sent,
                bytes_received=conn.bytes_received,
                relay_queue_full=conn.relay_queue_full,
                sends_refused=conn.sends_refused,
                sends_dropped=conn.sends_dropped,
            )
            for link in self.plane.links
            for conn in (link.conn,)
        )

    def stats(self, backend: str, loop: kernels.Loop, routes_refused: int) -> NodeStats:
        """Return all counters of the node."""
        plane = self.plane
        return NodeStats(
            backend=backend,
            node_id=self.config.node_id,
            links=self.link_stats(),
            links_opened=plane.links_opened,
            links_closed=plane.links_closed,
            links_refused=plane.admission.refused,
            half_open=self.half_open.incoming + self.half_open.outgoing,
            half_open_refused=self.half_open.refused,
            half_open_evicted=self.half_open.evicted,
            accepts_over_budget=self.half_open.over_budget,
            handshakes_failed=self.handshakes_failed,
            dials=plane.dials,
            dials_failed=plane.dials_failed,
            redials=plane.redialer.redials,
            kept=len(plane.redialer),
            kept_refused=plane.redialer.refused,
            tls_handshakes_failed=0 if self.tls is None else self.tls.handshakes_failed,
            tls_links_broken=0 if self.tls is None else self.tls.links_broken,
            accept_errors=self.accept_errors,
            waits_failed=loop.waits_failed,
            hook_errors=plane.hook_errors,
            slow_hooks=plane.slow_hooks,
            events_dropped=plane.events_dropped,
            commands_refused=plane.commands_refused,
            posts_refused=loop.posts_refused,
            calls_sent=plane.calls.sent,
            calls_failed=plane.calls.failed,
            calls_pending=plane.calls.pending,
            calls_refused=plane.calls.refused,
            calls_received=plane.calls.received,
            calls_busy=plane.calls.busy,
            calls_malformed=plane.calls.malformed,
            answers_late=plane.calls.late,
            suspects=plane.monitor.suspects,
            routes_refused=routes_refused,
            queued_bytes=plane.switch.queued_bytes,
            **plane.switch.counters(),
        )


def _tls_of(config: NodeConfig) -> TlsSetup | None:
    if config.tls is None:
        return None
    from .transport.tls import make_tls  # brings ssl

    return make_tls(config.tls, config.node_id, config.close_timeout_ms)


def _resolver_of(loop: kernels.Loop) -> Resolver:
    from .transport import Resolver  # with the first node, like the transports: it brings threading

    return Resolver(loop)
