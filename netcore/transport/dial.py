"""Dial: from an address to one link, or to one error.

Facts first:

- The endpoints of the address are tried in order, one at a time, host names as what they resolve
  to; each has the whole handshake timeout for itself, connecting included.
- What another endpoint may do better (nobody there, silence, another node, another secret, another
  version) leads to the next one. The other errors are about this node or about the node that was
  found, and end the dial.
- When all fail the most telling error is reported, not the last: that a host is up and refuses our
  secret says more than that its second address is unreachable.
- ``Host.established`` or ``Host.failed`` is called once for the dial, never from inside ``start``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from .._typing import TYPE_CHECKING, Final, final
from ..errors import (
    AuthenticationError,
    DestinationNotFound,
    HandshakeTimeout,
    IdentityMismatch,
    OutgoingConnectionError,
    TooManyConnections,
    UnsupportedProtocol,
)
from .base import Attempt, Cancel, Stream, Transport
from .negotiation import Negotiation

if TYPE_CHECKING:
    from .._backend import kernels
    from ..address import Endpoint, NodeAddr
    from ..handshake import Accepted, PeerInfo
    from .base import Host
    from .resolve import Resolver

__all__ = ["Dial", "protocol_of"]

#: Errors after which the next endpoint is tried, the more telling the later.
_TRY_NEXT: Final[tuple[type[OutgoingConnectionError], ...]] = (
    DestinationNotFound,
    HandshakeTimeout,
    UnsupportedProtocol,
    IdentityMismatch,
    AuthenticationError,
)
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: What a host name becomes.
_RESOLVED_KINDS: Final = frozenset({"ip4", "ip6"})


def protocol_of(addr: NodeAddr, transports: Sequence[Transport]) -> int | None:
    """Return the protocol number of the first endpoint that a transport takes, None for none."""
    for endpoint in addr.endpoints:
        transport = _transport_for(endpoint, transports)
        if transport is not None:
            return transport.protocol
    return None


def _transport_for(endpoint: Endpoint, transports: Sequence[Transport]) -> Transport | None:
    for transport in transports:
        if endpoint.kind in transport.kinds:
            return transport
        if endpoint.kind == "dns" and transport.kinds & _RESOLVED_KINDS:
            return transport
    return None


@final
class Dial:
    """One call of ``connect``, under one conn id until its end.

    Attributes:
        host: The node.
        conn_id: What the link will be called.
        addr: Where to.
        parallel: Whether a link beside an existing one is asked for.
        negotiation: The handshake under way, or the one that became the link.
        done: Whether it has ended.
    """

    __slots__ = (
        "__weakref__",
        "_counted",
        "_deadline_ms",
        "_endpoints",
        "_error",
        "_resolver",
        "_timer",
        "_transports",
        "_trying",
        "_under_way",
        "addr",
        "conn_id",
        "done",
        "host",
        "negotiation",
        "parallel",
    )

    outgoing: Final = True

    def __init__(
        self,
        host: Host,
        conn_id: int,
        addr: NodeAddr,
        *,
        transports: Sequence[Transport],
        resolver: Resolver,
        parallel: bool = False,
    ) -> None:
        self.host = host
        self.conn_id = conn_id
        self.addr = addr
        self.parallel = parallel
        self.negotiation: Negotiation | None = None
        self.done = False
        self._transports = transports
        self._resolver = resolver
        # Those to try, the next one last.
        self._endpoints = [e for e in reversed(addr.endpoints) if _transport_for(e, transports)]
        self._error: OutgoingConnectionError | None = None  # the most telling one so far
        self._under_way: Cancel | None = None  # a look-up or a connect
        self._timer: kernels.Timer | None = None
        self._deadline_ms = 0
        self._trying = addr.endpoints[0]
        self._counted = False

    def start(self) -> None:
        """Begin; the outcome comes in a later turn of the loop."""
        half_open = self.host.half_open
        self._counted = half_open.outgoing < half_open.limit
        half_open.outgoing += self._counted
        loop = self.host.loop
        self._timer = loop.call_at(loop.now_ms, self._begin)

    def cancel(self, error: OutgoingConnectionError) -> None:
        """End it for a reason of this node; ``failed`` is called before this returns."""
        self._fail(error)

    @property
    def expected_node(self) -> int | None:
        """Who is to be reached, None where any node will do."""
        return self.addr.node_id

    @property
    def peer(self) -> PeerInfo | None:
        """Who answered at the endpoint tried last."""
        return self.negotiation.peer if self.negotiation is not None else None

    @property
    def remote(self) -> Endpoint | None:
        """The endpoint tried last, once connected."""
        return self.negotiation.remote if self.negotiation is not None else None

    @property
    def hello_sent(self) -> bool:
        """Whether a HELLO is out and its handshake has not ended."""
        return self.negotiation is not None and not self.negotiation.done

    # -- the steps ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._counted:
            self._next()
        else:
            limit = self.host.half_open.limit
            self._fail(TooManyConnections(f"{limit} dials are under way (max_half_open)"))

    def _next(self) -> None:
        """Try the next endpoint."""
        if not self._endpoints:
            self._fail(self._error or UnsupportedProtocol(f"no transport takes {self.addr}"))
            return
        endpoint = self._endpoints.pop()
        if endpoint.kind == "dns":
            self._trying = endpoint
            self._set_timer(self.host.config.resolve_timeout_ms, self._on_no_name, endpoint)
            self._under_way = self._resolver.resolve(endpoint, self._on_resolved)
            return
        transport = _transport_for(endpoint, self._transports)
        if transport is None:  # a name resolved to a kind that nobody takes
            self._try_next(UnsupportedProtocol(f"no transport takes {endpoint}"))
            return
        self._trying = endpoint
        self._set_timer(self.host.config.handshake_timeout_ms, self._on_no_connection, endpoint)
        self._under_way = transport.connect(endpoint, self._on_connected)

    def _on_resolved(self, result: list[Endpoint] | OSError) -> None:
        self._release()
        if isinstance(result, OSError):
            self._try_next(DestinationNotFound(f"{self._trying}: {_words(result)}"))
        else:
            self._endpoints.extend(reversed(result))
            self._next()

    def _on_connected(self, result: Stream | OSError) -> None:
        deadline_ms = self._deadline_ms
        self._release()
        if isinstance(result, OSError):
            self._try_next(_dial_error(result, self._trying))
            return
        self.negotiation = Negotiation(
            self.host,
            result,
            conn_id=self.conn_id,
            outgoing=True,
            expected_node=self.expected_node,
            parallel=self.parallel,
            deadline_ms=deadline_ms,
            sink=self,
        )
        self.negotiation.start()

    def _on_no_name(self, endpoint: Endpoint) -> None:
        self._release()
        self._try_next(DestinationNotFound(f"{endpoint.host} did not resolve in time"))

    def _on_no_connection(self, endpoint: Endpoint) -> None:
        self._release()
        self._try_next(HandshakeTimeout(f"no connection to {endpoint}"))

    # -- what the negotiation tells ----------------------------------------------------------------

    def established(self, negotiation: Negotiation, accepted: Accepted) -> None:
        """Pass on that there is a link."""
        self._end()
        self.host.established(negotiation, accepted)

    def failed(self, attempt: Attempt, error: OutgoingConnectionError) -> None:
        """Go on with the next endpoint where that makes sense."""
        if not self.done:
            self._try_next(error)

    # -- inside ------------------------------------------------------------------------------------

    def _try_next(self, error: OutgoingConnectionError) -> None:
        if type(error) not in _TRY_NEXT:
            self._fail(error)
            return
        if self._error is None or _rank(error) > _rank(self._error):
            self._error = error
        self._next()

    def _fail(self, error: OutgoingConnectionError) -> None:
        if self.done:
            return
        self._end()
        if self.negotiation is not None:
            self.negotiation.abort(error)  # no effect if it has ended
        self.host.failed(self, error)

    def _end(self) -> None:
        self.done = True
        self._release()
        self._endpoints.clear()
        self.host.half_open.outgoing -= self._counted
        self._counted = False

    def _set_timer(self, delay_ms: int, fn: Callable[[Endpoint], None], endpoint: Endpoint) -> None:
        loop = self.host.loop
        self._deadline_ms = loop.now_ms + delay_ms
        self._timer = loop.call_at(self._deadline_ms, fn, endpoint)

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._under_way is not None:
            self._under_way.cancel()
        self._timer = self._under_way = None


def _rank(error: OutgoingConnectionError) -> int:
    return _TRY_NEXT.index(type(error))


def _words(error: OSError) -> str:
    return error.strerror or str(error)


def _dial_error(error: OSError, endpoint: Endpoint) -> OutgoingConnectionError:
    if error.errno in _EXHAUSTED:
        return TooManyConnections(f"this system is out of resources: {_words(error)}")
    kind = HandshakeTimeout if isinstance(error, TimeoutError) else DestinationNotFound
    return kind(f"{endpoint}: {_words(error)}")
