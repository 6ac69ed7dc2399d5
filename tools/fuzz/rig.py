"""A switch with everything around it, without a socket and without a clock."""

from __future__ import annotations

import errno
import random
from collections import deque
from types import ModuleType
from typing import Any

from netcore import wire
from netcore.route import RouteRule

NODE = 0x01020304  # the node whose switch it is
NEAR = 0x01020305  # at the other end of link 1: the same group
FAR = 0x0A000001  # at the other end of link 2: another zone
EPOCH = 0xFEDC_BA98_7654_3210

MAX_FRAME = 1 << 16
LIMITS = {
    "max_frame_bytes": MAX_FRAME,
    "read_budget_bytes": 64 * 1024,
    "write_high_bytes": 64 * 1024,
    "write_low_bytes": 16 * 1024,
    "control_queue_bytes": 4 * 1024,
    "local_queue_bytes": 64 * 1024,
    "close_timeout_ms": 500,
}

ECHO, BAD, ASKED, SILENT = 2, 3, 5, 7


class Wire:
    """A channel that takes what there is room for, and keeps it."""

    def __init__(self, room: int = 1 << 40) -> None:
        self.room = room
        self.taken = bytearray()
        self.target: Any = None
        self.is_broken = False
        self.calls: list[str] = []

    def set_target(self, target: Any) -> None:  # noqa: ANN401  # a connection of either backend
        """Note who hears what comes."""
        self.target = target

    def write(self, data: bytes) -> int:
        """Take some of it."""
        if self.is_broken:
            raise ConnectionResetError(errno.ECONNRESET, "reset")
        step = min(self.room, len(data))
        self.taken += data[:step]
        self.room -= step
        return step

    def shutdown(self) -> None:
        """End our direction."""
        self.calls.append("shutdown")

    def close(self) -> None:
        """End both."""
        self.calls.append("close")


class Dice(random.Random):
    """Randomness of which the call ids are known: 1, 2, 3, ..."""

    def __init__(self) -> None:
        super().__init__(1)
        self._next = 0

    def randbytes(self, n: int) -> bytes:
        """Return the next numbers, eight bytes each."""
        first = self._next + 1
        self._next += n // 8
        return b"".join(number.to_bytes(8, "big") for number in range(first, first + n // 8))


class Rig:
    """A switch, its table, its desks, two links, and a sink that writes down what it is told."""

    def __init__(self, kernels: ModuleType, *, room: int = 1 << 40, sealed: bool = False) -> None:
        self.kernels = kernels
        self.now_ms = 1_000
        self.events: list[tuple[Any, ...]] = []
        self.commands: deque[object] = deque()
        self.loop = kernels.Loop(
            clock=lambda: self.now_ms, wake=lambda: None, on_error=self._on_loop_error
        )
        self.table = kernels.RouteTable(NODE)
        self.switch = kernels.Switch(self.loop, self.table, self, node_id=NODE, **LIMITS)
        self.desk = kernels.CallDesk(self.loop, Dice(), self, 4, 4)
        self.desk.bind(self.switch)
        self.casts = kernels.BroadcastDesk(EPOCH, 4)
        self.casts.bind(self.switch)
        self.port = kernels.Port(self.switch, ECHO)
        self.kept: list[Any] = []
        for service, hook in ((ECHO, self._echo), (BAD, self._raise), (SILENT, self._note)):
            self.switch.set_behavior(service, hook, f"behavior {service}")
        self.desk.set_behavior(ASKED, self._answer, "asked")
        keys = bytes(32), bytes(range(32))
        self.near = self._link(1 << 16, NEAR, room, kernels.Records(*keys) if sealed else None)
        self.far = self._link(2 << 16, FAR, 1 << 40, None)
        self.table.set_next(0, NEAR & 0xFF, 1 << 16, NEAR)
        self.table.set_next(3, FAR >> 24, 2 << 16, FAR)
        self.table.set_service_next(9, 2 << 16, FAR)

    def _link(self, conn_id: int, node: int, room: int, records: object) -> tuple[Any, Wire]:
        stream = Wire(room)
        conn = self.switch.add_connection(conn_id, node, channel=stream, records=records)
        conn.start()
        return conn, stream

    def reopen(self) -> None:
        """Have the near link again, after it ended."""
        self.near = self._link(1 << 16, NEAR, 1 << 40, None)

    def turn(self, ms: int = 0) -> None:
        """Let time pass and do what is due."""
        self.now_ms += ms
        self.loop.run_once(0)

    def call(self) -> None:
        """Ask the near node something; the ids of calls are 1, 2, 3, ..."""
        self.desk.call(SILENT, RouteRule.node(NEAR), ECHO, b"question", self._done, 200)

    # -- the sink ----------------------------------------------------------------------------------

    def drain(self) -> None:
        """Deliver what the node says to itself."""
        self.commands.clear()
        while self.switch.deliver_local():
            pass

    def on_call(self, conn: Any, message: Any) -> None:  # noqa: ANN401
        """Hand a call to the desk."""
        self.desk.on_call(message)

    def on_control(self, conn: Any, kind: int, body: bytes) -> None:  # noqa: ANN401
        """Note a PING or PONG."""
        self.events.append(("control", conn.conn_id, kind, body))

    def on_writable(self, conn: Any) -> None:  # noqa: ANN401
        """Note it."""
        self.events.append(("writable", conn.conn_id))

    def on_closing(self, conn: Any) -> None:  # noqa: ANN401
        """Note it."""
        self.events.append(("closing", conn.conn_id))

    def on_closed(self, conn: Any, code: int, text: str) -> None:  # noqa: ANN401
        """Note it."""
        self.events.append(("closed", conn.conn_id, code, text))

    def on_hook_error(self, hook: object, exc: Exception) -> None:
        """Note what a hook raised."""
        self.events.append(("hook error", type(exc).__name__, str(exc)))

    on_error = on_hook_error

    def _on_loop_error(self, where: str, exc: BaseException) -> None:
        self.events.append(("loop error", where, type(exc).__name__, str(exc)))

    # -- user code ---------------------------------------------------------------------------------

    def _note(self, agent: str, message: Any) -> None:  # noqa: ANN401
        self.events.append(("message", agent, repr(message), message.payload))

    def _echo(self, agent: str, message: Any) -> None:  # noqa: ANN401
        self._note(agent, message)
        if message.from_node not in (None, NODE):
            self.port.reply(message, message.payload)
        else:
            self.port.send_local(message.payload[1:], to_service=SILENT)

    def _raise(self, agent: str, message: Any) -> None:  # noqa: ANN401
        self._note(agent, message)
        raise ValueError("out of a hook")

    def _answer(self, agent: str, request: Any, answer: Any) -> bool:  # noqa: ANN401
        self.events.append(("request", agent, repr(request)))
        what = request.payload[:1]
        if what == b"k":
            self.kept.append(answer)
        elif what == b"e":
            answer.error(1000, "no")
        elif what == b"r":
            raise ValueError("out of a call")
        elif what == b"n":
            return False
        elif what != b"d":
            answer.ok(request.payload)
        return True

    def _done(self, answer: Any) -> None:  # noqa: ANN401
        self.events.append(("done", repr(answer)))

    # -- what there is to see ----------------------------------------------------------------------

    def calls(self) -> tuple[int, ...]:
        """Return the counters of the desk."""
        desk = self.desk
        return (
            desk.received, desk.sent, desk.failed, desk.malformed, desk.late, desk.refused,
            desk.busy, desk.pending, desk.open,
        )  # fmt: skip

    def state(self) -> dict[str, object]:
        """Return everything that can be seen from outside."""
        found: dict[str, object] = {
            "events": self.events,
            "counters": self.switch.counters(),
            "calls": self.calls(),
            "links": [conn.conn_id for conn in self.switch.connections()],
        }
        for name, (conn, stream) in (("near", self.near), ("far", self.far)):
            found[name] = (
                bytes(stream.taken), stream.calls, conn.state, conn.frames_sent,
                conn.frames_received, conn.bytes_sent, conn.bytes_received, conn.queued_bytes,
                conn.control_queued_bytes, conn.sends_refused, conn.relay_queue_full,
            )  # fmt: skip
        return found


def error_of_link(rig: Rig) -> str:
    """Return why the near link ended for what came over it, "" if it did not."""
    for event in rig.events:
        if event[:2] == ("closed", 1 << 16) and event[2] == wire.CLOSE_PROTOCOL_ERROR:
            return str(event[3])
    return ""
