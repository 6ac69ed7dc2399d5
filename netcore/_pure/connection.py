"""One link: its stream, its send queues, its unfinished input, and how it ends.

Facts first:

- A link that fails inside a hook is only marked and ends in ``flush``, which the loop calls between
  hooks. So ``on_closed`` comes exactly once and never inside a send.
- A link ends politely like this: its data queue, then a CLOSE frame, then the end of our stream;
  we go on receiving until the neighbour has done the same. Nothing queued is lost by it. A stream
  that ends without CLOSE, a broken protocol and a full control queue end it at once.
- So does a send that meets a full queue, if that is the policy, and the bound of all queues. What
  waits is given up at once then, yet the link stays open until ``flush``: no send calls a hook.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable

from .. import wire
from .._typing import TYPE_CHECKING, Final, Protocol, cast, final
from ..errors import FrameError, MessageTooBigError, SendQueueFullError
from .buffer import SEAL_BYTES, SendQueue, frames_behind
from .loop import Source, Timer
from .records import Records

if TYPE_CHECKING:
    from .switch import Switch

__all__ = ["Connection"]

READ: Final = 1
WRITE: Final = 2

#: States of a connection.
OPEN: Final = 0
CLOSING: Final = 1  # no new sends; ours is going out, theirs is still received
CLOSED: Final = 2

_FRAME = struct.Struct(">I")

#: Where what waits on a link that ends is counted.
_LOST_WITH_A_LINK: Final = (
    ("dropped_link_closed", range(wire.KIND_MESSAGE, wire.KIND_CALL + 1)),
    ("broadcast_copies_dropped", range(wire.KIND_BROADCAST, wire.KIND_BROADCAST + 1)),
)
_ENDED: Final = (wire.CLOSE_LOST, "the stream ended")  # the reason, as long as nobody gave one
#: About as many frames are taken from one link per turn: small ones cost time, not bytes.
FRAMES_PER_TURN: Final = 256
LEAST_READ_BYTES: Final = 4_096

Hook = Callable[..., object]


class Channel(Protocol):
    """A stream that is not a socket."""

    def write(self, data: bytes) -> int:
        """Take some of ``data``; 0: not now, ``channel_writable`` will tell."""

    def shutdown(self) -> None:
        """End our direction after what was written."""

    def close(self) -> None:
        """End both directions at once."""

    def set_target(self, target: Connection) -> None:
        """Tell this object what arrives."""


def _take_over(sock: socket.socket) -> socket.socket:
    """Return a socket with this one's descriptor, which whoever made it can close no more."""
    family, kind, proto = sock.family, sock.type, sock.proto
    own = socket.socket(family, kind, proto, fileno=sock.detach())
    own.setblocking(False)
    return own


@final
class Connection(Source):
    """One link: a stream, its two send queues, its unfinished input, its handlers.

    Attributes:
        conn_id: Its id within this node.
        remote_node_id: The neighbour.
        max_frame_bytes: Largest body in either direction.
        owner: Any object; the switch does not look at it.
        state: 0 open, 1 closing, 2 closed.
        last_received_ms: Loop time at which bytes last came.
        last_sent_ms: Loop time at which bytes last left.
        frames_sent: Frames queued.
        frames_received: Frames taken from the stream.
        bytes_sent: Bytes the stream took, without those of the handshake.
        bytes_received: Bytes that came.
        relay_queue_full: Frames dropped because this link's queue was full.
        sends_refused: Sends that raised because it was full.
        sends_dropped: Frames dropped, by the policy of the switch, because a send met it full.
    """

    def __init__(
        self,
        switch: Switch,
        conn_id: int,
        remote_node_id: int,
        sock: socket.socket | None,
        channel: Channel | None,
        records: Records | None,
        max_frame_bytes: int,
    ) -> None:
        super().__init__()
        self.conn_id = conn_id
        self.remote_node_id = remote_node_id
        self.max_frame_bytes = max_frame_bytes
        self.owner: object = None
        self.state = OPEN
        self.last_received_ms = self.last_sent_ms = switch.loop.now_ms
        self.frames_sent = self.frames_received = 0
        self.bytes_sent = self.bytes_received = 0
        self.relay_queue_full = self.sends_refused = self.sends_dropped = 0
        self._switch = switch
        self._sock = None if sock is None else _take_over(sock)
        self._channel = channel
        self._records = records
        self._handlers: dict[int, tuple[Hook, object]] | None = None
        self._queue = SendQueue(switch._held)
        self._sealed = b""  # the frames in _unsent, when those are records
        self._begun = (0, wire.KIND_CONTROL)  # what of them ends a frame begun before; its kind
        self._unsent = b""  # bytes as they go to the stream: sealed records, or of the handshake
        self._uncounted = 0  # of the bytes that leave next: of the handshake
        self._tail = bytearray()  # received, not parsed
        self._need = 0  # bytes the frame at the head of _tail has in all, once known
        self._read_bytes = switch.read_budget_bytes  # asked for at a time
        self._registered = 0  # events the loop watches
        self._started = False
        self._blocked = False  # the stream took less than it was given
        self._refused = False  # a send was refused since the queue was last low
        self._eof_in = False
        self._eof_out = False
        self._peer_closed = False  # a CLOSE came
        self._close_reason: tuple[int, str] = _ENDED
        self._failure: tuple[int, str] | None = None
        self._timer: Timer | None = None

    # -- what the plane does -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to receive; what came behind the handshake is handled in the next turn."""
        self._started = True
        if self._channel is not None:
            self._channel.set_target(self)
        self._watch(READ)
        if self._tail:
            self._resume_soon()
        self._switch.loop.mark_dirty(self)

    def set_handler(self, service_id: int, hook: Hook | None, agent: object = None) -> None:
        """Deliver messages for a service that arrive here to ``hook(agent, message)``."""
        if self._handlers is None:
            self._handlers = {}
        if hook is None:
            self._handlers.pop(service_id, None)
        else:
            self._handlers[service_id] = (hook, agent)

    @property
    def queued_bytes(self) -> int:
        """Bytes of data that wait to be sent."""
        return self._queue.data_bytes + len(self._unsent)

    @property
    def control_queued_bytes(self) -> int:
        """Bytes of control frames that wait to be sent."""
        return self._queue.control_bytes

    def send_control(self, kind: int, body: bytes) -> None:
        """Queue a control frame; a full control queue ends the link."""
        if self.state == CLOSED or self._eof_out:
            return
        if self._queue.control_bytes >= self._switch.control_queue_bytes:
            if self._failure is None:
                self._switch._counts["control_overflows"] += 1
            self.fail(wire.CLOSE_CONTROL_OVERFLOW, "control queue full")
            return
        self._push_control((kind << 24 | len(body)).to_bytes(4, "big") + body)

    def close(self, code: int = wire.CLOSE_NORMAL, text: str = "") -> None:
        """End the link politely: what is queued still goes out. Idempotent."""
        self._close_reason = (code, text) if self.state == OPEN else self._close_reason
        self._begin_close(code, text)

    def fail(self, code: int, text: str) -> None:
        """End the link now: what is queued is dropped and counted. Idempotent.

        The neighbour is told the reason when the stream still takes it.
        """
        if self.state == CLOSED or self._failure is not None:
            return
        self._failure = (code, text)
        self._switch.loop.mark_dirty(self)  # first: it must end whatever is raised here
        self._leave_open()

    def abandon(self) -> None:
        """Close the stream's descriptor and nothing else: for the child after a fork."""
        self.state = CLOSED
        if self._sock is not None:
            self._sock.close()

    # -- sending -----------------------------------------------------------------------------------

    def _takes(self, size: int) -> bool:
        """Return whether a message or call of this node is to be queued.

        If not, its queue is full and it has been dealt with, by the policy of the switch.
        """
        switch = self._switch
        if size > self.max_frame_bytes:
            switch._refuse(MessageTooBigError(size, self.max_frame_bytes))
        if self.queued_bytes < switch.write_high_bytes:
            return True
        if switch.send_queue_policy == "error":
            queued = self.queued_bytes
            self.sends_refused += 1
            self._refused = True
            switch._refuse(SendQueueFullError(self.conn_id, queued, switch.write_high_bytes))
        if self._overflow():
            return True
        switch._counts["messages_sent"] += 1
        if switch.send_queue_policy == "close":
            switch._counts["dropped_link_closed"] += 1
        else:
            switch._counts["dropped_send_queue_full"] += 1
            self.sends_dropped += 1
        return False

    def _overflow(self) -> bool:
        """Apply the policy to a full queue; return whether there is room for a frame now."""
        switch = self._switch
        self._refused = True
        if switch.send_queue_policy == "close":
            self._give_up("queue_overflows", wire.CLOSE_QUEUE_FULL, "send queue full")
        elif switch.send_queue_policy == "drop_oldest":
            while self.queued_bytes >= switch.write_high_bytes:
                kind = self._queue.drop_oldest()
                if kind < 0:
                    return False
                broadcast = kind == wire.KIND_BROADCAST
                name = "broadcast_copies_dropped" if broadcast else "dropped_send_queue_full"
                switch._counts[name] += 1
                self.sends_dropped += 1
            return True
        return False

    def _push(self, frame: bytes, shared: int = 0) -> None:
        """Append a frame to the data queue, ``shared`` bytes of which other queues hold too."""
        self.frames_sent += 1
        self._queue.push_data(frame, shared)
        self._switch.loop.mark_dirty(self)
        self._switch._check_held()

    def _push_control(self, frame: bytes) -> None:
        self.frames_sent += 1
        self._switch._counts["control_sent"] += 1
        self._queue.push_control(frame)
        self._switch.loop.mark_dirty(self)
        self._switch._check_held()

    def flush(self) -> None:
        """Write what the stream takes; finish the link when it has come to its end."""
        if self.state == CLOSED or not self._started:
            return
        if self._failure is not None:
            self._fail_now()
            return
        try:
            # While it is watched for room, trying to write would be a system call a turn.
            blocked = bool(self._blocked and self._registered & WRITE) or self._write_all()
        except OSError as exc:
            self._lose(f"write failed: {exc.strerror or exc}")
            return
        self._blocked = blocked
        self._watch(READ * (not self._eof_in) | WRITE * blocked)
        if self._refused and self.queued_bytes <= self._switch.write_low_bytes:
            self._refused = False
            if self.state == OPEN:
                self._switch._sink.on_writable(self)
        if self.state == CLOSING and not blocked and not self._queue:
            self._end_output()

    def _write_all(self) -> bool:
        """Write until the queues are empty (False) or the stream is full (True)."""
        if self._records is None and self._sock is not None:
            return self._write_plain()
        while True:
            if self._unsent:
                sent = self._write(self._unsent)
                self._unsent = self._unsent[sent:]
                self._switch._held.bytes -= sent if self._sealed else 0
                if self._unsent:
                    return True
                self._sealed = b""
            if not self._queue:
                return False
            if self._records is not None:
                self._begun = self._queue.begun()
                self._sealed = self._queue.peek(SEAL_BYTES)[:SEAL_BYTES]
                self._queue.consume(len(self._sealed))
                self._unsent = self._records.seal(self._sealed)
                self._switch._held.bytes += len(self._unsent)
                continue
            chunk = self._queue.peek()
            sent = self._write(chunk)
            self._queue.consume(sent)
            if sent < len(chunk):
                return True

    def _write_plain(self) -> bool:
        """Do so on a socket; what is left of the handshake leaves with the first frames."""
        while self._unsent or self._queue:
            words = len(self._unsent)
            chunk = self._queue.peek()
            if words:
                chunk = self._unsent + chunk
            sent = self._write(chunk)
            words = min(words, sent)
            self._unsent = self._unsent[words:]
            self._queue.consume(sent - words)
            if sent < len(chunk):
                return True
        return False

    def _write_early(self) -> None:
        """Write what waits if that can change nothing else; what goes wrong the flush meets too."""
        if (
            not self._queue
            or self._blocked
            or self._sock is None
            or self._records is not None
            or not self._started
            or self._failure is not None
            or self._unsent
        ):
            return
        chunk = self._queue.peek()
        with contextlib.suppress(OSError):
            sent = self._write(chunk)
            self._queue.consume(sent)
            self._blocked = sent < len(chunk)

    def _write(self, data: bytes) -> int:
        try:
            if self._sock is not None:
                sent = self._sock.send(data)
            else:
                sent = cast(Channel, self._channel).write(data)
        except (BlockingIOError, InterruptedError):
            return 0
        if not 0 <= sent <= len(data):
            raise ValueError(f"the channel took {sent} of {len(data)} bytes")
        words = min(sent, self._uncounted)
        self._uncounted -= words
        self.bytes_sent += sent - words
        self._switch._counts["bytes_sent"] += sent - words
        if sent:
            self.last_sent_ms = self._switch.loop.now_ms
        return sent

    # -- receiving ---------------------------------------------------------------------------------

    def on_ready(self, events: int) -> None:
        """Receive once and handle what came; write when the stream has room again."""
        if self._failure is not None:
            # Its end was interrupted. What can be read, an error say, stays so: end it now.
            self._switch.loop.mark_dirty(self)
            return
        if events & READ and not self._eof_in and self.state != CLOSED:
            frames = self.frames_received
            self._receive()
            self._adapt(self.frames_received - frames)
        if events & WRITE:
            self._blocked = False
            self._switch.loop.mark_dirty(self)

    def _receive(self) -> None:
        try:
            data = cast(socket.socket, self._sock).recv(self._read_bytes)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._lose(f"read failed: {exc.strerror or exc}")
            return
        if data:
            self.receive_data(data)
        else:
            self.receive_eof()

    def _adapt(self, frames: int) -> None:
        """Ask for less next time when these were many frames, for more when they were few."""
        budget = self._switch.read_budget_bytes
        if frames > FRAMES_PER_TURN:
            self._read_bytes = max(min(LEAST_READ_BYTES, budget), self._read_bytes // 2)
        elif frames < FRAMES_PER_TURN // 4 and self._read_bytes < budget:
            self._read_bytes = min(budget, 2 * self._read_bytes)

    def receive_data(self, data: bytes) -> None:
        """Handle bytes of the stream. The channel of a link without a socket calls this."""
        if self.state == CLOSED or self._failure is not None:
            return
        self.bytes_received += len(data)
        self._switch._counts["bytes_received"] += len(data)
        self.last_received_ms = self._switch.loop.now_ms
        try:
            if self._records is not None:
                data = self._records.open(data)
                if self._records.error is not None:
                    self._need = 0  # the unfinished frame will not be finished
            self._tail += data
        except MemoryError:
            self.fail(wire.CLOSE_LOST, "no memory for a frame")
            raise
        if len(self._tail) >= self._need:
            self._handle_input()

    def receive_eof(self) -> None:
        """Handle the end of the neighbour's stream."""
        self._eof_in = True
        self._handle_input()

    def channel_writable(self) -> None:
        """Write again: the channel has room."""
        self._switch.loop.mark_dirty(self)

    def _handle_input(self) -> None:
        """Handle every whole frame, then the end of the stream if it has come."""
        switch = self._switch
        if switch._busy:  # inside a hook
            self._resume_soon()
            return
        switch._busy = True
        try:
            self._parse()
        except FrameError as exc:
            self._protocol_error(str(exc))
        except BaseException:
            # KeyboardInterrupt out of a hook: the frames behind it wait here, and the stream will
            # not tell again that they are there.
            self._resume_soon()
            raise
        finally:
            switch._busy = False
        if self._records is not None and self._failure is None:
            error = self._records.error  # what came before it was handled
            if error is not None:
                self._protocol_error(str(error))
        if self._eof_in:
            self._end_input()

    def _resume_soon(self) -> None:
        loop = self._switch.loop
        loop.call_at(loop.now_ms, self._handle_input)

    def _parse(self) -> None:
        """Handle every whole frame in ``_tail``; keep what is unfinished."""
        data = bytes(self._tail)  # of which slices are bytes too; hooks may add to the tail
        there = len(data)
        position = 0
        try:
            while self._failure is None and self.state != CLOSED:
                self._need = wire.FRAME_HEADER_BYTES
                if there - position < self._need:
                    break
                word = _FRAME.unpack_from(data, position)[0]
                length = word & wire.MAX_FRAME_BYTES
                if length > self.max_frame_bytes:
                    raise FrameError(wire.FRAME_TOO_BIG, 1)
                self._need += length
                if there - position < self._need:
                    break
                start = position + wire.FRAME_HEADER_BYTES
                position += self._need
                self._need = 0
                self._on_frame(word >> 24, data[start:position])
        finally:
            del self._tail[:position]
            self._need = self._need if position < there else 0

    def _on_frame(self, kind: int, body: bytes) -> None:
        self.frames_received += 1
        switch = self._switch
        if kind <= wire.KIND_CALL:
            switch._on_routed(self, kind, body)
        elif kind in (wire.KIND_PING, wire.KIND_PONG):
            switch._counts["control_received"] += 1
            switch._sink.on_control(self, kind, body)
        elif kind == wire.KIND_CLOSE:
            switch._counts["control_received"] += 1
            self._on_close_frame(body)
        elif kind == wire.KIND_BROADCAST:
            switch._on_broadcast(self, body)
        elif kind >= wire.KIND_EXTENSION:
            switch._counts["frames_ignored"] += 1
        else:
            raise FrameError(wire.FRAME_BAD_KIND, 0)

    # -- ending ------------------------------------------------------------------------------------

    def _on_close_frame(self, body: bytes) -> None:
        if len(body) < 2:
            raise FrameError(wire.FRAME_TRUNCATED, len(body))
        if len(body) > 2 + wire.MAX_REASON_BYTES:
            raise FrameError(wire.FRAME_BAD_BODY, 2)
        if not self._peer_closed:
            self._peer_closed = True
            code = int.from_bytes(body[:2], "big")
            if self.state == OPEN:
                self._close_reason = (code, body[2:].decode("utf-8", "replace"))
            self._begin_close(wire.CLOSE_NORMAL, "")

    def _begin_close(self, code: int, text: str) -> None:
        if self.state != OPEN:
            return
        reason = text.encode()[: wire.MAX_REASON_BYTES].decode("utf-8", "ignore").encode()
        body = code.to_bytes(2, "big") + reason
        # At the end of the data queue: everything sent before still arrives.
        self._push(_FRAME.pack(wire.KIND_CLOSE << 24 | len(body)) + body)
        self._switch._counts["control_sent"] += 1
        loop = self._switch.loop
        self._timer = loop.call_at(
            loop.now_ms + self._switch.close_timeout_ms, self._on_close_timeout
        )
        self._leave_open()

    def _leave_open(self) -> None:
        if self.state == OPEN:
            self.state = CLOSING
            self._switch._sink.on_closing(self)

    def _on_close_timeout(self) -> None:
        self._failure = self._failure or (wire.CLOSE_LOST, "the neighbour did not finish in time")
        self._switch.loop.mark_dirty(self)

    def _end_input(self) -> None:
        """The neighbour's stream has ended."""
        if self._peer_closed:
            self._switch.loop.mark_dirty(self)
        else:
            self._lose("the stream ended")

    def _end_output(self) -> None:
        """Everything has left: end our stream, and the link when theirs has ended too."""
        if not self._eof_out:
            self._eof_out = True
            try:
                if self._sock is not None:
                    self._sock.shutdown(socket.SHUT_WR)
                else:
                    cast(Channel, self._channel).shutdown()
            except OSError:
                pass  # the neighbour was faster; its end of stream tells
        if self._eof_in:
            self._finish(*self._close_reason)

    def _lose(self, text: str) -> None:
        """The stream broke: nothing more can be sent or received."""
        self._eof_out = True
        if self._peer_closed or self._close_reason[0] != wire.CLOSE_LOST:
            self.fail(*self._close_reason)
        else:
            self.fail(wire.CLOSE_LOST, text)

    def _protocol_error(self, text: str) -> None:
        self._switch._counts["protocol_errors"] += 1
        self.fail(wire.CLOSE_PROTOCOL_ERROR, text)

    def _give_up(self, counter: str, code: int, text: str) -> None:
        """Drop and count what waits, now; the link ends in ``flush``. Calls no hook."""
        if self._failure is None:
            self._failure = (code, text)
            self._switch._counts[counter] += 1
        if not self._queue_starts_whole():
            self._eof_out = True  # the rest of a frame is gone: nothing can follow
        self._drop_waiting()
        self._switch.loop.mark_dirty(self)

    @property
    def _held_bytes(self) -> int:
        """What waits and counts for the bound of the switch."""
        return self._queue.held_bytes + (len(self._unsent) if self._sealed else 0)

    def _drop_waiting(self) -> None:
        switch = self._switch
        for name, kinds in _LOST_WITH_A_LINK:
            switch._counts[name] += self._queue.unsent_frames(kinds) + self._sealed_frames(kinds)
        switch._held.bytes -= len(self._unsent) if self._sealed else 0
        self._queue.clear()
        self._unsent = self._sealed = b""

    def _fail_now(self) -> None:
        code, text = cast("tuple[int, str]", self._failure)
        try:
            self._leave_open()
            if not self._eof_out and code != wire.CLOSE_LOST and self._queue_starts_whole():
                self._say_why(code, text)
        finally:
            self._finish(code, text)

    def _queue_starts_whole(self) -> bool:
        return not self._unsent and self._queue._current is None

    def _say_why(self, code: int, text: str) -> None:
        reason = text.encode()[: wire.MAX_REASON_BYTES].decode("utf-8", "ignore").encode()
        body = code.to_bytes(2, "big") + reason
        frame = _FRAME.pack(wire.KIND_CLOSE << 24 | len(body)) + body
        with contextlib.suppress(OSError):  # it is gone already
            self._write(self._records.seal(frame) if self._records is not None else frame)

    def _finish(self, code: int, text: str) -> None:
        """Give everything back and say so, once."""
        switch = self._switch
        self.state = CLOSED
        self._drop_waiting()
        self._tail = bytearray()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._watch(0)
        if self._sock is not None:
            self._sock.close()
        else:
            cast(Channel, self._channel).close()
        self._channel = self._records = None  # a channel refers back to its target
        switch._connections.pop(self.conn_id, None)
        try:
            switch._sink.on_closed(self, code, text)
        finally:
            self._handlers = None
            self.owner = None

    def _sealed_frames(self, kinds: range) -> int:
        """Return how many frames of these kinds are sealed and have not left whole."""
        body, extra = wire.MAX_RECORD_BODY_BYTES, wire.RECORD_LENGTH_BYTES + wire.RECORD_TAG_BYTES
        records = -(-len(self._sealed) // body)
        left = len(self._sealed) + records * extra - len(self._unsent)
        return frames_behind(self._sealed, left // (body + extra) * body, kinds, *self._begun)

    def _watch(self, events: int) -> None:
        if self._sock is None or events == self._registered:
            return
        loop = self._switch.loop
        if not events:
            loop.remove(self)
        elif not self._registered:
            loop.add(self, self._sock.fileno(), events)
        else:
            loop.modify(self, events)
        self._registered = events
