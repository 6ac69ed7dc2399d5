"""asyncio protocols, naive and hand-batched; what the roles over them need of a link.

Naive is what one writes first: a ``transport.write`` per message and a parser that cuts the front
off a bytearray. Hand-batched joins what is written in one tick and parses all that a read brought
from one buffer. Both run on asyncio's loop or on uvloop's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tools.bench.framing import LARGE, SMALL, HeaderWalk, pack, split, split_view, unpack_from

CHUNK = 262_144


def nothing(*_: object) -> None:
    """Ignore an event."""


class Link(asyncio.BaseProtocol):
    """What both styles share: callbacks, state and flow control.

    Attributes:
        blocked: Done when the transport wants more; None while it does.
        closed: Done when the connection has ended, all sent.
    """

    def __init__(self, on_message: Callable[[bytes], object] = nothing) -> None:
        self.on_message = on_message
        self.on_opened: Callable[[], object] = nothing
        self.transport: Any = None
        self.blocked: asyncio.Future[None] | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self, payload: bytes) -> None:
        """Send one message."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = transport
        self.on_opened()

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """Hold the sender back."""
        self.blocked = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Let the sender go on."""
        if self.blocked is not None:
            self.blocked.set_result(None)
            self.blocked = None


class Naive(Link, asyncio.Protocol):
    """The straightforward style."""

    def __init__(self, on_message: Callable[[bytes], object] = nothing) -> None:
        super().__init__(on_message)
        self._buffer = bytearray()

    def send(self, payload: bytes) -> None:
        """Send one message with a write of its own."""
        self.transport.write(pack(len(payload)) + payload)

    def data_received(self, data: bytes) -> None:
        """Cut message after message off the front."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 4:
            stop = 4 + int.from_bytes(buffer[:4], "little")
            if len(buffer) < stop:
                break
            message = bytes(buffer[4:stop])
            del buffer[:stop]
            self.on_message(message)


class Batched(Link, asyncio.BufferedProtocol):
    """The hand-batched style."""

    def __init__(self, on_message: Callable[[bytes], object] = nothing) -> None:
        super().__init__(on_message)
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._bytes = 0
        self._flushing = False  # a flush comes by itself: at the end of this read or of this tick
        self._view = memoryview(b"")  # the read buffer, made by the first read
        self._rest = 0  # bytes of a message not yet whole, at the buffer's start

    def send(self, payload: bytes) -> None:
        """Send one message, with what else this tick brings."""
        size = len(payload)
        if size >= LARGE:
            self.flush()
            self.transport.write(pack(size))  # no copy: a loop that can gathers the two
            self.transport.write(payload)
            return
        self._parts.append(pack(size) + payload)
        self._bytes += size
        if self._bytes >= LARGE:
            self.flush()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what is waiting."""
        self._flushing = False
        if self._parts:
            self.transport.write(b"".join(self._parts))
            self._parts.clear()
            self._bytes = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        if not self._view:
            self._view = memoryview(bytearray(CHUNK))
        return self._view[self._rest :]

    def buffer_updated(self, count: int) -> None:
        """Hand out all whole messages, then write what they caused."""
        self._flushing = True
        view, end = self._view, self._rest + count
        if end >= 4 and unpack_from(view)[0] < SMALL:
            start = split(bytes(view[:end]), self.on_message)
        else:
            start = split_view(view[:end], self.on_message)
        self._rest = rest = end - start
        if rest and start:
            view[:rest] = view[start:end]
        if rest >= 4 and unpack_from(view)[0] > len(view) - 4:
            self._view = memoryview(bytearray(unpack_from(view)[0] + CHUNK))
            self._view[:rest] = view[:rest]
        self.flush()


class Relay(asyncio.BufferedProtocol):
    """Walks the prefixes of one stream and passes it on."""

    def __init__(self, onward: Link, on_messages: Callable[[int], None]) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._onward = onward
        self._on_messages = on_messages
        self._walk = HeaderWalk()
        self._view = memoryview(bytearray(LARGE))  # copies of it stay below malloc's mmap threshold
        self._rest = 0
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport
        onward = self._onward
        onward.pause_writing = transport.pause_reading  # type: ignore[attr-defined, method-assign]
        onward.resume_writing = transport.resume_reading  # type: ignore[attr-defined, method-assign]

    def connection_lost(self, error: Exception | None) -> None:
        """End: all that came has been passed on."""
        self.closed.set_result(None)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        return self._view[self._rest :]

    def buffer_updated(self, count: int) -> None:
        """Pass on what came, but for a header cut in two."""
        view, end = self._view, self._rest + count
        stop, messages = self._walk.walk(view, end)
        self._onward.transport.write(bytes(view[:stop]))
        self._rest = rest = end - stop
        view[:rest] = view[stop:end]
        self._on_messages(messages)
