"""The two send queues of a link: control frames overtake data, at frame boundaries only."""

from __future__ import annotations

import struct
from collections import deque

from .. import wire
from .._typing import Final

__all__ = ["SEAL_BYTES", "Held", "SendQueue", "frames_behind"]

_FRAME: Final = struct.Struct(">I")

#: Most bytes handed to one write: one system call for many small frames.
WRITE_CHUNK_BYTES: Final = 256 * 1024
#: Most bytes sealed before they are written.
SEAL_BYTES: Final = 4 * wire.MAX_RECORD_BODY_BYTES
_MAX_LENGTH: Final = wire.MAX_FRAME_BYTES
_TO_SERVICE_AT: Final = wire.FRAME_HEADER_BYTES + 3  # where a frame has it


def frames_behind(frames: bytes, start: int, kinds: range, begun: int, begun_kind: int) -> int:
    """Return how many data frames of these kinds, of frames of both queues, end behind ``start``.

    The first ``begun`` bytes end a frame that began before; the last frame may go on behind.
    """
    found = int(begun_kind in kinds and start < begun <= len(frames))
    at = begun
    while at + _TO_SERVICE_AT < len(frames):  # no message is shorter
        first = at
        at += wire.FRAME_HEADER_BYTES + (_FRAME.unpack_from(frames, at)[0] & _MAX_LENGTH)
        if start < at <= len(frames) and frames[first] in kinds:
            found += not _is_reserved(frames, first)
    return found


def _is_reserved(frames: bytes, at: int) -> bool:
    """Return whether a message is control traffic: direct, and for a reserved service."""
    flags, to_service = frames[at + wire.FRAME_HEADER_BYTES], frames[at + _TO_SERVICE_AT]
    return not flags & wire.ROUTE_MASK and to_service >= wire.FIRST_RESERVED_SERVICE


class Held:
    """What waits in all queues of a switch.

    Attributes:
        bytes: Those that count: see ``SendQueue.held_bytes``.
    """

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class SendQueue:
    """Frames waiting on one link: a data queue and a control queue, each FIFO.

    A frame that has begun to leave is finished first; then control frames go, then data.

    Args:
        held: The sum over all queues, kept up to date.

    Attributes:
        data_bytes: Bytes in the data queue, less what has left.
        control_bytes: Likewise.
        shared_bytes: Of the data, what does not count because other queues hold the same object.
    """

    __slots__ = ("_control", "_current", "_data", "_held", "_offset", "control_bytes",
                 "data_bytes", "shared_bytes")  # fmt: skip

    def __init__(self, held: Held) -> None:
        self._held = held
        self.shared_bytes = 0
        self._data: deque[bytes] = deque()
        self._control: deque[bytes] = deque()
        self._current: deque[bytes] | None = None  # the queue whose head has begun to leave
        self._offset = 0  # bytes of that head which have left
        self.data_bytes = 0
        self.control_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._data or self._control)

    @property
    def held_bytes(self) -> int:
        """Bytes that count as held: all but the shared ones."""
        return self.data_bytes + self.control_bytes - self.shared_bytes

    def push_data(self, frame: bytes, shared: int = 0) -> None:
        """Append one whole frame to the data queue; ``shared`` bytes of it do not count as held."""
        self._data.append(frame)
        self.data_bytes += len(frame)
        self.shared_bytes += shared
        self._held.bytes += len(frame) - shared

    def push_control(self, frame: bytes) -> None:
        """Append one whole frame to the control queue."""
        self._control.append(frame)
        self.control_bytes += len(frame)
        self._held.bytes += len(frame)

    def peek(self, limit: int = WRITE_CHUNK_BYTES) -> bytes:
        """Return the bytes to send next, about ``limit`` of them, without removing them."""
        parts: list[bytes] = []
        size = 0
        skip_data = skip_control = 0
        if self._current is not None:
            # At most ``limit``: a large frame would else be copied whole for each part of it sent.
            parts.append(self._current[0][self._offset : self._offset + limit])
            size = len(parts[0])
            skip_control = int(self._current is self._control)
            skip_data = 1 - skip_control
        for queue, skip in ((self._control, skip_control), (self._data, skip_data)):
            for index, frame in enumerate(queue):
                if size >= limit:
                    break
                if index >= skip:
                    parts.append(frame)
                    size += len(frame)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def begun(self) -> tuple[int, int]:
        """Return how much is left of the frame that has begun to leave, and its kind.

        Whatever is in the control queue counts as of the kind ``wire.KIND_CONTROL``.
        """
        if self._current is None:
            return 0, wire.KIND_CONTROL
        frame = self._current[0]
        is_data = self._current is self._data
        return len(frame) - self._offset, frame[0] if is_data else wire.KIND_CONTROL

    def consume(self, count: int) -> None:
        """Remove the first ``count`` bytes of what ``peek`` returned."""
        while count:
            queue = self._current
            if queue is None:
                queue = self._control or self._data
            left = len(queue[0]) - self._offset
            step = min(left, count)
            count -= step
            if queue is self._data:
                self._take_data(step)
            else:
                self.control_bytes -= step
                self._held.bytes -= step
            if step < left:
                self._current, self._offset = queue, self._offset + step
                return
            queue.popleft()
            self._current, self._offset = None, 0

    def _take_data(self, count: int) -> None:
        """Count so many bytes less in the data queue: first of those that are shared."""
        shared = min(count, self.shared_bytes)
        self.data_bytes -= count
        self.shared_bytes -= shared
        self._held.bytes -= count - shared

    def drop_oldest(self) -> int:
        """Drop the oldest data frame that has not begun to leave.

        Returns:
            Its kind, -1 when there is none. A CLOSE stays: the link ends with it.
        """
        data = self._data
        at = int(self._current is data)
        if len(data) <= at or data[at][0] == wire.KIND_CLOSE:
            return -1
        frame = data[at]
        del data[at]
        self._take_data(len(frame))
        return frame[0]

    def unsent_frames(self, kinds: range) -> int:
        """Return how many frames of these kinds in the data queue have not left whole."""
        return sum(frame[0] in kinds for frame in self._data)

    def clear(self) -> None:
        """Forget everything."""
        self._held.bytes -= self.held_bytes
        self._data.clear()
        self._control.clear()
        self._current, self._offset = None, 0
        self.data_bytes = self.control_bytes = self.shared_bytes = 0
