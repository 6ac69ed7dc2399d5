"""SocketChannel: a connected socket behind the interface of a channel.

For what lies between a link and its socket. A link without anything in between owns its descriptor
itself and is faster.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from .._typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from .._backend import kernels
    from .base import ChannelTarget

__all__ = ["SocketChannel"]

READ: Final = 1
WRITE: Final = 2
READ_BYTES: Final = 64 * 1024  # at a time: then the other links get their turn


@final
class SocketChannel:
    """One socket, watched by the loop while somebody wants to hear of it."""

    __slots__ = ("_ended", "_eof", "_loop", "_on_close", "_read_bytes", "_sock", "_source",
                 "_target", "_waits")  # fmt: skip

    def __init__(
        self,
        loop: kernels.Loop,
        sock: socket.socket,
        read_budget_bytes: int,
        on_close: Callable[[socket.socket], None],
    ) -> None:
        """Take over a socket.

        Args:
            loop: The node's.
            sock: Connected, non-blocking, watched by nobody.
            read_budget_bytes: What may come per turn.
            on_close: Called with the socket when it is about to be closed.
        """
        self._loop = loop
        self._sock = sock
        self._read_bytes = min(READ_BYTES, read_budget_bytes)
        self._on_close: Callable[[socket.socket], None] | None = on_close
        self._target: ChannelTarget | None = None
        self._source: kernels.Source | None = None
        self._waits = False  # for room to send
        self._eof = False
        self._ended = False  # our direction

    def set_target(self, target: ChannelTarget | None) -> None:
        """Tell this object what arrives; with None it waits in the system's buffer."""
        if self._on_close is None:
            return
        self._target = target
        self._watch()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take some of ``data`` and return how much; ``channel_writable`` tells when to go on.

        Raises:
            OSError: The stream is broken.
        """
        try:
            taken = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            taken = 0
        waits = taken < len(data)
        if waits != self._waits:
            self._waits = waits
            self._watch()
        return taken

    def shutdown(self) -> None:
        """End our direction after what was written."""
        if self._ended or self._on_close is None:
            return
        self._ended = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:  # the other side was faster; its end of stream tells
            return

    def close(self) -> None:
        """End both directions; what was written still arrives. Idempotent."""
        on_close, self._on_close = self._on_close, None
        if on_close is None:
            return
        self._target = None
        if self._source is not None:
            self._loop.remove(self._source)
            self._source = None  # it refers back to us
        on_close(self._sock)
        self._sock.close()

    def _watch(self) -> None:
        if self._on_close is None:
            return
        wanted = READ if self._target is not None and not self._eof else 0
        wanted |= WRITE if self._waits else 0
        if self._source is not None:
            self._loop.modify(self._source, wanted)
        elif wanted:
            self._source = self._loop.make_source(self._on_ready)
            self._loop.add(self._source, self._sock.fileno(), wanted)

    def _on_ready(self, events: int) -> None:
        if events & WRITE and self._waits:
            self._waits = False
            self._watch()
            if self._target is not None:
                self._target.channel_writable()
        if events & READ and self._target is not None and not self._eof:
            self._receive(self._target)

    def _receive(self, target: ChannelTarget) -> None:
        try:
            data = self._sock.recv(self._read_bytes)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            target.receive_data(data)
        else:
            self._eof = True
            self._watch()
            target.receive_eof()
