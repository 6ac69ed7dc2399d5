"""What tcp and unix share: connecting, accepting, and the stream during the handshake.

Facts about sockets that this file relies on:

- A close with unread bytes in the receive buffer makes TCP send a reset, and a reset may overtake,
  or throw away at the receiver, what was written before. So ``finish`` ends our direction, reads
  and forgets until the other side ends its own, and only then closes.
- ``accept`` fails for want of descriptors or memory without taking the connection out of the queue,
  so the listener stays readable. Trying again at once would spin: it pauses instead. The errors of
  a connection that died in the queue are just skipped (accept(2), "Error handling"); but when
  nothing else comes they are no connection's (a security module refuses before the queue is
  looked at), and it pauses as well.
- A non-blocking connect to a unix socket whose queue is full fails with EAGAIN and cannot be waited
  for; it is tried again a little later. TCP says EINPROGRESS and becomes writable when it is done.
- A source leaves the loop before its descriptor is closed: the number may be in use again at once.
- A dial to a port where nobody listens may be given that very port for its own end, and TCP then
  connects it to itself (two ends that open at the same time are one of its ways to connect). Then
  nobody is there, and the port must be free for whoever is to listen.
"""

from __future__ import annotations

import abc
import errno
import os
import socket
from collections.abc import Callable

from .. import wire
from .._typing import TYPE_CHECKING, Final, final
from ..errors import LocalError
from .base import Cancel, Detached, Stream, StreamTarget, Transport
from .negotiation import Negotiation

if TYPE_CHECKING:
    from .._backend import kernels
    from ..address import Endpoint
    from .base import Host

__all__ = ["Address", "SocketListener", "SocketStream", "SocketTransport"]

#: What the socket module takes as an address.
Address = str | tuple[str, int] | tuple[str, int, int, int]

READ: Final = 1
WRITE: Final = 2
READ_BYTES: Final = 4_096  # what is held for a peer before it has passed
MAX_UNSENT_BYTES: Final = wire.MAX_TLS_HANDSHAKE_BYTES  # without TLS some 500 are never exceeded
LINGER_MS: Final = 500
MAX_LINGER_READS: Final = 64  # of READ_BYTES each, read and forgotten
ACCEPTS_PER_TURN: Final = 64
MAX_ACCEPT_SKIPS: Final = 16  # in a turn
ACCEPT_PAUSE_MS: Final = 100  # descriptors come back when links end: nothing that is over sooner
CONNECT_RETRY_MS: Final = 20
#: What does not fit waits a second for its next attempt to connect. Systems lower it to their own
#: bound (net.core.somaxconn).
LISTEN_BACKLOG: Final = 4_096

#: A connection died before it was accepted, or a signal came. See accept(2).
_ACCEPT_SKIP: Final = frozenset(
    getattr(errno, name)
    for name in (
        *("ECONNABORTED", "EINTR", "EPROTO", "EPERM", "ETIMEDOUT", "ENETDOWN", "ENETUNREACH"),
        *("EHOSTDOWN", "EHOSTUNREACH", "ENONET", "ENOPROTOOPT", "EOPNOTSUPP"),
    )
    if hasattr(errno, name)
)
_IN_PROGRESS: Final = frozenset({errno.EINPROGRESS, errno.EINTR})


@final
class SocketStream:
    """A connected socket during its handshake."""

    __slots__ = (
        "_linger",
        "_loop",
        "_output_ended",
        "_reads_left",
        "_sock",
        "_source",
        "_target",
        "_transport",
        "_unsent",
        "_waits",
        "protocol",
        "remote",
    )

    def __init__(self, transport: SocketTransport, sock: socket.socket, remote: Endpoint) -> None:
        self.protocol = transport.protocol
        self.remote: Endpoint | None = remote
        self._transport = transport
        self._loop: kernels.Loop = transport.host.loop
        self._sock: socket.socket | None = sock
        self._source: kernels.Source | None = None
        self._target: StreamTarget | None = None
        self._unsent = b""
        self._waits = False  # for room to send
        self._linger: kernels.Timer | None = None
        self._reads_left = MAX_LINGER_READS
        self._output_ended = False

    def set_target(self, target: StreamTarget) -> None:
        """Begin to receive."""
        if self._sock is not None:
            self._target = target
            self._source = self._loop.make_source(self._on_ready)
            self._waits = bool(self._unsent)
            self._loop.add(self._source, self._sock.fileno(), self._events())

    def write(self, data: bytes) -> None:
        """Send; what the system does not take now is kept.

        Raises:
            LocalError: More than a handshake can have to say.
        """
        if len(self._unsent) + len(data) > MAX_UNSENT_BYTES:
            raise LocalError(f"a handshake keeps at most {MAX_UNSENT_BYTES} bytes to send")
        self._unsent += data
        self._send()

    def finish(self) -> None:
        """Close as soon as what was written has had its chance to arrive."""
        if self._sock is None or self._linger is not None:
            return
        self._target = None
        if self._source is None or not self._transport.host.half_open.linger(self):
            self.close()
            return
        self._linger = self._loop.call_at(self._loop.now_ms + LINGER_MS, self.close)
        self._send()

    def close(self) -> None:
        """Close now. Idempotent."""
        sock = self.detach().sock
        if sock is not None:
            sock.close()

    def detach(self) -> Detached:
        """Hand over the socket and know nothing of it any more."""
        sock, self._sock = self._sock, None
        if self._source is not None:
            self._loop.remove(self._source)
        if self._linger is not None:
            self._linger.cancel()
            self._transport.host.half_open.end_linger(self)
        self._source = self._linger = self._target = None  # the source refers back to us
        if sock is not None:
            self._transport.forget(sock)
        return Detached(sock, None, self._unsent)

    def detach_channel(self) -> Detached:
        """Hand over the socket as a channel; the transport keeps its eye on the descriptor."""
        transport = self._transport
        detached = self.detach()
        sock = detached.sock
        if sock is None:
            return detached
        from .socket_channel import SocketChannel

        transport.remember(sock)
        budget = transport.host.config.read_budget_bytes
        channel = SocketChannel(self._loop, sock, budget, transport.forget)
        return Detached(None, channel, detached.unsent)

    def _events(self) -> int:
        return READ | (WRITE if self._unsent else 0)

    def _send(self) -> None:
        if self._sock is None:
            return
        if self._unsent and not self._output_ended:
            try:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self._unsent = b""  # reading tells what happened
        if self._source is not None and bool(self._unsent) != self._waits:
            self._waits = bool(self._unsent)
            self._loop.modify(self._source, self._events())
        if self._linger is not None and not self._unsent and not self._output_ended:
            self._end_output(self._sock)

    def _end_output(self, sock: socket.socket) -> None:
        self._output_ended = True
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:  # the other side was faster
            self.close()

    def _on_ready(self, events: int) -> None:
        if events & WRITE:
            self._send()
        if events & READ and self._sock is not None:
            self._receive(self._sock)

    def _receive(self, sock: socket.socket) -> None:
        error: OSError | None = None
        try:
            data = sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            data, error = b"", exc
        if self._target is None:
            self._reads_left -= 1
            if not data or not self._reads_left:
                self.close()
        elif data:
            self._target.on_data(data)
        else:
            self._target.on_eof(error)


@final
class _Connecting:
    """A connect under way; the result is reported once, unless it was cancelled."""

    __slots__ = (
        "_address",
        "_done",
        "_loop",
        "_on_result",
        "_remote",
        "_sock",
        "_source",
        "_timer",
        "_transport",
    )

    def __init__(
        self,
        transport: SocketTransport,
        sock: socket.socket,
        address: Address,
        remote: Endpoint,
        on_result: Callable[[Stream | OSError], None],
    ) -> None:
        self._transport = transport
        self._loop: kernels.Loop = transport.host.loop
        self._sock = sock
        self._address = address
        self._remote = remote
        self._on_result = on_result
        self._done = False
        self._source: kernels.Source | None = None
        self._timer: kernels.Timer | None = None
        self._try()

    def cancel(self) -> None:
        """Stop; without effect once the result was reported."""
        if not self._done:
            self._end()
            self._transport.forget(self._sock)
            self._sock.close()

    def _try(self) -> None:
        try:
            code = self._sock.connect_ex(self._address)
        except OSError as exc:  # an address that the socket module does not take
            self._later(self._report, exc)
            return
        if code in _IN_PROGRESS:
            self._source = self._loop.make_source(self._on_ready)
            self._loop.add(self._source, self._sock.fileno(), WRITE)
        elif code == errno.EAGAIN:
            self._later(self._try, delay_ms=CONNECT_RETRY_MS)
        else:
            self._later(self._report, _error(code))

    def _later(self, fn: Callable[..., object], *args: OSError | None, delay_ms: int = 0) -> None:
        self._timer = self._loop.call_at(self._loop.now_ms + delay_ms, fn, *args)

    def _on_ready(self, events: int) -> None:
        self._report(_error(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))

    def _report(self, error: OSError | None) -> None:
        self._end()
        if error is None and self._transport.is_own_end(self._sock, self._remote):
            error = _error(errno.ECONNREFUSED)
        if error is None:
            self._on_result(SocketStream(self._transport, self._sock, self._remote))
        else:
            self._transport.forget(self._sock)
            self._sock.close()
            self._on_result(error)

    def _end(self) -> None:
        self._done = True
        if self._source is not None:
            self._loop.remove(self._source)
        if self._timer is not None:
            self._timer.cancel()
        self._source = self._timer = None


def _error(code: int) -> OSError | None:
    return OSError(code, os.strerror(code)) if code else None


class SocketListener:
    """A listening socket: accepts, and starts a Negotiation for each connection.

    Attributes:
        endpoint: Where it listens.
    """

    def __init__(self, transport: SocketTransport, sock: socket.socket, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._transport = transport
        self._host: Host = transport.host
        self._sock = sock
        self._closed = False
        self._pause: kernels.Timer | None = None
        self._source: kernels.Source = self._host.loop.make_source(self._on_ready)
        self._host.loop.add(self._source, sock.fileno(), READ)

    def close(self) -> None:
        """Stop listening. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._host.loop.remove(self._source)
        if self._pause is not None:
            self._pause.cancel()
        self._transport.remove_listener(self)
        self._transport.forget(self._sock)
        self._sock.close()

    def _on_ready(self, events: int) -> None:
        skips = MAX_ACCEPT_SKIPS
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, address = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in _ACCEPT_SKIP and skips:
                    skips -= 1
                    continue
                self._host.accept_failed(exc)
                self._pause_accepting()
                return
            self._begin(sock, address)
            if self._closed:  # by the host, inside
                return

    def _pause_accepting(self) -> None:
        loop = self._host.loop
        if not self._closed:
            loop.modify(self._source, 0)
            self._pause = loop.call_at(loop.now_ms + ACCEPT_PAUSE_MS, self._resume_accepting)

    def _resume_accepting(self) -> None:
        self._host.loop.modify(self._source, READ)

    def _begin(self, sock: socket.socket, address: Address) -> None:
        host, transport = self._host, self._transport
        remote = transport.remote_of(address, self.endpoint)
        if not host.half_open.admit_incoming(remote, host.loop.now_ms):
            sock.close()
            return
        try:
            stream = transport.adopt(sock, remote)
        except OSError:  # it is gone already
            sock.close()
            return
        conn_id = host.next_conn_id(transport.protocol, outgoing=False)
        Negotiation(host, stream, conn_id=conn_id, outgoing=False).start()


class SocketTransport(Transport):
    """Base of the transports over stream sockets."""

    def __init__(self) -> None:
        self._listeners: list[SocketListener] = []
        self._sockets: set[socket.socket] = set()

    # -- what a subclass knows ---------------------------------------------------------------------

    @abc.abstractmethod
    def address_of(self, endpoint: Endpoint) -> tuple[socket.AddressFamily, Address]:
        """Return what the socket module calls it."""

    @abc.abstractmethod
    def remote_of(self, address: Address, listening: Endpoint) -> Endpoint:
        """Return what an accepted connection's other end is called."""

    def configure(self, sock: socket.socket, remote: Endpoint) -> None:
        """Set the options of a connected, or connecting, socket."""

    def is_own_end(self, sock: socket.socket, remote: Endpoint) -> bool:
        """Return whether a connected socket is its own other end."""
        return False

    # -- Transport ---------------------------------------------------------------------------------

    def connect(self, endpoint: Endpoint, on_result: Callable[[Stream | OSError], None]) -> Cancel:
        """Connect; ``on_result`` is called once, later, and never from inside this call."""
        loop = self.host.loop
        try:
            family, address = self.address_of(endpoint)
            sock = self.open_socket(family)
        except OSError as exc:
            return loop.call_at(loop.now_ms, on_result, exc)
        try:
            self.configure(sock, endpoint)
        except OSError as exc:
            self.forget(sock)
            sock.close()
            return loop.call_at(loop.now_ms, on_result, exc)
        return _Connecting(self, sock, address, endpoint, on_result)

    def close(self) -> None:
        """Close all listeners. Idempotent."""
        for listener in list(self._listeners):
            listener.close()

    def abandon(self) -> None:
        """Close descriptors and nothing else: for the child after a fork."""
        for sock in self._sockets:
            sock.close()

    # -- for the classes above ---------------------------------------------------------------------

    def open_socket(self, family: socket.AddressFamily) -> socket.socket:
        """Return a new non-blocking socket, to be given back by ``forget`` and closed."""
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        self._sockets.add(sock)
        return sock

    def adopt(self, sock: socket.socket, remote: Endpoint) -> SocketStream:
        """Return the stream of an accepted socket."""
        sock.setblocking(False)
        self.configure(sock, remote)
        self._sockets.add(sock)
        return SocketStream(self, sock, remote)

    def remember(self, sock: socket.socket) -> None:
        """Close the socket in a child after a fork, until it is forgotten."""
        self._sockets.add(sock)

    def forget(self, sock: socket.socket) -> None:
        """The socket is somebody else's, or about to be closed."""
        self._sockets.discard(sock)

    def add_listener(self, listener: SocketListener) -> SocketListener:
        """Close it with the transport."""
        self._listeners.append(listener)
        return listener

    def remove_listener(self, listener: SocketListener) -> None:
        """It was closed."""
        self._listeners.remove(listener)
