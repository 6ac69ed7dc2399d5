"""Streams between simulated nodes, in the place of sockets.

Facts first:

- An end belongs to one node. It is read and written in that node's turns only; bytes that come
  meanwhile wait in it, as they would in the system's socket buffers.
- What a node writes leaves at the end of its turn, in one piece, so that it does not matter in how
  many pieces a backend writes it.
- At most ``window_bytes`` are between a write at one end and the read at the other. The room that a
  read makes is known to the writer at once, or when the way back is healed.
- A process that dies leaves its ends to the system: what was written still arrives, then the end
  of the stream. One that vanishes with its machine leaves nothing; its neighbours learn of it from
  silence, or from the machine once it runs again.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable

from xxhash import xxh3_64_intdigest

from .._typing import TYPE_CHECKING, Protocol, final
from ..errors import QueueFullError
from .paths import resend_ms

if TYPE_CHECKING:
    from .._backend import kernels
    from ..transport.base import ChannelTarget
    from .clock import VirtualTime
    from .paths import Path
    from .trace import Trace

__all__ = ["End", "Machine", "Taker", "World", "post"]


class World(Protocol):
    """What streams need of the network."""

    @property
    def time(self) -> VirtualTime:
        """The one clock."""

    @property
    def trace(self) -> Trace:
        """Where events go."""

    @property
    def window_bytes(self) -> int:
        """Room of one direction of a stream."""

    @property
    def tap(self) -> Callable[[End, bytes], object] | None:
        """Called with the bytes that leave an end, when somebody wants to see them."""

    def path(self, a: int, b: int) -> Path:
        """Return the way from one node to another."""

    def machine_of(self, name: str) -> Machine | None:
        """Return whose name that is."""


class Taker(Protocol):
    """Where a process takes connections."""

    def take(self, end: End) -> None:
        """Start a handshake; in a turn of its node."""


class Machine(Protocol):
    """What streams need of a simulated node."""

    @property
    def node_id(self) -> int:
        """Its id."""

    @property
    def loop(self) -> kernels.Loop | None:
        """The loop of its process; None: it is not running."""

    @property
    def is_on(self) -> bool:
        """Whether the machine runs, be it without its process: whether anybody answers."""

    @property
    def listener(self) -> Taker | None:
        """Where it takes connections."""

    @property
    def outbox(self) -> list[End]:
        """Ends with something that leaves after this turn."""

    @property
    def ends(self) -> dict[End, None]:
        """All ends of its process."""


@final
class End:
    """One end of a stream between two simulated nodes; a channel to its owner.

    Attributes:
        peer: The other end.
    """

    __slots__ = (
        "_armed_ms",
        "_blocked",
        "_closed",
        "_ended",
        "_far_id",
        "_held",
        "_held_ms",
        "_inbox",
        "_loop",
        "_lost",
        "_machine",
        "_near_id",
        "_out",
        "_path",
        "_posted",
        "_room",
        "_target",
        "_transit",
        "_unsaid",
        "_world",
        "peer",
    )

    def __init__(self, world: World, machine: Machine, loop: kernels.Loop, path: Path) -> None:
        """Make an end.

        Args:
            world: The network.
            machine: Whose it is.
            loop: Of the process that it belongs to.
            path: From there to the other end.
        """
        self.peer: End = self
        self._world = world
        self._machine = machine
        self._near_id = self._far_id = machine.node_id
        self._loop = loop
        self._path = path
        self._target: ChannelTarget | None = None
        self._closed = False  # nothing is received any more, nothing may be written
        self._ended = False  # our direction
        self._lost = False  # its machine went off: nobody answers here
        # Outwards.
        self._room = world.window_bytes
        self._blocked = False  # a write was cut short
        self._out: list[bytes | None] = []  # leaves after this turn; None is the end
        self._held: list[bytes | None] = []  # waits for the path to be healed
        self._held_ms = 0  # since when
        # Inwards.
        self._transit: deque[tuple[int, bytes | None]] = deque()
        self._armed_ms: int | None = None  # when that is looked at
        self._inbox: list[bytes | None] = []
        self._posted = False
        self._unsaid = 0  # was read here, and the other end does not know
        machine.ends[self] = None
        path.streams[self] = None

    @staticmethod
    def pair(world: World, near: Machine, far: Machine) -> tuple[End, End] | None:
        """Return the two ends of a new stream; None when a process is gone."""
        if near.loop is None or far.loop is None:
            return None
        one = End(world, near, near.loop, world.path(near.node_id, far.node_id))
        two = End(world, far, far.loop, world.path(far.node_id, near.node_id))
        one.peer, two.peer = two, one
        one._far_id, two._far_id = far.node_id, near.node_id
        return one, two

    @property
    def peer_id(self) -> int:
        """The node at the other end."""
        return self._far_id

    # -- for the owner -----------------------------------------------------------------------------

    def set_target(self, target: ChannelTarget | None) -> None:
        """Tell this object what arrives; with None it waits here."""
        self._target = target
        if target is not None and self._inbox:
            self._post()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take some of ``data`` and return how much.

        After less than all of it ``channel_writable`` tells when to go on.

        Raises:
            BrokenPipeError: Our direction was ended.
        """
        if self._ended:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        size = len(data)
        if size > self._room:
            self._blocked = True
            size = self._room
            data = data[:size]
        if size:
            self._room -= size
            self._put_out(bytes(data))
        return size

    def shutdown(self) -> None:
        """End our direction after what was written."""
        if not self._ended:
            self._ended = True
            self._put_out(None)

    def close(self) -> None:
        """End both directions; what was written still arrives. Idempotent."""
        self.shutdown()
        self._leave()

    def _put_out(self, item: bytes | None) -> None:
        if not self._out:
            self._machine.outbox.append(self)
        self._out.append(item)

    def _leave(self) -> None:
        self._closed = True
        self._target = None
        self._inbox.clear()
        self._machine.ends.pop(self, None)

    # -- for the machine ---------------------------------------------------------------------------

    def depart(self) -> None:
        """Let go what was written in this turn."""
        out, self._out = self._out, []
        data, ends = _whole(out)
        world = self._world
        now_ms = world.time.now_ms
        if data:
            digest = xxh3_64_intdigest(data)
            world.trace.add((now_ms, "bytes", self._near_id, self._far_id, len(data), digest))
            if world.tap is not None:
                world.tap(self, data)
            self._send(data, now_ms)
        if ends:
            world.trace.add((now_ms, "end", self._near_id, self._far_id))
            self._send(None, now_ms)

    def die(self, *, silent: bool) -> None:
        """The process is gone: end the stream for it, or, ``silent``, say nothing."""
        self._lost = silent
        if silent:
            self._ended = True
            self._path.streams.pop(self, None)
            self._held.clear()
            self._leave()
        else:
            self.close()

    def reset(self) -> None:
        """Break the stream at this end; what is under way to it is lost."""
        self._transit.clear()
        self._ended = True
        self._path.streams.pop(self, None)
        self._held.clear()
        self._receive(None)

    # -- outwards ----------------------------------------------------------------------------------

    def _send(self, item: bytes | None, now_ms: int) -> None:
        steady_ms = self._path.steady_ms
        if self._held:
            self._held.append(item)
        elif steady_ms is not None:
            self.peer._expect(now_ms + steady_ms, item)
        elif self._path.is_cut:
            self._held_ms = now_ms
            self._held.append(item)
        else:
            self._carry(item, now_ms)

    def _carry(self, item: bytes | None, now_ms: int) -> None:
        if item is None:
            self.peer._expect(now_ms + self._path.delay_ms(), None)
            return
        at = 0
        for when_ms, size in self._path.carry(len(item), now_ms):
            self.peer._expect(when_ms, item if size == len(item) else item[at : at + size])
            at += size

    def on_cut(self) -> None:
        """Take back what is under way."""
        transit = self.peer._transit
        if transit:
            if not self._held:
                self._held_ms = self._world.time.now_ms
            self._held[:0] = [item for _, item in transit]
            transit.clear()

    def on_heal(self) -> None:
        """Send again what waits, at the next time that TCP tries; and learn what was read."""
        if self._held:
            now_ms = self._world.time.now_ms
            when_ms = resend_ms(self._held_ms, now_ms, self._path.quality.latency_ms)
            self._world.time.call_at(when_ms, self._resend)
        if self._unsaid:
            size, self._unsaid = self._unsaid, 0
            self.peer._gain(size)

    def _resend(self) -> None:
        if self._path.is_cut:
            return
        held, self._held = self._held, []
        for item in held:
            self._carry(item, self._world.time.now_ms)

    def _gain(self, size: int) -> None:
        """The other end has read so much."""
        self._room += size
        if self._blocked and not self._closed:
            post(self._loop, self._on_room)

    def _on_room(self) -> None:
        if self._blocked and self._target is not None:
            self._blocked = False
            self._target.channel_writable()

    # -- inwards -----------------------------------------------------------------------------------

    def _expect(self, when_ms: int, item: bytes | None) -> None:
        """Something is under way to us, behind what is already."""
        transit = self._transit
        if transit and transit[-1][0] > when_ms:
            when_ms = transit[-1][0]
        transit.append((when_ms, item))
        if self._armed_ms is None or when_ms < self._armed_ms:
            self._armed_ms = when_ms
            self._world.time.call_at(when_ms, self._arrive)

    def _arrive(self) -> None:
        self._armed_ms = None
        transit, now_ms = self._transit, self._world.time.now_ms
        while transit and transit[0][0] <= now_ms:
            item = transit.popleft()[1]
            if item is None or self._closed:
                self._receive(item)
                continue
            self._inbox.append(item)
            if not self._posted and self._target is not None:
                self._post()
        if transit:
            self._armed_ms = when_ms = transit[0][0]
            self._world.time.call_at(when_ms, self._arrive)

    def _receive(self, item: bytes | None) -> None:
        """Something is here, in the system's buffer."""
        if item is None:
            self.peer._path.streams.pop(self.peer, None)
        answers = self._lost and self._machine.is_on and not self._path.is_cut
        if answers and not self.peer._closed:
            self.peer._expect(self._world.time.now_ms + self._path.delay_ms(), None)
        if not self._closed:
            self._inbox.append(item)
            if self._target is not None:
                self._post()

    def _post(self) -> None:
        if not self._posted:
            self._posted = True
            try:
                self._loop.post(self._deliver)
            except QueueFullError:
                post(self._loop, self._deliver)

    def _deliver(self) -> None:
        """Hand over what is here; in a turn of our node."""
        self._posted = False
        if self._target is None or not self._inbox:
            return
        inbox, self._inbox = self._inbox, []
        data, ends = _whole(inbox)
        if data:
            peer, size = self.peer, len(data)
            if self._path.is_cut:
                self._unsaid += size
            elif peer._blocked:
                peer._gain(size)
            else:
                peer._room += size
            self._target.receive_data(data)
        if ends:
            if self._target is not None:
                self._target.receive_eof()
            else:  # it changed hands meanwhile
                self._inbox.append(None)


def _whole(items: list[bytes | None]) -> tuple[bytes, bool]:
    """Return all bytes in one, and whether the end is among them."""
    first = items[0]
    if len(items) == 1 and first is not None:
        return first, False
    return b"".join([item for item in items if item is not None]), None in items


def post(loop: kernels.Loop, fn: Callable[..., object], *args: object) -> None:
    """Call ``fn(*args)`` in the next turn of the loop, even if ``max_posts`` wait."""
    try:
        loop.post(fn, *args)
    except QueueFullError:
        loop.call_at(loop.now_ms, fn, *args)
