"""Target: a whole node in virtual time, whose peers say valid things in an order that nobody may.

An input is a script, one byte for what happens and a few for how. It runs on a node that has the
past of its session: up to eight streams in any state of their life, dials under way, calls without
an answer. At the end of a session all streams end and time passes, and then nothing may be left.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import ClassVar

from netcore import (
    BehaviorAgent,
    CallAnswer,
    ConnectionHandler,
    ConnectionSender,
    LocalError,
    Message,
    NetworkBehavior,
    Node,
    OutgoingConnectionError,
    RouteRule,
    RpcAnswer,
    RpcRequest,
    wire,
)
from netcore.address import Endpoint
from netcore.handshake import Identity, Initiator, Responder
from netcore.hello import encode_reject
from netcore.keys import KeyRing
from netcore.route import Metric
from netcore.services import sync_wire
from netcore.transport import Listener, Negotiation, Stream, Transport
from netcore.transport.base import Cancel
from netcore.transport.memory import MemoryStream

from .decoders import frame_bytes, header_bytes
from .rig import Wire
from .target import Reader, Target, require
from .traffic import broadcast_bytes, error_bytes, ok_bytes, request_bytes

LOCAL = 0x01020304
#: Who may be at the other end; the last one claims to be the node itself.
PEERS = (0x01020305, 0x01020399, 0x01030000, 0x0A000001, 0x0A000002, LOCAL)
SERVICES = (10, 11, 20, 240, 255)
MOST_STREAMS = 8
TIMES_MS = (0, 1, 10, 50, 200, 300, 1_100, 6_000)
WHERE = Endpoint("memory", "there")


class Talker(NetworkBehavior):
    """Answers, calls and closes, as the first byte of what it is told says."""

    def __init__(self, service_id: int) -> None:
        self.service_id = service_id
        self.up: dict[int, ConnectionSender] = {}
        self.ended: list[int] = []
        self.dials: dict[int, int] = {}  # conn id -> how often it has ended
        self.calls = 0

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        # Short ones only: what it makes of a long one of "B"s takes long, by its own fault.
        what = message.payload[:1] if len(message.payload) < 16 else b""
        try:
            if what == b"R":
                agent.reply(message, message.payload[1:])  # less each time: it may be our own
            elif what == b"C":
                self.call(agent, message.payload)
            elif what == b"X" and message.from_node is not None:
                agent.close_node(message.from_node)
            elif what == b"L":
                agent.send_local(message.payload[1:])
            elif what == b"B":
                agent.broadcast(message.payload[1:])
        except LocalError:
            pass  # no route, a full queue

    def call(self, agent: BehaviorAgent, payload: bytes) -> None:
        """Call the first peer; it is counted until its end."""
        agent.call(RouteRule.node(PEERS[0]), 20, payload, self._done, timeout_ms=500)
        self.calls += 1

    def _done(self, answer: CallAnswer) -> None:
        self.calls -= 1

    def on_rpc(self, agent: BehaviorAgent, req: RpcRequest, res: RpcAnswer) -> bool:
        if req.payload[:1] == b"n":
            return False
        if req.payload[:1] != b"d":
            with contextlib.suppress(LocalError):  # no way back: the answer is let go
                res.ok(req.payload)
        return True

    def on_incoming_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler | None:
        require(conn.conn_id not in self.up, "a link came up twice")
        self.up[conn.conn_id] = conn
        return ConnectionHandler() if conn.conn_id >> 16 & 1 else None

    def on_outgoing_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler | None:
        self.dials[conn.conn_id] = self.dials.get(conn.conn_id, 0) + 1
        return self.on_incoming_connection_connected(agent, conn)

    def on_incoming_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        require(self.up.pop(conn.conn_id, None) is not None, "a link went that was not there")
        self.ended.append(conn.conn_id)

    on_outgoing_connection_disconnected = on_incoming_connection_disconnected

    def on_outgoing_connection_error(
        self, agent: BehaviorAgent, node_id: int | None, conn_id: int, err: OutgoingConnectionError
    ) -> None:
        self.dials[conn_id] = self.dials.get(conn_id, 0) + 1


class Door(Transport):
    """Streams that the script has the other end of."""

    kinds: ClassVar[frozenset[str]] = frozenset({"memory"})
    protocol: ClassVar[int] = wire.PROTOCOL_MEMORY

    def __init__(self) -> None:
        self.waiting: deque[Knock] = deque()

    def listen(self, endpoint: Endpoint) -> Listener:
        """Listen."""
        return _Ears(endpoint)

    def connect(self, endpoint: Endpoint, on_result: Callable[[Stream | OSError], None]) -> Cancel:
        """Wait until the script says what becomes of it."""
        knock = Knock(on_result)
        self.waiting.append(knock)
        return knock

    def close(self) -> None:
        """There is nothing to close."""

    def abandon(self) -> None:
        """There are no descriptors."""


class _Ears:
    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def close(self) -> None:
        """Stop listening."""


class Knock:
    """A connect under way."""

    def __init__(self, on_result: Callable[[Stream | OSError], None]) -> None:
        self.on_result: Callable[[Stream | OSError], None] | None = on_result

    def cancel(self) -> None:
        """Nobody waits any more."""
        self.on_result = None


class Talk(Wire):
    """A stream with the script at its other end."""

    def __init__(self, *, outgoing: bool) -> None:
        super().__init__()
        self.outgoing = outgoing
        self.peer: Initiator | Responder | None = None
        self.late = b""  # the second half of a frame

    @property
    def is_over(self) -> bool:
        """Whether the node has closed it."""
        return "close" in self.calls

    def feed(self, data: bytes) -> None:
        """Let bytes arrive, what was held back before them first."""
        data, self.late = self.late + data, b""
        if self.target is not None and not self.is_over and data:
            self.target.receive_data(data)


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.records.append(record)


class PlaneTarget(Target):
    """Scripts on one node; see the top of this file."""

    name = "plane"
    session = 200

    def __init__(self, kernels: ModuleType) -> None:
        super().__init__(kernels)
        self._heard = _Listener()
        logger = logging.getLogger("netcore")
        logger.addHandler(self._heard)
        logger.propagate = False
        logger.setLevel(logging.ERROR)
        self._script: list[tuple[Callable[[Reader], object], int]] = [
            (self._do_arrive, 1), (self._do_hello, 2), (self._do_handshake, 4),
            (self._do_message, 10), (self._do_call, 5), (self._do_broadcast, 4),
            (self._do_control, 4), (self._do_shake_frame, 2), (self._do_sync, 4),
            (self._do_odd_frame, 1), (self._do_raw, 1), (self._do_half, 2), (self._do_eof, 1),
            (self._do_break, 1), (self._do_room, 2), (self._do_time, 2), (self._do_send, 4),
            (self._do_connect, 2), (self._do_dialled, 2), (self._do_respond, 1),
            (self._do_close, 1), (self._do_turn, 3),
        ]  # fmt: skip
        self._operations = [do for do, weight in self._script for _ in range(weight)]
        self._hellos: dict[tuple[int, int], bytes] = {}
        self._node: Node | None = None
        self.reset()

    # -- sessions ----------------------------------------------------------------------------------

    def reset(self) -> None:
        if self._node is not None:
            self._node._vanish()
        self._heard.records.clear()
        self._now_ms = 1_000_000
        self._door = Door()
        self._talks: list[Talk] = []
        self._at = 0
        self._talkers = [Talker(10), Talker(20)]
        self._dialled: list[int] = []
        self._node = node = Node(
            LOCAL,
            self._talkers,
            None,
            [self._door],
            backend=self.kernels.NAME,
            clock_ms=lambda: self._now_ms,
            rng=random.Random(7),
            wake=lambda: None,
            max_half_open=16,
            max_links=6,
            max_pending_calls=8,
            max_answers_open=8,
        )
        node.listen("/memory/here")
        node.poll(0)

    def finish(self) -> None:
        """End all streams and let time pass: nothing may be left, and everything was told once."""
        node = self._running()
        for talk in self._talks:
            if talk.target is not None and not talk.is_over:
                talk.target.receive_eof()
        for knock in self._door.waiting:
            if knock.on_result is not None:
                knock.on_result(OSError(111, "refused"))
        for _ in range(8):
            self._pass(5_000)
        stats = node.stats()
        require(not stats.links, "links are left:", stats.links)
        require(stats.half_open == 0, stats.half_open, "handshakes are left")
        require(stats.links_opened == stats.links_closed, stats)
        require(stats.calls_pending == 0, stats)
        require(stats.hook_errors == 0, "hooks raised", self._words())
        for talker in self._talkers:
            require(not talker.up, "links that did not go:", talker.up)
            require(talker.calls == 0, talker.calls, "calls without an end")
            require(all(n == 1 for n in talker.dials.values()), "dials ended", talker.dials)
            require(set(self._dialled) <= set(talker.dials), "dials without an end")
        self._check()

    def _check(self) -> None:
        require(not self._heard.records, "logged:", self._words())

    def _words(self) -> str:
        format_record = logging.Formatter().format
        return "\n".join(map(format_record, self._heard.records))

    def _running(self) -> Node:
        require(self._node is not None and not self._node.closed, "the node is closed")
        assert self._node is not None
        return self._node

    def _pass(self, ms: int) -> None:
        """Let time pass, in steps of what the node waits for."""
        node, end_ms = self._running(), self._now_ms + ms
        node.poll(0)
        for _ in range(200):
            wait_ms = node._loop.next_deadline_ms()
            if wait_ms is None or self._now_ms + wait_ms > end_ms:
                break
            self._now_ms += wait_ms
            node.poll(0)
        self._now_ms = end_ms
        node.poll(0)

    # -- inputs ------------------------------------------------------------------------------------

    def _code(self, do: Callable[[Reader], object]) -> int:
        return self._operations.index(do)

    def seeds(self) -> Sequence[bytes]:
        shake, turn = self._code(self._do_handshake), self._code(self._do_turn)
        return (
            bytes((shake, 0, 0, turn)),
            bytes((shake, 3, 0, turn, self._code(self._do_message), 0, 1, 0, 1, 0, 2, 82, 82)),
            bytes((shake, 1, 0, turn, self._code(self._do_sync), 0, 0, 1, 0, 9)),
            bytes((self._code(self._do_connect), 0, self._code(self._do_dialled), 0, turn)),
            bytes((self._code(self._do_respond), 0, turn, self._code(self._do_time), 5)),
            bytes((shake, 2, 0, turn, self._code(self._do_eof), 0, turn)),
        )

    def generate(self, rnd: random.Random) -> bytes:
        count = 1 + (rnd.random() < 0.3)
        operations = len(self._operations)
        parts = [
            bytes((int(rnd.random() * operations),)) + rnd.randbytes(3 + rnd.getrandbits(2))
            for _ in range(count)
        ]
        return b"".join(parts)

    def run(self, data: bytes) -> bool:
        reader = Reader(data[:200])
        while reader:
            code = reader.byte()
            self._operations[code % len(self._operations)](reader)
        self._running().poll(0)
        self._check()
        return True

    # -- what may happen ---------------------------------------------------------------------------

    def _talk(self, reader: Reader) -> Talk | None:
        """Return one of the streams: mostly the last one that was used."""
        choice = reader.byte()
        if not self._talks:
            return None
        if choice & 3 == 3:
            self._at = choice >> 2
        return self._talks[self._at % len(self._talks)]

    def _feed(self, reader: Reader, data: bytes) -> None:
        talk = self._talk(reader)
        if talk is not None:
            talk.feed(data)

    def _add(self, talk: Talk) -> None:
        if len(self._talks) >= MOST_STREAMS:
            oldest = self._talks.pop(0)
            if oldest.target is not None and not oldest.is_over:
                oldest.target.receive_eof()
        self._talks.append(talk)
        self._at = len(self._talks) - 1

    def _do_arrive(self, reader: Reader) -> Talk | None:
        """Somebody connects, and says nothing yet."""
        host = self._running()._host
        if not host.half_open.admit_incoming(WHERE, host.loop.now_ms):
            return None
        talk = Talk(outgoing=False)
        conn_id = host.next_conn_id(wire.PROTOCOL_MEMORY, outgoing=False)
        stream = MemoryStream(talk, WHERE)  # type: ignore[arg-type]  # a channel of ours
        Negotiation(host, stream, conn_id=conn_id, outgoing=False).start()
        self._add(talk)
        return talk

    def _identity(self, number: int) -> Identity:
        node_id = PEERS[number % len(PEERS)]
        epoch = node_id << 32 | (number >> 6 & 1)  # two lives of each
        return Identity(node_id=node_id, epoch=epoch, records=self.kernels.Records, keys=KeyRing())

    def _hello(self, number: int, flags: int) -> bytes:
        """Return a HELLO; there are few enough of them to make each once."""
        flags &= 7
        if (number, flags) not in self._hellos:
            expected = (None, LOCAL, LOCAL, PEERS[0])[flags >> 1]
            side = Initiator(
                self._identity(number),
                expected_node=expected,
                link=number,
                parallel=bool(flags & 1),
                nonce=bytes(32),
            )
            self._hellos[number, flags] = side.data_to_send()
        return self._hellos[number, flags]

    def _do_hello(self, reader: Reader) -> None:
        """A HELLO on some stream, whatever is up there."""
        self._feed(reader, self._hello(reader.byte(), reader.byte()))

    def _do_handshake(self, reader: Reader) -> None:
        """A stream with HELLO and AUTH at once, as level open allows."""
        talk = self._do_arrive(reader)
        hello = self._hello(reader.byte(), reader.byte())
        if talk is not None:
            talk.feed(hello + frame_bytes(wire.KIND_AUTH, b""))

    def _header(self, reader: Reader) -> bytes:
        flags = reader.byte()
        peer = (*PEERS, LOCAL, 0x7F000001)[reader.byte() & 7]
        service = SERVICES[reader.byte() % len(SERVICES)]
        return header_bytes(
            flags & 3,
            peer,
            ttl=(64, 0, 1, 255)[flags >> 2 & 3],
            services=(10, service),
            stream_id=flags,
            from_node=None if flags & 16 else PEERS[(flags >> 5) % len(PEERS)],
        )

    def _payload(self, reader: Reader) -> bytes:
        size = reader.byte()
        if size < 192:
            return reader.take(size & 7)
        return bytes((reader.byte(),)) * (1 << (size & 15))

    def _do_message(self, reader: Reader) -> None:
        talk = self._talk(reader)
        data = frame_bytes(wire.KIND_MESSAGE, self._header(reader) + self._payload(reader))
        if talk is not None:
            talk.feed(data)

    def _do_call(self, reader: Reader) -> None:
        talk = self._talk(reader)
        header, kind, call_id = self._header(reader), reader.byte(), reader.byte()
        node = self._running()
        if kind & 8:  # what the node asked first, with the id that it drew
            call_id = 1 + call_id
        envelope = (
            request_bytes(call_id, self._payload(reader)),
            ok_bytes(call_id, self._payload(reader)),
            error_bytes(call_id, 1 + kind, b"words"),
            self._payload(reader),
        )[kind & 3]
        require(node.stats().calls_pending <= 8, "more calls than allowed")
        if talk is not None:
            talk.feed(frame_bytes(wire.KIND_CALL, header + envelope))

    def _do_broadcast(self, reader: Reader) -> None:
        talk, flags = self._talk(reader), reader.byte()
        cast = broadcast_bytes(
            SERVICES[reader.byte() % len(SERVICES)],
            self._payload(reader),
            level=flags & 3,
            origin=PEERS[(flags >> 2) % len(PEERS)],
            epoch=flags >> 6,
            sequence=reader.byte(),
            ttl=1 + (flags & 3),
        )
        if talk is not None:
            talk.feed(frame_bytes(wire.KIND_BROADCAST, cast))

    def _do_control(self, reader: Reader) -> None:
        kind, number = reader.byte(), reader.byte()
        token = number.to_bytes(8, "big")
        ping = token + (number << 4).to_bytes(2, "big") + bytes((kind >> 4,))
        self._feed(
            reader,
            (
                frame_bytes(wire.KIND_PING, ping),
                frame_bytes(wire.KIND_PONG, token),
                frame_bytes(wire.KIND_CLOSE, bytes((0, number & 7)) + b"words"),
                frame_bytes(wire.KIND_PING, ping[: number & 15]),
            )[kind & 3],
        )

    def _do_shake_frame(self, reader: Reader) -> None:
        """A frame of the handshake where it does not belong."""
        kind, size = reader.byte() & 3, reader.byte()
        body = encode_reject(size, "words") if kind == 3 else bytes(size & 63)
        self._feed(reader, frame_bytes(wire.KIND_HELLO + kind, body))

    def _do_sync(self, reader: Reader) -> None:
        """An announcement that is well formed."""
        talk, kind, seq, count = self._talk(reader), reader.byte(), reader.byte(), reader.byte() & 3
        entries: dict[int, bytes] = {}
        for _ in range(count):
            place = reader.number(2) % 1280
            hops = tuple(PEERS[reader.byte() % len(PEERS)] for _ in range(kind >> 2 & 3))
            entries[place] = sync_wire.encode_entry(place, Metric(reader.byte(), hops, seq))
        changes: dict[int, bytes | None] = dict(entries)
        if kind & 64:
            changes[1279] = None
        if kind & 128:
            losses = {(PEERS[seq % 5], PEERS[count]): kind} if seq % 5 != count else {(7, 8): seq}
            delta = sync_wire.encode_lost(seq, losses, changes)[0]
        else:
            delta = (sync_wire.encode_delta(seq, changes) or [b""])[0]
        payload = (
            sync_wire.encode_full(seq, entries)[0],
            delta,
            sync_wire.encode_digest(seq, kind),
            sync_wire.encode_request(),
        )[kind & 3]
        head = header_bytes(services=(255, wire.SERVICE_ROUTER_SYNC))
        if talk is not None:
            talk.feed(frame_bytes(wire.KIND_MESSAGE, head + payload))

    def _do_odd_frame(self, reader: Reader) -> None:
        kind = reader.byte()
        self._feed(reader, frame_bytes(kind, self._payload(reader)))

    def _do_raw(self, reader: Reader) -> None:
        self._feed(reader, reader.take(reader.byte() & 15))

    def _do_half(self, reader: Reader) -> None:
        """The first part of a message; the rest comes with whatever is next on this stream."""
        talk, size = self._talk(reader), reader.byte()
        data = frame_bytes(wire.KIND_MESSAGE, self._header(reader) + bytes(size))
        if talk is not None:
            cut = size % len(data)
            talk.feed(data[:cut])
            talk.late = data[cut:]

    def _do_eof(self, reader: Reader) -> None:
        talk = self._talk(reader)
        if talk is not None and talk.target is not None and not talk.is_over:
            talk.target.receive_eof()

    def _do_break(self, reader: Reader) -> None:
        """What the node writes fails from now on."""
        talk = self._talk(reader)
        if talk is not None:
            talk.is_broken = True

    def _do_room(self, reader: Reader) -> None:
        """The stream takes nothing any more, or some again."""
        talk, room = self._talk(reader), reader.byte()
        if talk is None:
            return
        talk.room = (0, 1, 100, 1 << 40)[room & 3]
        if talk.target is not None and not talk.is_over:
            talk.target.channel_writable()

    def _do_time(self, reader: Reader) -> None:
        self._pass(TIMES_MS[reader.byte() & 7])

    def _do_send(self, reader: Reader) -> None:
        """The node's own code sends, calls or broadcasts."""
        agent, what = self._running().agent(10), reader.byte()
        payload = self._payload(reader)
        peer = PEERS[(what >> 3) % len(PEERS)]
        try:
            if what & 7 == 0:
                self._talkers[0].call(agent, payload)
            elif what & 7 == 1:
                agent.broadcast(payload)
            elif what & 7 == 2:
                agent.send_to_key(peer, payload)
            elif what & 7 == 3:
                agent.send_to_service(20, payload)
            elif what & 7 == 4:
                agent.send_local(payload)
            else:
                agent.send_to_node(peer, payload)
        except LocalError:
            pass

    def _do_connect(self, reader: Reader) -> None:
        what = reader.byte()
        node_id = PEERS[what % len(PEERS)] if what & 64 else None
        prefix = "" if node_id is None else f"{node_id}@"
        try:
            conn_id = self._running().connect(f"{prefix}/memory/there", parallel=bool(what & 128))
        except LocalError:
            return
        self._dialled.append(int(conn_id))

    def _do_dialled(self, reader: Reader) -> Talk | None:
        """The oldest dial reaches somebody, or nobody."""
        how = reader.byte()
        waiting = self._door.waiting
        while waiting and waiting[0].on_result is None:
            waiting.popleft()
        if not waiting:
            return None
        on_result = waiting.popleft().on_result
        assert on_result is not None
        if how & 3 == 3:
            on_result(OSError(111, "refused"))
            return None
        talk = Talk(outgoing=True)
        on_result(MemoryStream(talk, WHERE))  # type: ignore[arg-type]  # a channel of ours
        self._add(talk)
        return talk

    def _do_respond(self, reader: Reader) -> None:
        """Dial, and be answered by a peer that does everything right so far."""
        self._do_connect(reader)
        self._running().poll(0)
        talk = self._do_dialled(reader)
        if talk is None:
            return
        peer = Responder(self._identity(reader.byte()), nonce=bytes(32), link=1)
        self._running().poll(0)
        for _ in range(3):
            said = bytes(talk.taken)
            talk.taken.clear()
            if peer.result is None:
                peer.receive_data(said)
            if peer.state == "NEED_DECISION":
                peer.answer()
                peer.accept()
            talk.feed(peer.data_to_send())
            self._running().poll(0)

    def _do_close(self, reader: Reader) -> None:
        what = reader.byte()
        agent = self._running().agent(10)
        up = list(self._talkers[0].up)
        if what & 1 and up:
            agent.close_conn(up[what % len(up)])
        else:
            agent.close_node(PEERS[what % len(PEERS)])

    def _do_turn(self, reader: Reader) -> None:
        self._running().poll(0)
