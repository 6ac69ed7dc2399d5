"""Length-prefixed messages over a byte stream, as raw sockets and hand-batched protocols use them.

Facts first: slicing ``bytes`` gives a message at once, slicing a memoryview makes an object more
per message, so small messages are worth one copy of what a read brought; from some KiB on the copy
costs more than the object.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

HEADER = struct.Struct("<I")
NUMBER = struct.Struct("<Q")
LARGE = 65_536
"""Payloads from this size on are not joined with others."""

SMALL = 2_048
"""Payloads below this size are worth a copy of what one read brought."""

pack = HEADER.pack
unpack_from = HEADER.unpack_from


def split(data: bytes, on_message: Callable[[bytes], object]) -> int:
    """Hand out every whole message in data; return where the rest begins."""
    start, end = 4, len(data)
    while start <= end:
        stop = start + unpack_from(data, start - 4)[0]
        if stop > end:
            break
        on_message(data[start:stop])
        start = stop + 4
    return start - 4


def split_view(view: memoryview, on_message: Callable[[bytes], object]) -> int:
    """Do the same for large messages, without a copy of the whole."""
    start, end = 4, len(view)
    while start <= end:
        stop = start + unpack_from(view, start - 4)[0]
        if stop > end:
            break
        on_message(bytes(view[start:stop]))
        start = stop + 4
    return start - 4


class HeaderWalk:
    """Goes from header to header of a stream that is passed on as it comes."""

    def __init__(self) -> None:
        self._next = 0  # where the next header begins, from the start of the next data

    @property
    def between(self) -> bool:
        """Everything that began has been passed on."""
        return self._next == 0

    def walk(self, data: bytes | memoryview, end: int) -> tuple[int, int]:
        """Return how much of data can be passed on, and how many messages begin in it.

        What is left is less than a header; it must stand before the next data.
        """
        start, count = self._next, 0
        while start + 4 <= end:
            start += 4 + unpack_from(data, start)[0]
            count += 1
        if start < end:
            self._next = 0
            return start, count
        self._next = start - end
        return end, count


class Caller:
    """Matches replies with calls by a number before the payload.

    Args:
        send: Sends one message; replies come to `on_reply`.
    """

    def __init__(self, send: Callable[[bytes], object]) -> None:
        self._send = send
        self._pending: dict[bytes, Callable[[bytes], object]] = {}
        self._number = 0

    def call(self, payload: bytes, callback: Callable[[bytes], object]) -> None:
        """Send a call; callback gets the reply's payload."""
        self._number += 1
        key = NUMBER.pack(self._number)
        self._pending[key] = callback
        self._send(key + payload)

    def on_reply(self, reply: bytes) -> None:
        """Hand a reply to its call."""
        self._pending.pop(reply[:8])(reply[8:])
