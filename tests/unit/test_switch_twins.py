"""The two switches side by side: random operations, the same answers, the same bytes."""

from __future__ import annotations

import enum
import random
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from netcore import _backend, wire
from netcore._backend import kernels
from netcore.errors import LocalError
from netcore.route import RouteAction, RouteRule
from support.sinks import NODE, Channel, Rig, close_frame, fields, frame

SEEDS = 50
CROWDED_SEEDS = 8  # for each policy
OPERATIONS = 2_000  # per seed
MAX_FRAME = 1 << 17
KEY = bytes(range(32))
EPOCH = 0xFEDC_BA98_7654_3210

NODES = (0x0A000001, NODE ^ 8, 0x0B000001, 0x0C000001, 0x0C000002, 0x0D020304)
SERVICES = (2, 3, 7, 239, 240, 255)
SIZES = (
    0, 1, 7, 44, 44, 44, 200, 1000, 4076, 4092, 4096, 16367, 16383, 16384, 16385,
    32747, 32748, 32768, 32769, 65515, 65516, 65532, 65536, 65537, 70_000, MAX_FRAME - 16,
    MAX_FRAME,
)  # fmt: skip
LIMITS = {
    "max_frame_bytes": MAX_FRAME,
    "read_budget_bytes": 8_192,
    "write_high_bytes": 200_000,
    "write_low_bytes": 50_000,
    "control_queue_bytes": 4_096,
    "local_queue_bytes": 50_000,
    "close_timeout_ms": 500,
}


class Number(enum.IntEnum):
    """An int that is not exactly an int."""

    SEVEN = 7


class Router:
    """Routes by a dict; may raise, and may answer nonsense."""

    def __init__(self) -> None:
        self.answers: dict[int, object] = {}

    def path_to(self, rule: RouteRule, service_id: int) -> object:
        answer = self.answers.get(rule.argument, RouteAction.LOCAL)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Twin:
    """One backend with everything that the operations work on."""

    def __init__(self, kernels: ModuleType, *, injected: bool, **limits: Any) -> None:
        self.router = Router() if injected else None
        self.rig = Rig(kernels, self.router, **{**LIMITS, **limits})
        kernels.BroadcastDesk(EPOCH, 16).bind(self.rig.switch)
        self.channels: dict[int, Channel] = {}
        self.ports: dict[int, Any] = {}
        self.conns: dict[int, Any] = {}  # also those that have ended
        for service in SERVICES:
            self.ports[service] = kernels.Port(self.rig.switch, service)
        self.depth = 0

    def hook(self, agent: object, message: Any) -> None:
        """Do what the first byte of the payload says."""
        self.rig.sink.events.append(("message", agent, *fields(message)))
        action = message.payload[:1]
        if action == b"R":
            self.ports[7].reply(message, b"answer")
        elif action == b"L":
            self.ports[3].send_local(b"to myself")
        elif action == b"E":
            raise ValueError("out of a hook")
        elif action == b"K":
            raise KeyboardInterrupt
        elif action == b"C" and message.from_node is not None:
            for conn in self.rig.switch.connections():
                if conn.remote_node_id == message.from_node:
                    conn.close(5, "by a hook")
        elif action == b"X":
            self.rig.sink.commands.append("anything")

    def open_link(self, conn_id: int, node: int, room: int, limit: int, options: Any) -> None:
        options = dict(options)
        if options.pop("sealed", False):
            options["records"] = self.rig.kernels.Records(KEY, KEY)
        conn, channel = self.rig.channel(
            conn_id, node, room=room, start=False, max_frame_bytes=limit, **options
        )
        self.channels[conn_id] = channel
        self.conns[conn_id] = conn
        self.ports[conn_id] = type(self.ports[2])(self.rig.switch, 7, conn)
        if self.router is not None:
            self.router.answers[node] = RouteAction.next_hop(conn_id, node)
        conn.start()

    def call(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> object:
        """Carry out one operation; return what it returned or raised."""
        try:
            return getattr(self, "do_" + name)(*args, **options)
        except Exception as exc:
            return type(exc).__name__, str(exc), vars(exc)
        except KeyboardInterrupt:
            return "KeyboardInterrupt"

    def do_open(self, *args: Any) -> None:
        self.open_link(*args)

    def do_feed(self, conn_id: int, data: bytes) -> None:
        self.conns[conn_id].receive_data(data)

    def do_eof(self, conn_id: int) -> None:
        self.conns[conn_id].receive_eof()

    def do_room(self, conn_id: int, room: int) -> None:
        self.channels[conn_id].room += room
        self.conns[conn_id].channel_writable()

    def do_break(self, conn_id: int) -> None:
        self.channels[conn_id].error = ConnectionResetError(104, "reset")
        self.conns[conn_id].channel_writable()

    def do_turn(self, ms: int) -> int:
        self.rig.clock.now_ms += ms
        served: int = self.rig.loop.run_once(0)
        return served

    def do_port(self, port: int, method: str, *args: Any, **options: Any) -> object:
        return getattr(self.ports[port], method)(*args, **options)

    def do_switch(self, method: str, *args: Any, **options: Any) -> object:
        return getattr(self.rig.switch, method)(*args, **options)

    def do_conn(self, conn_id: int, method: str, *args: Any) -> object:
        return getattr(self.conns[conn_id], method)(*args)

    def do_send_on(self, conn_id: int | None, *args: Any, **options: Any) -> object:
        conn = None if conn_id is None else self.conns[conn_id]
        return self.rig.switch.send_on(conn, *args, **options)

    def do_behavior(self, service: int, on: bool) -> None:
        self.rig.switch.set_behavior(service, self.hook if on else None, f"behavior {service}")

    def do_handler(self, conn_id: int, service: int, on: bool) -> None:
        conn = self.conns[conn_id]
        conn.set_handler(service, self.hook if on else None, f"handler {conn_id} {service}")

    def do_table(self, method: str, *args: Any) -> object:
        return getattr(self.rig.table, method)(*args)

    def do_router(self, argument: int, answer: object) -> None:
        assert self.router is not None
        self.router.answers[argument] = answer

    def do_control_raises(self, error: Exception | None) -> None:
        self.rig.sink.on_control_raises = error

    def state(self) -> dict[str, object]:
        """Return everything that can be seen from outside."""
        found: dict[str, object] = {
            "events": list(self.rig.sink.events),
            "counters": self.rig.switch.counters(),
            "pending": self.rig.switch.local_pending,
            "queued": self.rig.switch.queued_bytes,
            "links": [conn.conn_id for conn in self.rig.switch.connections()],
            "errors": [(where, repr(error)) for where, error in self.rig.errors],
        }
        for conn_id, conn in self.conns.items():
            channel = self.channels[conn_id]
            found[f"link {conn_id}"] = (
                bytes(channel.taken), list(channel.calls), channel.room,
                conn.conn_id, conn.remote_node_id, conn.max_frame_bytes, conn.state,
                conn.last_received_ms, conn.last_sent_ms, conn.frames_sent, conn.frames_received,
                conn.bytes_sent, conn.bytes_received, conn.relay_queue_full, conn.sends_refused,
                conn.sends_dropped, conn.queued_bytes, conn.control_queued_bytes, conn.owner,
            )  # fmt: skip
        return found

    def forget(self) -> None:
        """Drop what was compared, and links that have ended."""
        self.rig.sink.events.clear()
        self.rig.errors.clear()
        for channel in self.channels.values():
            channel.taken.clear()
        for conn_id in [c for c, conn in self.conns.items() if conn.state == 2]:
            del self.conns[conn_id], self.channels[conn_id], self.ports[conn_id]


Operation = tuple[str, tuple[Any, ...], dict[str, Any]]


class Script:
    """Makes up operations; knows as much as a neighbour knows."""

    def __init__(self, seed: int, *, injected: bool, crowded: bool = False) -> None:
        self.rnd = random.Random(seed)
        self.injected = injected
        self.crowded = crowded  # large messages, and links that take little
        self.live: list[int] = []
        self.sealers: dict[int, kernels.Records] = {}
        self.streams: dict[int, bytearray] = {}  # per link: what has not been fed yet
        self.limits: dict[int, int] = {}
        self.next_id = 1

    def operations(self, count: int) -> list[Callable[[], Operation]]:
        """Return functions that make the operations one after another."""
        weights = {
            self.feed: 40, self.send: 25, self.send_on: 5, self.originate: 6, self.turn: 12,
            self.room: 8, self.control: 4, self.route: 3, self.hooks: 4, self.look: 2,
            self.end: 1, self.open: 2,
        }  # fmt: skip
        if self.crowded:
            weights |= {self.feed: 20, self.send: 40, self.room: 6, self.open: 6}
        return self.rnd.choices(list(weights), list(weights.values()), k=count)

    # -- links -------------------------------------------------------------------------------------

    def open(self) -> Operation:
        rnd = self.rnd
        if len(self.live) >= 5:
            return self.turn()
        conn_id = self.next_id << 16 | 0x100 | rnd.getrandbits(1)
        self.next_id += rnd.choice((1, 1, 1, 1024))  # collides in a map of 1024 entries
        self.live.append(conn_id)
        self.streams[conn_id] = bytearray()
        options: dict[str, Any] = {"owner": f"owner {conn_id}"}
        if rnd.random() < 0.2:
            options["sealed"] = True
            self.sealers[conn_id] = kernels.Records(KEY, KEY)
        if rnd.random() < 0.3:
            options["unsent"] = rnd.randbytes(rnd.choice((1, 46, 512)))
        limit = self.limits[conn_id] = rnd.choice((MAX_FRAME, MAX_FRAME, 4_096, 70_000))
        if rnd.random() < 0.3:
            options["rest"] = b"".join(self.frame(limit) for _ in range(rnd.randrange(4)))
        room = rnd.choice((0, 10, 5_000, 50_000 if self.crowded else 1 << 30))
        return "open", (conn_id, rnd.choice(NODES), room, limit, options), {}

    def link(self) -> int | None:
        return self.rnd.choice(self.live) if self.live else None

    def room(self) -> Operation:
        conn_id = self.link()
        if conn_id is None:
            return self.open()
        most = 30_000 if self.crowded else 1 << 20
        return "room", (conn_id, self.rnd.choice((1, 5, 20, 1_000, 100_000, most))), {}

    def end(self) -> Operation:
        conn_id = self.link()
        if conn_id is None or self.rnd.random() < 0.5:
            return self.open()
        choice = self.rnd.random()
        if choice < 0.4:
            text = self.rnd.choice(("", "bye", "é" * 150))
            return "conn", (conn_id, "close", self.rnd.choice((0, 1, 2)), text), {}
        if choice < 0.6:
            return "conn", (conn_id, "fail", self.rnd.choice((5, wire.CLOSE_LOST)), "dead"), {}
        if choice < 0.9:
            return "eof", (conn_id,), {}
        return "break", (conn_id,), {}

    # -- what arrives ------------------------------------------------------------------------------

    def feed(self) -> Operation:
        conn_id = self.link()
        if conn_id is None:
            return self.open()
        rnd = self.rnd
        stream = self.streams[conn_id]
        if len(stream) < 20_000:
            data = b"".join(self.frame(self.limits[conn_id]) for _ in range(rnd.randrange(12)))
            stream += self.sealers[conn_id].seal(data) if conn_id in self.sealers else data
        n = rnd.choice((1, 3, 19, 20, 21, 100, 1_000, 20_000, 100_000, len(stream)))
        data = bytes(stream[:n])
        del stream[:n]
        return "feed", (conn_id, data), {}

    def frame(self, limit: int) -> bytes:
        """Return a frame, or several equal ones; rarely one that ends the link."""
        rnd = self.rnd
        choice = rnd.random()
        if choice > 0.995:
            return self.bad_frame()
        if choice > 0.992:
            return close_frame(rnd.choice((0, 1)), rnd.choice(("", "going")))
        if choice > 0.95:
            return frame(rnd.choice((0x10, 0x11)), rnd.randbytes(rnd.choice((0, 8, 11))))
        if choice > 0.92:
            body = rnd.randbytes(rnd.choice((0, 9, 70_000)))
            return frame(rnd.choice((0x80, 0xFF)), body[:limit])
        if choice > 0.87:
            return self.broadcast(limit)
        kind = wire.KIND_CALL if rnd.random() < 0.1 else wire.KIND_MESSAGE
        one = frame(kind, (self.header() + self.payload())[:limit])
        return one * rnd.choice((1, 1, 1, 3, 20)) if len(one) < 1_000 else one

    def broadcast(self, limit: int) -> bytes:
        """Return a broadcast, several in a row, or the same one twice."""
        rnd = self.rnd
        origin = rnd.choice((NODE ^ 1, NODE ^ 2, NODE ^ 0x300, NODE ^ 0x40000, NODE, *NODES))
        level = rnd.randrange(4) if origin ^ NODE < 4 else 0
        ttl = rnd.choice((0, 1, 2, 64, 64))
        head = bytes([0x30 | rnd.randrange(4), ttl, rnd.choice((1, 240)), rnd.choice(SERVICES)])
        head += bytes(4) + origin.to_bytes(4, "big") + bytes([level, 0, 0, 0])
        head += rnd.choice((1, 2)).to_bytes(8, "big")
        first = rnd.choice((0xFFFF_FFF0, 0, 10, 3_000)) + rnd.randrange(30)
        found = b""
        for sequence in range(first, first + rnd.choice((1, 1, 5))):
            word = (sequence & wire.MAX_U32).to_bytes(4, "big")
            found += frame(wire.KIND_BROADCAST, (head + word + self.payload())[:limit])
        return found

    def bad_broadcast(self) -> bytes:
        rnd = self.rnd
        flags = rnd.choice((0x30, 0x30, 0x30, 0x10, 0x28, 0x34, 0x70))
        origin = rnd.choice((NODE ^ 1, 0x0A000001, wire.NO_NODE)).to_bytes(4, "big")
        argument = bytes([rnd.choice((0, 1, 3, 4)), 0, 0, rnd.choice((0, 0, 1))])
        body = bytes([flags, 64, 1, 2, 0, 0, 0, 0]) + origin + argument + bytes(12)
        return frame(wire.KIND_BROADCAST, body[: rnd.choice((7, 15, 16, 27, 28, 28, 28))])

    def bad_frame(self) -> bytes:
        rnd = self.rnd
        return rnd.choice((
            frame(rnd.choice((0x03, 0x08, 0x13, 0x7F)), rnd.randbytes(rnd.choice((0, 50_000)))),
            frame(0x12, rnd.randbytes(rnd.choice((0, 1, 203, 40_000)))),
            frame(0, rnd.randbytes(rnd.randrange(16))),
            frame(0, bytes([rnd.choice((0x40, 0x80, 0xC0, 0x04))]) + self.payload()),
            frame(0, b"\x38" + bytes(10)),
            (MAX_FRAME + 1).to_bytes(4, "big"),
            rnd.randbytes(30),
            self.bad_broadcast(),
            self.bad_broadcast(),
        ))  # fmt: skip

    def header(self) -> bytes:
        rnd = self.rnd
        kind = rnd.choice((0, 0, 1, 1, 1, 1, 2, 3))
        flags = kind << 3 | rnd.randrange(4)
        tail = b""
        if rnd.random() < 0.7:
            flags |= 0x20
            tail = self.node().to_bytes(4, "big")
        if kind:
            tail += self.node().to_bytes(4, "big")
        ttl = rnd.choice((0, 1, 2, 64, 64, 64, 255))
        services = bytes([rnd.choice((0, 1, 240)), rnd.choice(SERVICES)])
        return bytes([flags, ttl]) + services + rnd.choice((bytes(4), rnd.randbytes(4))) + tail

    def node(self) -> int:
        rnd = self.rnd
        return rnd.choice((NODE, *NODES, *NODES, 0x0E000000, rnd.getrandbits(32), wire.NO_NODE))

    def payload(self) -> bytes:
        rnd = self.rnd
        start = b""
        if rnd.random() < 0.3:
            start = rnd.choice((b"R", b"R", b"R", b"L", b"L", b"X", b"E", b"E", b"K"))
        elif rnd.random() < 0.005:
            start = b"C"
        is_any = rnd.random() < (0.7 if self.crowded else 0.2)
        size = rnd.choice(SIZES) if is_any else rnd.choice((0, 1, 44, 44, 200))
        return start + bytes(max(0, size - len(start)))

    # -- what is sent ------------------------------------------------------------------------------

    def send(self) -> Operation:
        rnd = self.rnd
        method = rnd.choice((
            "send", "send_to_node", "send_to_node", "send_to_key", "send_to_service", "send_local",
            "send_to_conn", "send_on_link", "broadcast",
        ))  # fmt: skip
        args: tuple[Any, ...] = (self.sendable(),)
        if method == "send":
            kinds = (RouteRule.direct(), RouteRule.service(9), RouteRule.closest("name"),
                     RouteRule.services(rnd.randrange(4)))  # fmt: skip
            args = (rnd.choice((RouteRule.node(rnd.choice(NODES)), *kinds)), *args)
        elif method == "send_to_node":
            args = (self.spoilt(self.node() & ~1), *args)
        elif method == "send_to_key":
            args = (rnd.choice(("name", b"name", self.spoilt(self.node()))), *args)
        elif method == "send_to_service":
            args = (self.spoilt(rnd.choice(SERVICES)), *args)
        elif method == "send_to_conn":
            args = (rnd.choice((self.link(), 1, "x", None, self.link())), *args)
        port = (self.link() if rnd.random() < 0.5 else None) or rnd.choice(SERVICES)
        options = self.options(to_service=method != "send_to_service")
        if method == "broadcast":
            options["level"] = self.spoilt(rnd.choice((0, 0, 3)))
        return "port", (port, method, *args), options

    def sendable(self) -> object:
        rnd = self.rnd
        data = self.payload()
        if rnd.random() < 0.9:
            return data
        return rnd.choice((
            bytearray(data), memoryview(data), memoryview(data)[::2], "text", None, 5, [1],
        ))  # fmt: skip

    def spoilt(self, value: int) -> object:
        """Return the value, or now and then something that cannot be sent."""
        rnd = self.rnd
        if rnd.random() < 0.95:
            return value
        return rnd.choice((
            -1, 256, 4, wire.NO_NODE, 1 << 32, 1 << 70, True, False, None, 1.5, "7", Number.SEVEN,
        ))  # fmt: skip

    def options(self, *, to_service: bool = True) -> dict[str, object]:
        rnd = self.rnd
        found: dict[str, object] = {}
        if to_service and rnd.random() < 0.5:
            found["to_service"] = self.spoilt(rnd.choice(SERVICES))
        if rnd.random() < 0.3:
            found["stream_id"] = self.spoilt(rnd.getrandbits(32))
        if rnd.random() < 0.2:
            found["meta"] = self.spoilt(rnd.randrange(4))
        if rnd.random() < 0.2:
            found["ttl"] = rnd.choice((self.spoilt(rnd.randrange(256)), 0))
        return found

    def send_on(self) -> Operation:
        rnd = self.rnd
        services = (self.spoilt(1), self.spoilt(rnd.choice(SERVICES)))
        conn_id = rnd.choice((self.link(), self.link(), None))
        return "send_on", (conn_id, self.sendable(), *services), self.options(to_service=False)

    def originate(self) -> Operation:
        rnd = self.rnd
        args = (
            "originate", rnd.choice((0, 1)), self.spoilt(rnd.randrange(5)),
            self.spoilt(self.node()), self.sendable(), self.spoilt(2),
            self.spoilt(rnd.choice(SERVICES)),
        )  # fmt: skip
        return "switch", args, self.options(to_service=False)

    def control(self) -> Operation:
        rnd = self.rnd
        conn_id = self.link()
        if conn_id is None:
            return self.open()
        size = rnd.choice((0, 8, 11, 11, 2_000, 20_000))
        return "conn", (conn_id, "send_control", rnd.choice((0x10, 0x11, 0x80)), bytes(size)), {}

    # -- the rest ----------------------------------------------------------------------------------

    def turn(self) -> Operation:
        return "turn", (self.rnd.choice((0, 0, 0, 0, 10, 10, 600)),), {}

    def route(self) -> Operation:
        rnd = self.rnd
        if self.injected and rnd.random() < 0.7:
            hop, node = self.link() or 1, rnd.choice(NODES)
            answer = rnd.choice((
                RouteAction.REJECT, RouteAction.LOCAL, RouteAction.next_hop(hop, node),
                RouteAction.next_hop(hop, node), RouteAction.next_hop(1, node), KeyError("x"),
                None, RouteAction(7), RouteAction(2, -1, -1),
            ))  # fmt: skip
            return "router", (self.node(), answer), {}
        if rnd.random() < 0.3:
            service, on = rnd.choice(SERVICES), rnd.random() < 0.5
            return "table", ("set_service_local", service, on), {}
        conn_id, alternate = self.link(), self.link()
        if conn_id is None or conn_id == alternate:
            return "table", ("clear_next", 3, rnd.choice(NODES) >> 24), {}
        best = (conn_id, rnd.choice(NODES), alternate, rnd.choice(NODES))
        if rnd.random() < 0.3:
            return "table", ("set_service_next", rnd.choice(SERVICES), *best), {}
        return "table", ("set_next", 3, best[1] >> 24, *best), {}

    def hooks(self) -> Operation:
        rnd = self.rnd
        on = rnd.random() < 0.75
        conn_id = self.link()
        if rnd.random() < 0.1:
            error = rnd.choice((None, ValueError("in on_control"), LocalError("x")))
            return "control_raises", (error,), {}
        if conn_id is None or rnd.random() < 0.5:
            return "behavior", (rnd.choice(SERVICES), on), {}
        return "handler", (conn_id, rnd.choice(SERVICES), on), {}

    def look(self) -> Operation:
        name = self.rnd.choice(("counters", "drop_local", "deliver_local"))
        return "switch", (name,), {}


@pytest.fixture(scope="module")
def twins() -> tuple[ModuleType, ModuleType]:
    pytest.importorskip("netcore._fast.switch", exc_type=ModuleNotFoundError)
    return _backend.load("pure"), _backend.load("fast")


def test_operations_of_a_run_are_enough() -> None:
    assert SEEDS * OPERATIONS >= 100_000


@pytest.mark.parametrize("seed", range(SEEDS))
def test_twins_agree_on_random_operations(twins: tuple[ModuleType, ModuleType], seed: int) -> None:
    injected = seed % 5 == 4
    play(twins, Script(seed, injected=injected), injected=injected)


#: What must happen at least once in the seeds of each policy, besides links that are shed.
LOSSES: dict[str, str] = {
    "error": "sends_refused",
    "drop_newest": "dropped_send_queue_full",
    "drop_oldest": "dropped_send_queue_full",
    "close": "queue_overflows",
}


@pytest.mark.parametrize("policy", LOSSES)
def test_twins_agree_when_queues_are_full(
    twins: tuple[ModuleType, ModuleType], policy: str
) -> None:
    totals: Counter[str] = Counter()
    for seed in range(CROWDED_SEEDS):
        bound = (0, 250_000, 400_000, 400_000)[seed % 4]
        script = Script(10_000 + seed, injected=False, crowded=True)
        counters = play(
            twins, script, injected=False, send_queue_policy=policy, max_queued_bytes=bound,
            write_high_bytes=(200_000, 80_000)[seed % 2],
        )  # fmt: skip
        totals.update(counters)
    assert totals[LOSSES[policy]] > 50
    assert totals["links_shed"] > 5
    assert totals["dropped_link_closed"] > 100
    assert totals["broadcast_copies_dropped"] > 50
    assert (totals["dropped_send_queue_full"] > 0) == policy.startswith("drop")


def play(
    twins: tuple[ModuleType, ModuleType], script: Script, *, injected: bool, **limits: Any
) -> dict[str, int]:
    """Let both twins do what the script says; return the counters they agree on."""
    pure, fast = (Twin(kernels, injected=injected, **limits) for kernels in twins)
    for step, make in enumerate(script.operations(OPERATIONS)):
        name, args, options = make()
        ours = pure.call(name, args, options)
        theirs = fast.call(name, args, options)
        assert ours == theirs, (step, name, args, options)
        if step % 10 == 9 or step == OPERATIONS - 1:
            compare(pure, fast, step)
            pure.forget()
            fast.forget()
            script.live = [conn_id for conn_id in script.live if conn_id in pure.conns]
    counters: dict[str, int] = pure.rig.switch.counters()
    pure.rig.close()
    fast.rig.close()
    return counters


def compare(pure: Twin, fast: Twin, step: int) -> None:
    ours, theirs = pure.state(), fast.state()
    switch = pure.rig.switch  # the sum that is kept up to date, against one that is made anew
    assert switch.queued_bytes == sum(conn._held_bytes for conn in switch.connections()), step
    bound = switch.max_queued_bytes
    assert not bound or switch.queued_bytes <= bound, step
    different = [name for name in ours if ours[name] != theirs.get(name)]
    assert not different, (step, different, [(ours[n], theirs.get(n)) for n in different])
