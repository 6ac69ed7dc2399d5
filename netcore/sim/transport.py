"""The transport of simulated nodes: how they find each other and connect."""

from __future__ import annotations

import errno
from collections.abc import Callable

from .. import wire
from .._typing import TYPE_CHECKING, ClassVar, Final, final
from ..transport import Negotiation, Transport
from ..transport.memory import MemoryStream
from .streams import End, post

if TYPE_CHECKING:
    from ..address import Endpoint
    from ..transport import Listener, Stream
    from ..transport.base import Cancel
    from .streams import Machine, World

__all__ = ["SimListener", "SimTransport"]

SYN_RETRY_MS: Final = 1_000  # Linux waits 1, 2, 4 ... seconds


@final
class SimListener:
    """Where a node takes connections.

    Attributes:
        endpoint: Its name.
    """

    def __init__(self, transport: SimTransport, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._transport = transport
        self._closed = False

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self._closed = True
        self._transport.listener = None

    def take(self, end: End) -> None:
        """Start a handshake; in a turn of the node."""
        host = self._transport.host
        if self._closed or not host.half_open.admit_incoming(self.endpoint, host.loop.now_ms):
            end.close()
            return
        conn_id = host.next_conn_id(wire.PROTOCOL_MEMORY, outgoing=False)
        stream = MemoryStream(end, self.endpoint)
        Negotiation(host, stream, conn_id=conn_id, outgoing=False).start()


@final
class SimTransport(Transport):
    """Connects one simulated node to the others, under the address kind "memory".

    Attributes:
        machine: Its node.
        world: The network.
        listener: Where connections are taken, once the node listens.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"memory"})
    protocol: ClassVar[int] = wire.PROTOCOL_MEMORY

    def __init__(self, world: World, machine: Machine) -> None:
        self.world = world
        self.machine = machine
        self.listener: SimListener | None = None

    def listen(self, endpoint: Endpoint) -> Listener:
        """Take connections under the node's own name."""
        if self.world.machine_of(endpoint.host) is not self.machine or self.listener is not None:
            raise OSError(errno.EADDRINUSE, f"{endpoint} is not free for {self.machine.node_id}")
        self.listener = SimListener(self, endpoint)
        return self.listener

    def connect(self, endpoint: Endpoint, on_result: Callable[[Stream | OSError], None]) -> Cancel:
        """Connect; takes a round trip."""
        return _Connecting(self, endpoint, on_result)

    def close(self) -> None:
        """Close the listener. Idempotent."""
        if self.listener is not None:
            self.listener.close()

    def abandon(self) -> None:
        """There are no descriptors: do nothing."""


@final
class _Connecting:
    """A connect under way: to the other machine, and back with its answer."""

    def __init__(
        self,
        transport: SimTransport,
        endpoint: Endpoint,
        on_result: Callable[[Stream | OSError], None],
    ) -> None:
        self._world = transport.world
        self._near = transport.machine
        self._endpoint = endpoint
        self._on_result: Callable[[Stream | OSError], None] | None = on_result
        self._loop = transport.host.loop
        self._far = self._world.machine_of(endpoint.host)
        self._wait_ms = SYN_RETRY_MS
        self._end: End | None = None
        if self._far is None:
            self._loop.call_at(self._loop.now_ms, self._report)
        else:
            self._knock()

    def cancel(self) -> None:
        """Stop; without effect once the result was reported."""
        if self._on_result is not None:
            self._on_result = None
            if self._end is not None:
                self._end.close()

    @property
    def _is_over(self) -> bool:
        """Whether nobody waits for it: it was cancelled, or its process is gone."""
        return self._on_result is None or self._near.loop is not self._loop

    def _knock(self) -> None:
        """Send the first packet; again later when it, or the answer to it, cannot get there."""
        far = self._far
        if self._is_over or far is None:
            return
        time = self._world.time
        there = self._world.path(self._near.node_id, far.node_id)
        back = self._world.path(far.node_id, self._near.node_id)
        if there.is_cut or back.is_cut or not far.is_on:
            time.call_at(time.now_ms + self._wait_ms, self._knock)
            self._wait_ms *= 2
        else:
            time.call_at(time.now_ms + there.delay_ms(), self._ask)

    def _ask(self) -> None:
        """The first packet is there."""
        far = self._far
        if self._is_over or far is None:
            return
        if far.listener is not None:
            ends = End.pair(self._world, self._near, far)
            if ends is not None and far.loop is not None:
                self._end = ends[0]
                post(far.loop, far.listener.take, ends[1])
        back = self._world.path(far.node_id, self._near.node_id)
        self._world.time.call_at(self._world.time.now_ms + back.delay_ms(), self._answer)

    def _answer(self) -> None:
        post(self._loop, self._report)

    def _report(self) -> None:
        """The answer is here; in a turn of our node."""
        on_result, self._on_result = self._on_result, None
        if on_result is None:
            return
        if self._end is None:
            code = errno.ECONNREFUSED
            on_result(OSError(code, f"nobody listens at {self._endpoint}"))
        else:
            on_result(MemoryStream(self._end, self._endpoint))
