"""What stands in for the plane, and for a stream, in the tests of the switch kernels."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Any

from netcore import wire
from netcore.stats import SWITCH_COUNTERS

#: The node under test, and its neighbours.
NODE = 0x01020304
NODE_A = 0x0A000001
NODE_B = 0x0B000001
CONN_A = 0x0001_0200
CONN_B = 0x0002_0200

LIMITS: dict[str, int] = {
    "max_frame_bytes": 1 << 20,
    "read_budget_bytes": 256 * 1024,
    "write_high_bytes": 1 << 20,
    "write_low_bytes": 256 * 1024,
    "control_queue_bytes": 256 * 1024,
    "local_queue_bytes": 1 << 20,
    "close_timeout_ms": 1_000,
}


class Clock:
    """Milliseconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_ms = 1_000

    def __call__(self) -> int:
        return self.now_ms


class RecordingSink:
    """Writes down what the switch tells; drains local messages only."""

    def __init__(self) -> None:
        self.commands: deque[object] = deque()
        self.events: list[tuple[Any, ...]] = []
        self.switch: Any = None
        self.on_control_raises: BaseException | None = None
        self.drained = 0

    def drain(self) -> None:
        self.drained += 1
        self.commands.clear()
        while self.switch.deliver_local():
            pass

    def on_call(self, conn: Any, message: Any) -> None:
        self.events.append(("call", None if conn is None else conn.conn_id, *fields(message)))

    def on_control(self, conn: Any, kind: int, body: bytes) -> None:
        self.events.append(("control", conn.conn_id, kind, body))
        if self.on_control_raises is not None:
            raise self.on_control_raises

    def on_writable(self, conn: Any) -> None:
        self.events.append(("writable", conn.conn_id))

    def on_closing(self, conn: Any) -> None:
        self.events.append(("closing", conn.conn_id))

    def on_closed(self, conn: Any, code: int, text: str) -> None:
        self.events.append(("closed", conn.conn_id, code, text))

    def on_hook_error(self, hook: object, exc: Exception) -> None:
        self.events.append(("hook error", type(exc).__name__, str(exc)))

    def on_message(self, agent: object, message: Any) -> None:
        """A hook for ``set_behavior`` and ``set_handler``."""
        self.events.append(("message", agent, *fields(message)))

    def of(self, name: str) -> list[tuple[Any, ...]]:
        """Return what was written down under a name, without it."""
        return [event[1:] for event in self.events if event[0] == name]

    def payloads(self) -> list[bytes]:
        """Return the payloads of the messages, in order."""
        return [event[2] for event in self.events if event[0] == "message"]


def fields(message: Any) -> tuple[object, ...]:
    """Return everything a message says, for comparing the twins."""
    return (
        message.payload, message.from_node, message.from_service, message.to_service,
        message.route, message.stream_id, message.meta, message.ttl, message.sender_verified,
    )  # fmt: skip


class Channel:
    """A stream in memory that takes ``room`` bytes."""

    def __init__(self, room: int = 1 << 40) -> None:
        self.room = room
        self.taken = bytearray()
        self.calls: list[str] = []
        self.error: OSError | None = None
        self.target: Any = None

    def write(self, data: bytes) -> int:
        if self.error is not None:
            raise self.error
        step = min(self.room, len(data))
        self.taken += data[:step]
        self.room -= step
        return step

    def shutdown(self) -> None:
        self.calls.append("shutdown")

    def close(self) -> None:
        self.calls.append("close")

    def set_target(self, target: Any) -> None:
        self.target = target


class Rig:
    """A switch of one backend with its loop, its table, its sink and a clock."""

    def __init__(self, kernels: ModuleType, router: object = None, **limits: Any) -> None:
        self.kernels = kernels
        self.clock = Clock()
        self.errors: list[tuple[str, BaseException]] = []
        self.loop = self._new_loop()
        self.table = kernels.RouteTable(NODE)
        self.sink = RecordingSink()
        self.switch = kernels.Switch(
            self.loop,
            self.table if router is None else router,
            self.sink,
            node_id=NODE,
            **{**LIMITS, **limits},
        )
        self.sink.switch = self.switch
        self._sockets: list[socket.socket] = []

    def _new_loop(self) -> Any:
        return self.kernels.Loop(clock=self.clock, on_error=self._on_error)

    def _on_error(self, where: str, error: BaseException) -> None:
        self.errors.append((where, error))

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give all fds back."""
        for conn in self.switch.connections():
            conn.abandon()
        self.loop.close()
        for sock in self._sockets:
            sock.close()

    def link(
        self,
        conn_id: int = CONN_A,
        node: int = NODE_A,
        *,
        start: bool = True,
        sndbuf: int | None = None,
        **options: Any,
    ) -> tuple[Any, socket.socket]:
        """Return a link over a socket pair, and the neighbour's end (non-blocking)."""
        ours, theirs = socket.socketpair()
        if sndbuf is not None:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        ours.setblocking(False)
        theirs.setblocking(False)
        self._sockets.append(theirs)
        conn = self.switch.add_connection(conn_id, node, sock=ours, **options)
        self._start(conn, node, start)
        return conn, theirs

    def channel(
        self,
        conn_id: int = CONN_A,
        node: int = NODE_A,
        *,
        room: int = 1 << 40,
        start: bool = True,
        **options: Any,
    ) -> tuple[Any, Channel]:
        """Return a link over a channel, and the channel."""
        channel = Channel(room)
        conn = self.switch.add_connection(conn_id, node, channel=channel, **options)
        self._start(conn, node, start)
        return conn, channel

    def _start(self, conn: Any, node: int, start: bool) -> None:
        self.table.set_next(3, node >> 24, conn.conn_id, node)
        if start:
            conn.start()
            self.turn()

    def turn(self, times: int = 1) -> None:
        """Run turns of the loop that do not wait."""
        for _ in range(times):
            self.loop.run_once(0)

    def counts(self) -> dict[str, int]:
        """Return the counters that are not 0, without the bytes."""
        counters: dict[str, int] = self.switch.counters()
        assert tuple(counters) == SWITCH_COUNTERS
        return {
            name: count
            for name, count in counters.items()
            if count and name not in ("bytes_sent", "bytes_received")
        }


def frame(kind: int, body: bytes) -> bytes:
    """Return a frame."""
    return (kind << 24 | len(body)).to_bytes(4, "big") + body


def direct(payload: bytes = b"", *, to_service: int = 2, stream_id: int = 0) -> bytes:
    """Return a frame with a direct message of service 1: ttl 64, no from."""
    header = bytes([0x00, 64, 1, to_service]) + stream_id.to_bytes(4, "big")
    return frame(wire.KIND_MESSAGE, header + payload)


def to_node(
    node: int, payload: bytes = b"", *, ttl: int = 64, from_node: int = NODE_A, kind: int = 0
) -> bytes:
    """Return a frame with a message of service 1 of ``from_node`` to service 2 of ``node``."""
    header = bytes([0x28, ttl, 1, 2, 0, 0, 0, 0])
    return frame(kind, header + from_node.to_bytes(4, "big") + node.to_bytes(4, "big") + payload)


def to_key(key: int, payload: bytes = b"") -> bytes:
    """Return a frame with a message of service 1 to service 2 of the node closest to a key."""
    return frame(wire.KIND_MESSAGE, bytes([0x18, 64, 1, 2, 0, 0, 0, 0]) + _word(key) + payload)


def to_service(service: int, payload: bytes = b"") -> bytes:
    """Return a frame with a message of service 1 to the nearest one offering a service."""
    return frame(wire.KIND_MESSAGE, bytes([0x10, 64, 1, service, 0, 0, 0, 0]) + _word(0) + payload)


def _word(number: int) -> bytes:
    return number.to_bytes(4, "big")


def close_frame(code: int = 0, text: str = "") -> bytes:
    """Return a CLOSE frame."""
    return frame(wire.KIND_CLOSE, code.to_bytes(2, "big") + text.encode())


def read_all(sock: socket.socket) -> bytes:
    """Return what is there to be read, without waiting."""
    parts: list[bytes] = []
    while True:
        try:
            data = sock.recv(1 << 20)
        except BlockingIOError:
            break
        if not data:
            break
        parts.append(data)
    return b"".join(parts)


def outcome(function: Callable[..., object], *args: object, **options: object) -> object:
    """Return the result of a call, or type and text of what it raised."""
    try:
        return function(*args, **options)
    except Exception as exc:
        return type(exc).__name__, str(exc)
