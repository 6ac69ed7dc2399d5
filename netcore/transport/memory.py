"""MemoryTransport: links inside one process, on whatever time the loops have.

Facts that this file relies on:

- The two ends of a channel may live on two threads. An end's state belongs to its own loop's
  thread; what crosses over is the inbox (a deque, whose ends are atomic), two counters that each
  have one writer, and ``loop.post``, which is safe anywhere.
- Bytes become visible at the other end in a later turn of its loop, never inside ``write``; with a
  latency, as many ms of *that* loop's time later. Order is kept. Nothing here reads a clock or a
  random source, so the same calls in the same order give the same outcome.
- At most ``window_bytes`` are under way in one direction; the receiver tells when it has taken
  some. The sender sets ``blocked`` before it looks at the window again, so that it cannot miss it.
- As with a socket, what was written before ``close`` still arrives; and what is written to an end
  that was closed is lost without a word until its end of stream arrives.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable

from .. import wire
from .._typing import TYPE_CHECKING, ClassVar, Final, final
from ..address import Endpoint
from ..errors import QueueFullError
from .base import Cancel, Channel, ChannelTarget, Detached, Stream, StreamTarget, Transport
from .negotiation import Negotiation

if TYPE_CHECKING:
    from .._backend import kernels
    from .base import Host

__all__ = ["MemoryChannel", "MemoryListener", "MemoryNetwork", "MemoryStream", "MemoryTransport"]

DEFAULT_WINDOW_BYTES: Final = 256 * 1024  # about what a socket pair holds
POST_RETRY_MS: Final = 10


@final
class MemoryChannel:
    """One end of a stream inside the process."""

    def __init__(self, loop: kernels.Loop, network: MemoryNetwork, route: frozenset[str]) -> None:
        """Make an end; ``connect`` it to its peer before use.

        Args:
            loop: Its owner's.
            network: Where latency and window are set.
            route: The names at its two ends.
        """
        self._loop = loop
        self._network = network
        self._route = route
        self._peer = self
        self._target: ChannelTarget | None = None
        self._closed = False  # by our side: nothing is received, nothing may be written
        self._ended = False  # our direction
        self._blocked = False  # a write was cut short
        self._sent = 0  # written by our thread
        self._taken = 0  # of what the peer sent; written by our thread
        # From the peer's thread; None is the end of its stream.
        self._inbox: deque[bytes | None] = deque()
        # With the time at which they are here; ours alone.
        self._transit: deque[tuple[int, bytes | None]] = deque()
        self._timer: kernels.Timer | None = None

    @staticmethod
    def pair(
        network: MemoryNetwork, near: tuple[kernels.Loop, str], far: tuple[kernels.Loop, str]
    ) -> tuple[MemoryChannel, MemoryChannel]:
        """Return the two ends of a new stream, each for its loop and under its name."""
        route = frozenset((near[1], far[1]))
        one, two = MemoryChannel(near[0], network, route), MemoryChannel(far[0], network, route)
        one._peer, two._peer = two, one
        return one, two

    # -- for the owner -----------------------------------------------------------------------------

    def set_target(self, target: ChannelTarget | None) -> None:
        """Tell this object what arrives; with None it waits here."""
        self._target = target
        self._arm()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take some of ``data`` and return how much.

        After less than all of it ``channel_writable`` tells when to go on.

        Raises:
            BrokenPipeError: Our direction was ended.
        """
        if self._ended:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        if self._peer._closed:
            return len(data)
        room = self._room()
        if room < len(data):
            self._blocked = True
            room = self._room()  # again: see the top
        if room >= len(data):
            self._blocked = False
        taken = min(room, len(data))
        if taken:
            self._sent += taken
            self._peer._put(bytes(data[:taken]), self._loop)
        return taken

    def shutdown(self) -> None:
        """End our direction after what was written."""
        if not self._ended:
            self._ended = True
            self._peer._put(None, self._loop)

    def close(self) -> None:
        """End both directions; what was written still arrives. Idempotent."""
        self.shutdown()
        self._closed = True
        self._target = None
        self._transit.clear()
        self._inbox.clear()
        if self._timer is not None:
            self._timer.cancel()

    # -- inside ------------------------------------------------------------------------------------

    def _room(self) -> int:
        return max(0, self._network.window_bytes - (self._sent - self._peer._taken))

    def _put(self, item: bytes | None, sender: kernels.Loop) -> None:
        """Take an item from the peer; on its thread."""
        self._inbox.append(item)
        if len(self._inbox) == 1:
            _post(self._loop, self._collect, sender)

    def _collect(self) -> None:
        """Start the clock for what came; on our thread."""
        if self._closed:
            self._inbox.clear()
            return
        here_ms = self._loop.now_ms + self._network.latency_of(self._route)
        if self._transit:
            here_ms = max(here_ms, self._transit[-1][0])  # a lower latency does not overtake
        while self._inbox:
            # Only then out of the inbox: while it is not empty nobody posts a second time. An item
            # that is appended in between is collected now or posted, perhaps both.
            self._transit.append((here_ms, self._inbox[0]))
            self._inbox.popleft()
        self._deliver()

    def _arm(self) -> None:
        if self._timer is None and self._target is not None and self._transit:
            when_ms = max(self._transit[0][0], self._loop.now_ms)
            self._timer = self._loop.call_at(when_ms, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._deliver()

    def _deliver(self) -> None:
        """Hand over what is here."""
        try:
            while self._target is not None and self._transit:
                if self._transit[0][0] > self._loop.now_ms:
                    break
                self._hand_over(self._target, self._transit.popleft()[1])
        finally:
            self._arm()  # also when a hook behind the target raised

    def _hand_over(self, target: ChannelTarget, item: bytes | None) -> None:
        if item is None:
            target.receive_eof()
        else:
            self._took(len(item))
            target.receive_data(item)

    def _took(self, size: int) -> None:
        self._taken += size
        if self._peer._blocked:
            _post(self._peer._loop, self._peer._on_room, self._loop)

    def _on_room(self) -> None:
        if self._blocked and self._target is not None:
            self._blocked = False
            self._target.channel_writable()


def _post(loop: kernels.Loop, fn: Callable[..., object], own: kernels.Loop, *args: object) -> None:
    """Post to the other end's loop; while its queue is full, try again on our own time."""
    try:
        loop.post(fn, *args)
    except QueueFullError:
        own.call_at(own.now_ms + POST_RETRY_MS, _post, loop, fn, own, *args)


@final
class MemoryStream:
    """A channel during its handshake."""

    def __init__(self, channel: Channel, remote: Endpoint) -> None:
        self.protocol = wire.PROTOCOL_MEMORY
        self.remote: Endpoint | None = remote
        self._channel: Channel | None = channel
        self._target: StreamTarget | None = None
        self._unsent = b""

    def set_target(self, target: StreamTarget) -> None:
        """Begin to receive."""
        if self._channel is not None:
            self._target = target
            self._channel.set_target(self)

    def write(self, data: bytes) -> None:
        """Send; what the window has no room for is kept. Only TLS can have that much to say."""
        self._unsent += data
        self._send()

    def _send(self) -> None:
        if self._channel is None:
            return
        try:
            self._unsent = self._unsent[self._channel.write(self._unsent) :]
        except OSError:
            self._unsent = b""  # it broke, and its end is on the way to our target

    def finish(self) -> None:
        """Close; what was written arrives anyhow."""
        self.close()

    def close(self) -> None:
        """Close now. Idempotent; without effect once it was detached."""
        channel = self.detach().channel
        if channel is not None:
            channel.close()

    def detach(self) -> Detached:
        """Hand over the channel and know nothing of it any more."""
        channel, self._channel = self._channel, None
        self._target = None
        if channel is not None:
            channel.set_target(None)
        return Detached(None, channel, self._unsent)

    def detach_channel(self) -> Detached:
        """Do the same: it is a channel."""
        return self.detach()

    def receive_data(self, data: bytes) -> None:
        """Pass on what came."""
        if self._target is not None:
            self._target.on_data(data)

    def receive_eof(self) -> None:
        """Pass on that nothing more will come."""
        if self._target is not None:
            self._target.on_eof(None)

    def channel_writable(self) -> None:
        """Go on sending."""
        self._send()


@final
class MemoryListener:
    """A name that others can dial.

    Attributes:
        endpoint: The name.
        loop: Where incoming channels are taken.
    """

    def __init__(self, transport: MemoryTransport, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.loop = transport.host.loop
        self._transport = transport
        self._closed = False

    def close(self) -> None:
        """Stop listening. Idempotent."""
        if not self._closed:
            self._closed = True
            self._transport.remove_listener(self)

    def arrive(self, channel: MemoryChannel, latency_ms: int) -> None:
        """Take a channel after its way here; on our loop."""
        if latency_ms:
            self.loop.call_at(self.loop.now_ms + latency_ms, self.take, channel)
        else:
            self.take(channel)

    def take(self, channel: MemoryChannel) -> None:
        """Start a handshake."""
        host = self._transport.host
        if self._closed or not host.half_open.admit_incoming(self.endpoint, host.loop.now_ms):
            channel.close()
            return
        stream = MemoryStream(channel, self.endpoint)
        conn_id = host.next_conn_id(wire.PROTOCOL_MEMORY, outgoing=False)
        Negotiation(host, stream, conn_id=conn_id, outgoing=False).start()


@final
class MemoryNetwork:
    """A world of names: who listens where, and how far it is from one to the other.

    Attributes:
        latency_ms: From any name to any other, one way, unless set otherwise.
        window_bytes: Bytes under way in one direction of a channel.
    """

    _default: ClassVar[MemoryNetwork | None] = None

    def __init__(self, latency_ms: int = 0, window_bytes: int = DEFAULT_WINDOW_BYTES) -> None:
        self.latency_ms = latency_ms
        self.window_bytes = max(window_bytes, wire.MAX_HANDSHAKE_BYTES * 2)
        self._latencies: dict[frozenset[str], int] = {}
        self._listeners: dict[str, MemoryListener] = {}
        self._lock = threading.Lock()  # nodes of several threads may share a network

    @classmethod
    def default(cls) -> MemoryNetwork:
        """Return the one network of this process."""
        if cls._default is None:
            cls._default = cls()
        return cls._default

    def set_latency(self, name_a: str, name_b: str, latency_ms: int) -> None:
        """Set how far two names are from each other; what is under way already is not delayed."""
        self._latencies[frozenset((name_a, name_b))] = latency_ms

    def latency_of(self, route: frozenset[str]) -> int:
        """Return the one-way latency between the two names of a route."""
        return self._latencies.get(route, self.latency_ms)

    def find(self, name: str) -> MemoryListener | None:
        """Return who listens under a name."""
        return self._listeners.get(name)

    def add(self, listener: MemoryListener) -> None:
        """Enter a listener.

        Raises:
            OSError: EADDRINUSE: the name is taken.
        """
        with self._lock:
            if listener.endpoint.host in self._listeners:
                raise OSError(errno.EADDRINUSE, f"{listener.endpoint} is in use")
            self._listeners[listener.endpoint.host] = listener

    def remove(self, listener: MemoryListener) -> None:
        """Strike out a listener."""
        with self._lock:
            if self._listeners.get(listener.endpoint.host) is listener:
                del self._listeners[listener.endpoint.host]


@final
class MemoryTransport(Transport):
    """Streams inside this process.

    Attributes:
        network: The world that it belongs to.
        name: What its node is called where latency is looked up: the name given, else that of its
            first listener.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"memory"})
    protocol: ClassVar[int] = wire.PROTOCOL_MEMORY

    def __init__(self, network: MemoryNetwork | None = None, name: str = "") -> None:
        self.network = MemoryNetwork.default() if network is None else network
        self.name = name
        self._listeners: list[MemoryListener] = []

    def listen(self, endpoint: Endpoint) -> MemoryListener:
        """Accept connections under a name.

        Raises:
            OSError: EADDRINUSE: the name is taken.
        """
        listener = MemoryListener(self, endpoint)
        self.network.add(listener)
        self._listeners.append(listener)
        self.name = self.name or endpoint.host
        return listener

    def remove_listener(self, listener: MemoryListener) -> None:
        """It was closed."""
        self._listeners.remove(listener)
        self.network.remove(listener)

    def connect(self, endpoint: Endpoint, on_result: Callable[[Stream | OSError], None]) -> Cancel:
        """Connect; takes a round trip, as a socket does."""
        return _Connecting(self, endpoint, on_result)

    def close(self) -> None:
        """Close all listeners. Idempotent."""
        for listener in list(self._listeners):
            listener.close()

    def abandon(self) -> None:
        """There are no descriptors: do nothing."""


@final
class _Connecting:
    """A connect under way: there after one latency, known here after two."""

    def __init__(
        self,
        transport: MemoryTransport,
        endpoint: Endpoint,
        on_result: Callable[[Stream | OSError], None],
    ) -> None:
        host: Host = transport.host
        self._loop = host.loop
        self._endpoint = endpoint
        self._on_result = on_result
        self._channel: MemoryChannel | None = None
        network = transport.network
        latency_ms = network.latency_of(frozenset((transport.name, endpoint.host)))
        listener = network.find(endpoint.host)
        if listener is not None:
            self._channel, far = MemoryChannel.pair(
                network, (self._loop, transport.name), (listener.loop, endpoint.host)
            )
            _post(listener.loop, listener.arrive, self._loop, far, latency_ms)
        when_ms = self._loop.now_ms + 2 * latency_ms
        self._timer: kernels.Timer = self._loop.call_at(when_ms, self._report)

    def cancel(self) -> None:
        """Stop; without effect once the result was reported."""
        if self._timer.active:
            self._timer.cancel()
            if self._channel is not None:
                self._channel.close()

    def _report(self) -> None:
        if self._channel is None:
            code = errno.ECONNREFUSED
            self._on_result(OSError(code, f"nobody listens at {self._endpoint}"))
        else:
            self._on_result(MemoryStream(self._channel, self._endpoint))
