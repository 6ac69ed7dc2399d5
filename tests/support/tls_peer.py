"""The far end of a TLS stream, played by a bare socket, step by step."""

from __future__ import annotations

import contextlib
import socket
import ssl

from netcore import Node, wire

from .nodes import Nodes, frame, stranger

__all__ = ["TlsPeer", "hello", "served"]

READY = frame(wire.KIND_READY, b"")
AUTH = frame(wire.KIND_AUTH, b"")


def hello(
    node_id: int,
    *,
    level: int = wire.LEVEL_TLS,
    expected: int = wire.NO_NODE,
    epoch: int = 99,
    key_id: bytes = bytes(4),
) -> bytes:
    """Return a HELLO frame."""
    body = (
        b"NETC\x01\x01" + bytes([level]) + b"\x00\x00"
        + node_id.to_bytes(4, "big") + expected.to_bytes(4, "big") + epoch.to_bytes(8, "big")
        + b"\x00\x00\x00\x01" + b"\x00\x10\x00\x00" + b"\x5a" * 32 + key_id
    )  # fmt: skip
    return frame(wire.KIND_HELLO, body)


class TlsPeer:
    """One side of a TLS conversation with a node, on the test's own thread.

    Attributes:
        sock: The bare socket.
        ended: Whether the node has ended the stream, in whatever way.
        error: What ssl said last when it refused something.
    """

    def __init__(
        self,
        nodes: Nodes,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        outgoing: bool = True,
        chunk: int = 1 << 16,
    ) -> None:
        self.nodes = nodes
        self.sock = sock
        self.ended = False
        self.error: ssl.SSLError | None = None
        self._broken = False  # nothing can be sent any more
        self._chunk = chunk
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._in, self._out, server_side=not outgoing)
        nodes.strangers.append(sock)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @classmethod
    def dial(
        cls, nodes: Nodes, node: Node, context: ssl.SSLContext, *, chunk: int = 1 << 16
    ) -> TlsPeer:
        """Return a stream to a node."""
        return cls(nodes, stranger(node), context, chunk=chunk)

    # -- steps -------------------------------------------------------------------------------------

    def shake_hands(self) -> TlsPeer:
        """Do the TLS handshake, or set ``error``, or ``ended``."""
        self.nodes.until(lambda: self._step() or self.error or self.ended)
        return self

    def link(self, node_id: int) -> TlsPeer:
        """Do both handshakes as the one that dialled."""
        self.shake_hands()
        self.send(hello(node_id) + AUTH)
        assert self.receive(len(hello(node_id) + AUTH + READY)).endswith(AUTH + READY)
        return self

    def send(self, data: bytes) -> None:
        """Seal and send."""
        self._ssl.write(data)
        self.flush()

    def seal(self, data: bytes) -> bytes:
        """Return what would be sent."""
        self._ssl.write(data)
        return self._out.read()

    def send_raw(self, data: bytes) -> None:
        """Send bytes that are what they are; what the node does not take at once waits for it."""
        for start in range(0, len(data), self._chunk):
            piece = data[start : start + self._chunk]
            while piece and not self._broken:
                piece = piece[self._send_some(piece) :]
            if self._chunk < 1 << 16:
                self.nodes.turn()

    def _send_some(self, piece: bytes) -> int:
        try:
            return self.sock.send(piece)
        except BlockingIOError:
            self.nodes.turn()
        except OSError:
            self._broken = self.ended = True
        return 0

    def flush(self) -> None:
        """Send what TLS has to say."""
        self.send_raw(self._out.read())

    def say_end(self) -> None:
        """Send close_notify."""
        with contextlib.suppress(ssl.SSLError):
            self._ssl.unwrap()
        self.flush()

    def receive(self, count: int) -> bytes:
        """Return so many bytes of plain text, fewer if the stream ends before."""
        found = b""

        def more() -> bool:
            nonlocal found
            found += self.read(count - len(found))
            return len(found) == count or self.ended

        self.nodes.until(more)
        return found

    def await_end(self) -> bytes:
        """Wait until the node has ended the stream; return what it said before."""
        return self.receive(1 << 24)

    def read(self, count: int) -> bytes:
        """Return what is there of plain text, at most so many bytes."""
        self._fill()
        found = b""
        while len(found) < count:
            try:
                data = self._ssl.read(count - len(found))
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as exc:
                self.error, self.ended = exc, True
                break
            if not data:
                self.ended = True
                break
            found += data
        return found

    def close(self) -> None:
        self.sock.close()

    # -- inside ------------------------------------------------------------------------------------

    def _step(self) -> bool:
        self._fill()
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self.flush()
            return False
        except ssl.SSLError as exc:
            self.error = exc
            self.flush()
            return False
        self.flush()
        return True

    def _fill(self) -> None:
        try:
            data = self.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()
            self.ended = True


def served(
    nodes: Nodes, node: Node, context: ssl.SSLContext, *, node_id: int | None = None
) -> TlsPeer:
    """Let a node dial; return the side that was dialled."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        prefix = "" if node_id is None else f"{node_id}@"
        node.connect(f"{prefix}/ip4/127.0.0.1/tcp/{server.getsockname()[1]}")
        server.setblocking(False)
        accepted: list[socket.socket] = []

        def accept() -> bool:
            try:
                accepted.append(server.accept()[0])
            except BlockingIOError:
                return False
            return True

        nodes.until(accept)
    return TlsPeer(nodes, accepted[0], context, outgoing=False)
