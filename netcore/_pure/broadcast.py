"""Broadcasts: one message to every node that offers a service, copied from link to link.

Facts first:

- Every node that sees a broadcast for the first time passes it on over all its open links but those
  to the neighbour that it came from, to the origin, and to nodes outside of its level. So it takes
  every way there is, and what comes again is dropped: at most one copy leaves a node per link.
- Copies are made before a hook sees the message. Hooks cannot hold them up.
- What is known of an origin is a window of sequence numbers for each of its lives (its epoch), so a
  restarted one begins anew, and what is left of its former life is still told apart.
"""

from __future__ import annotations

import struct
from collections import OrderedDict

from .. import wire
from .._typing import TYPE_CHECKING, Final, cast, final
from ..errors import FrameError, MessageTooBigError, QueueFullError
from ..route import check_level
from .codec import decode_header, encode_header, message_of
from .connection import OPEN
from .switch import HOOKS_BETWEEN

if TYPE_CHECKING:
    from .codec import Header, Message
    from .connection import Connection
    from .switch import Payload, Switch

__all__ = ["BroadcastDesk", "DuplicateFilter"]

_FRAME: Final = struct.Struct(">I")
_TAIL: Final = struct.Struct(">QI")  # epoch, sequence
_WINDOW_MASK: Final = (1 << wire.BROADCAST_WINDOW) - 1
_LEVEL_MASK: Final = (1 << wire.BROADCAST_LEVEL_SHIFT) - 1
_FROM_NODE_AT: Final = wire.HEADER_BYTES
_ARGUMENT_AT: Final = wire.HEADER_BYTES + 4
_HALF: Final = 1 << 31
#: The copies of a payload from here on are one object, and count as one for ``max_queued_bytes``.
SHARED_BYTES: Final = 16_384

#: What a filter says.
NEW: Final = 0
DUPLICATE: Final = 1
STALE: Final = 2


def within(level: int, one: int, other: int) -> bool:
    """Return whether two nodes share the bytes of their ids that the level asks for."""
    return (one ^ other) >> (32 - 8 * level) == 0


@final
class DuplicateFilter:
    """Which broadcasts have been seen: a window of sequence numbers for each life of an origin.

    Args:
        max_origins: Lives of origins known at a time, 1 or more; then the one not heard of longest
            goes.

    Attributes:
        forgotten: Those that had to go.

    Raises:
        ValueError: ``max_origins`` is 0.
    """

    def __init__(self, max_origins: int) -> None:
        if max_origins == 0:
            raise ValueError("max_origins must be 1 or more, not 0")
        self.forgotten = 0
        self._max = max_origins
        # Least recently heard of first; the newest number, and a bit for each one before it.
        self._windows: OrderedDict[tuple[int, int], list[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def check(self, origin: int, epoch: int, sequence: int) -> int:
        """Note that a broadcast came.

        Args:
            origin: Node id.
            epoch: Which life of it, u64.
            sequence: u32; goes round.

        Returns:
            0 new; 1 seen before; 2 too far behind the newest one to know.
        """
        key = origin, epoch
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) == self._max:
                self._windows.popitem(last=False)
                self.forgotten += 1
            self._windows[key] = [sequence, 1]
            return NEW
        self._windows.move_to_end(key)
        newest, seen = window
        ahead = (sequence - newest) & wire.MAX_U32
        if 0 < ahead < _HALF:
            window[0] = sequence
            window[1] = (seen << min(ahead, wire.BROADCAST_WINDOW) | 1) & _WINDOW_MASK
            return NEW
        behind = -ahead & wire.MAX_U32
        if behind >= wire.BROADCAST_WINDOW:
            return STALE
        if seen >> behind & 1:
            return DUPLICATE
        window[1] = seen | 1 << behind
        return NEW


_COUNTER: Final = {DUPLICATE: "broadcasts_duplicate", STALE: "broadcasts_stale"}


def _check_header(header: Header, size: int) -> int:
    """Return the level of a broadcast whose body has ``size`` bytes.

    Raises:
        FrameError: "bad_body" at what is not allowed in a broadcast, or "truncated".
    """
    kind, argument, from_node = header[0], header[1], header[7]
    if from_node is None or kind != wire.ROUTE_SERVICE:
        raise FrameError(wire.FRAME_BAD_BODY, 0)
    if from_node > wire.MAX_NODE_ID:
        raise FrameError(wire.FRAME_BAD_BODY, _FROM_NODE_AT)
    level = argument >> wire.BROADCAST_LEVEL_SHIFT
    if level > wire.BROADCAST_GROUP or argument & _LEVEL_MASK:
        raise FrameError(wire.FRAME_BAD_BODY, _ARGUMENT_AT)
    if size < wire.BROADCAST_HEADER_BYTES:
        raise FrameError(wire.FRAME_TRUNCATED, size)
    return level


@final
class BroadcastDesk:
    """The broadcasts of one node: those it sends, and those that come.

    Args:
        epoch: Of this node's life, as in its handshakes.
        max_origins: See ``DuplicateFilter``.
    """

    def __init__(self, epoch: int, max_origins: int) -> None:
        self._epoch = epoch
        self._sequence = 0
        self._filter = DuplicateFilter(max_origins)
        self._switch: Switch | None = None

    def bind(self, switch: Switch) -> None:
        """Use this switch, and be its desk; once, before anything else."""
        self._switch = switch
        switch._broadcasts = self

    def _send(
        self,
        level: int,
        payload: Payload,
        from_service: int,
        to_service: int,
        stream_id: int,
        meta: int,
        ttl: int,
    ) -> None:
        switch = cast("Switch", self._switch)
        data = switch._check_send(payload, ttl)
        argument = check_level(level) << wire.BROADCAST_LEVEL_SHIFT
        head = encode_header(
            wire.ROUTE_SERVICE, argument, ttl, from_service, to_service, stream_id, meta,
            switch.node_id,
        )  # fmt: skip
        size = wire.BROADCAST_HEADER_BYTES + len(data)
        if size > switch.max_frame_bytes:
            switch._refuse(MessageTooBigError(size, switch.max_frame_bytes))
        is_offered = switch._behaviors[to_service] is not None
        if is_offered and switch._local_bytes >= switch.local_queue_bytes:
            switch._refuse(QueueFullError("local_queue_bytes", switch.local_queue_bytes))
        links = self._links(level, switch.node_id, wire.NO_NODE)
        self._check_room(links, size)
        body = head + _TAIL.pack(self._epoch, self._sequence) + data
        self._sequence = (self._sequence + 1) & wire.MAX_U32
        switch._counts["broadcasts_sent"] += 1
        self._flood(links, body, ttl, is_own=True)
        if is_offered:
            header = _as_rule(decode_header(head), level)
            switch._push_local(wire.KIND_BROADCAST, message_of(header, body, switch.node_id))

    def _on_frame(self, conn: Connection, body: bytes) -> None:
        """Pass a broadcast on and deliver it, unless it was here before."""
        switch = cast("Switch", self._switch)
        header = decode_header(body)
        level = _check_header(header, len(body))
        origin = cast(int, header[7])
        if not within(level, origin, switch.node_id):
            raise FrameError(wire.FRAME_BAD_BODY, _ARGUMENT_AT)
        if origin == switch.node_id:  # it went round, or began in a former life of this node
            switch._counts["broadcasts_duplicate"] += 1
            return
        verdict = self._filter.check(origin, *_TAIL.unpack_from(body, wire.MAX_HEADER_BYTES))
        switch._counts["broadcast_origins_forgotten"] = self._filter.forgotten
        if verdict != NEW:
            switch._counts[_COUNTER[verdict]] += 1
            return
        switch._counts["broadcasts_received"] += 1
        links = self._links(level, origin, conn.remote_node_id)
        self._flood(links, body, max(header[2] - 1, 0))
        if switch._behaviors[header[4]] is not None:
            message = message_of(_as_rule(header, level), body, conn.remote_node_id)
            self._deliver(conn, message)

    def _deliver(self, conn: Connection, message: Message) -> None:
        switch = cast("Switch", self._switch)
        switch._hooks += 1
        if not switch._hooks % HOOKS_BETWEEN:
            switch.loop._write_early()
        switch._deliver(wire.KIND_BROADCAST, conn, message)

    def _links(self, level: int, origin: int, came_from: int) -> list[Connection]:
        """Return the links that a broadcast goes out on."""
        links = cast("Switch", self._switch)._connections.values()
        return [
            conn
            for conn in links
            if conn.state == OPEN
            and conn.remote_node_id not in (origin, came_from)
            and within(level, origin, conn.remote_node_id)
        ]

    def _check_room(self, links: list[Connection], size: int) -> None:
        """Raise if there are links and none of them takes a body of this size."""
        switch = cast("Switch", self._switch)
        raises = switch.send_queue_policy == "error"
        refusing: Connection | None = None
        for conn in links:
            if size <= conn.max_frame_bytes:
                if not raises or conn.queued_bytes < switch.write_high_bytes:
                    return
                refusing = conn
            elif refusing is None:
                refusing = conn
        if refusing is not None:
            for conn in links:  # whichever drains first tells
                conn._refused = conn._refused or size <= conn.max_frame_bytes
            refusing._takes(size)

    def _flood(
        self, links: list[Connection], body: bytes, ttl: int, *, is_own: bool = False
    ) -> None:
        """Queue a copy on each link that takes it."""
        switch = cast("Switch", self._switch)
        counts = switch._counts
        counts["broadcast_copies"] += len(links)
        word = _FRAME.pack(wire.KIND_BROADCAST << 24 | len(body))
        frame = word + body[:1] + bytes((ttl,)) + body[2:] if links else b""
        size = len(body) - wire.BROADCAST_HEADER_BYTES
        shared = size - size // len(links) if size >= SHARED_BYTES and links else 0
        for conn in links:
            if ttl == 0 or len(body) > conn.max_frame_bytes:
                counts["broadcast_copies_dropped"] += 1
            elif conn.queued_bytes < switch.write_high_bytes:
                conn._push(frame, shared)
            elif not is_own or switch.send_queue_policy == "error":
                counts["broadcast_copies_dropped"] += 1
                conn.relay_queue_full += 1
            elif conn._overflow():
                conn._push(frame, shared)
            else:
                counts["broadcast_copies_dropped"] += 1
                conn.sends_dropped += switch.send_queue_policy != "close"


def _as_rule(header: Header, level: int) -> Header:
    """Return the header as a message shows it."""
    return (wire.ROUTE_SERVICES, level, *header[2:8], wire.BROADCAST_HEADER_BYTES)
