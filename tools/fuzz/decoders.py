"""Targets: the decoders that are functions of their bytes."""

from __future__ import annotations

import random
from collections.abc import Sequence

from netcore import wire
from netcore.address import NodeAddr
from netcore.errors import AddressError, FrameError
from netcore.route import Metric
from netcore.services import sync_wire

from .target import Target, require


def header_bytes(
    kind: int = 0,
    argument: int = 0,
    *,
    ttl: int = 64,
    services: tuple[int, int] = (1, 2),
    stream_id: int = 0,
    meta: int = 0,
    from_node: int | None = None,
) -> bytes:
    """Return a message header as docs/protocol.md draws it; not made by the code under test."""
    flags = kind << wire.ROUTE_SHIFT | meta | (0 if from_node is None else wire.FLAG_FROM_NODE)
    head = bytes((flags, ttl, *services)) + stream_id.to_bytes(4, "big")
    if from_node is not None:
        head += from_node.to_bytes(4, "big")
    return head + (argument.to_bytes(4, "big") if kind else b"")


def frame_bytes(kind: int, body: bytes) -> bytes:
    """Return a frame."""
    return bytes((kind,)) + len(body).to_bytes(3, "big") + body


def random_header(rnd: random.Random) -> bytes:
    """Return any header that is valid."""
    return header_bytes(
        rnd.getrandbits(2),
        rnd.getrandbits(32),
        ttl=rnd.getrandbits(8),
        services=(rnd.getrandbits(8), rnd.getrandbits(8)),
        stream_id=rnd.getrandbits(32),
        meta=rnd.getrandbits(2),
        from_node=rnd.getrandbits(32) if rnd.random() < 0.5 else None,
    )


class FrameTarget(Target):
    """A stream of bytes, cut into frames: the same ones however the bytes arrive."""

    name = "frame"
    LIMIT = 4096

    def seeds(self) -> Sequence[bytes]:
        message = frame_bytes(wire.KIND_MESSAGE, header_bytes() + b"payload")
        return (
            message,
            frame_bytes(wire.KIND_PING, bytes(11)) + frame_bytes(wire.KIND_PONG, bytes(8)),
            message * 3 + frame_bytes(wire.KIND_CLOSE, b"\0\0bye"),
            frame_bytes(0xFF, b""),
            frame_bytes(wire.KIND_EXTENSION, b"\xff" * self.LIMIT),
        )

    def generate(self, rnd: random.Random) -> bytes:
        count = 1 + rnd.getrandbits(2)
        bodies = [rnd.randbytes(int(rnd.random() ** 3 * 200)) for _ in range(count)]
        return b"".join(frame_bytes(rnd.getrandbits(8), body) for body in bodies)

    def run(self, data: bytes) -> bool:
        cut = len(data) * data[0] >> 8 if data else 0
        whole, is_good, left = self._frames(data)
        require((whole, is_good, left) == self._frames(data[:cut], data[cut:]), "cut at", cut)
        again = b"".join(self.kernels.encode_frame(kind, body) for kind, body in whole)
        require(data.startswith(again), "frames that are not in the stream")
        require(not is_good or left == len(data) - len(again), left, "bytes are left")
        return is_good and not left

    def _frames(self, *parts: bytes) -> tuple[list[tuple[int, bytes]], bool, int]:
        splitter = self.kernels.FrameSplitter(self.LIMIT)
        frames = []
        try:
            for part in parts:
                splitter.receive_data(part)
                while (frame := splitter.next_frame()) is not None:
                    frames.append(frame)
        except FrameError as error:
            require((error.reason, error.offset) == (wire.FRAME_TOO_BIG, 1), error)
            return frames, False, 0
        return frames, True, splitter.buffered


class HeaderTarget(Target):
    """The header of a message: what was decoded encodes to the same bytes."""

    name = "header"
    NODE = 0x0A0B0C0D

    def seeds(self) -> Sequence[bytes]:
        return (
            header_bytes(),
            header_bytes(1, 111, ttl=66, services=(33, 34), stream_id=222, meta=3, from_node=1000),
            header_bytes(2, 9, from_node=self.NODE) + b"payload",
            header_bytes(3, 5, services=(4, 4)),
            header_bytes(0, from_node=7) + bytes(64),
        )

    def generate(self, rnd: random.Random) -> bytes:
        return random_header(rnd) + rnd.randbytes(rnd.getrandbits(4))

    def run(self, data: bytes) -> bool:
        try:
            header = self.kernels.decode_header(data)
        except FrameError as error:
            self._check(error, data)
            return False
        kind, argument, ttl, from_service, to_service, stream_id, meta, from_node, size = header
        message = self.kernels.decode_message(data, self.NODE)
        require(message.payload == data[size:], "payload")
        require((message.from_service, message.to_service) == (from_service, to_service), "service")
        require((message.stream_id, message.meta, message.ttl) == (stream_id, meta, ttl), "fields")
        if from_node == wire.NO_NODE:
            return False  # nobody's id: decoded, but nothing that can be sent
        again = self.kernels.encode_header(
            kind, argument, ttl, from_service, to_service, stream_id, meta, from_node
        )
        require(again == data[:size], "it encodes to", again.hex())
        return True

    def _check(self, error: FrameError, data: bytes) -> None:
        reason, offset = error.reason, error.offset
        if reason == wire.FRAME_TRUNCATED:
            require(offset == len(data) < wire.MAX_HEADER_BYTES, error)
        else:
            require(reason in (wire.FRAME_BAD_VERSION, wire.FRAME_SEALED) and offset == 0, error)


class RecordTarget(Target):
    """Records: opened alike however the bytes arrive, and nothing behind a wrong one."""

    name = "record"
    KEYS = bytes(32), bytes(range(32))

    def seeds(self) -> Sequence[bytes]:
        streams = (
            (b"x",),
            (frame_bytes(wire.KIND_PING, bytes(11)), b"y" * 100),
            (bytes(wire.MAX_RECORD_BODY_BYTES),),
            (bytes(wire.MAX_RECORD_BODY_BYTES + 1),),
        )
        return [self._seal(*bodies) for bodies in streams]

    def _seal(self, *bodies: bytes) -> bytes:
        """Return the records of one stream."""
        return b"".join(map(self.kernels.Records(*self.KEYS).seal, bodies))

    def generate(self, rnd: random.Random) -> bytes:
        count = 1 + rnd.getrandbits(1)
        return self._seal(*(rnd.randbytes(1 + rnd.getrandbits(6)) for _ in range(count)))

    def run(self, data: bytes) -> bool:
        cut = len(data) * data[0] >> 8 if data else 0
        opened, is_good, left = self._open(data)
        require((opened, is_good, left) == self._open(data[:cut], data[cut:]), "cut at", cut)
        require(len(opened) + left <= len(data), "more than came")
        require(self._bodies(data, len(opened)) == opened, "other bytes than came")
        return is_good and not left and bool(opened)

    @staticmethod
    def _bodies(data: bytes, size: int) -> bytes:
        """Return so much of the bodies of the records, whatever their tags say."""
        bodies, at, left = [], 0, size
        while at < len(data) and left > 0:
            begin = at + wire.RECORD_LENGTH_BYTES
            end = begin + int.from_bytes(data[at:begin], "big")
            bodies.append(data[begin:end])
            left -= end - begin
            at = end + wire.RECORD_TAG_BYTES
        return b"".join(bodies)[:size]

    def _open(self, *parts: bytes) -> tuple[bytes, bool, int]:
        records = self.kernels.Records(*self.KEYS[::-1])
        opened = b"".join(map(records.open, parts))
        error = records.error
        if error is not None:
            expected = (wire.FRAME_TOO_BIG, wire.FRAME_BAD_BODY, wire.FRAME_BAD_TAG)
            require(isinstance(error, FrameError) and error.reason in expected, error)
            require(records.open(parts[0]) == b"", "opened behind an error")
        return opened, error is None, records.buffered


class SyncTarget(Target):
    """Announcements of routes: what was decoded encodes to the same bytes."""

    name = "sync"

    def seeds(self) -> Sequence[bytes]:
        near = sync_wire.encode_entry(0x105, Metric(12, (), 0))
        far = sync_wire.encode_entry(1024 + 10, Metric(250, (3, 2, 1), 10_000))
        entries = {0x105: near, 1034: far}
        many = {
            place: sync_wire.encode_entry(place, Metric(place, (place + 1,), 1))
            for place in range(0, 1024, 41)
        }
        return (
            *sync_wire.encode_full(7, entries),
            *sync_wire.encode_full(0, many),
            *sync_wire.encode_full(1, {}),
            *sync_wire.encode_delta(0xFFFF_FFFF, {0x105: None, 1034: far}),
            *sync_wire.encode_lost(8, {(3, 2): 1}, {0x105: None, 1034: far}),
            *sync_wire.encode_lost(9, {(2, 3): 0xFFFF_FFFF, (4, 3): 2}, {}),
            sync_wire.encode_digest(9, 0x0123_4567_89AB_CDEF),
            sync_wire.encode_request(),
        )

    def generate(self, rnd: random.Random) -> bytes:
        places = rnd.sample(range(1280), rnd.getrandbits(2))
        entries: dict[int, bytes | None] = {}
        for place in places:
            hops = tuple(rnd.getrandbits(32) for _ in range(rnd.getrandbits(2)))
            metric = Metric(rnd.getrandbits(32), hops, rnd.getrandbits(32))
            entries[place] = sync_wire.encode_entry(place, metric)
        if rnd.random() < 0.5:
            full = {place: entry for place, entry in entries.items() if entry is not None}
            return sync_wire.encode_full(rnd.getrandbits(32), full)[0]
        for place in places[::2]:
            entries[place] = None
        if rnd.random() < 0.3:
            losses = {
                (rnd.getrandbits(8), rnd.getrandbits(32)): rnd.getrandbits(32)
                for _ in range(1 + rnd.getrandbits(2))
            }
            return sync_wire.encode_lost(rnd.getrandbits(32), losses, entries)[0]
        return b"".join(sync_wire.encode_delta(rnd.getrandbits(32), entries))

    def run(self, data: bytes) -> bool:
        try:
            message = sync_wire.decode(data)
        except FrameError as error:
            expected = (wire.FRAME_TRUNCATED, wire.FRAME_BAD_BODY)
            require(error.reason in expected and 0 <= error.offset <= len(data), error)
            return False
        if message is None:
            require(data[0] >= wire.SYNC_EXTENSION, "a message of this version was ignored")
            return False
        if len(data) <= wire.SYNC_MAX_MESSAGE_BYTES:
            again = self._encode(message)
            require(again == data, "it encodes to", again.hex())
        return True

    def _encode(self, message: sync_wire.SyncMessage) -> bytes:
        if isinstance(message, sync_wire.Request):
            return sync_wire.encode_request()
        if isinstance(message, sync_wire.Digest):
            return sync_wire.encode_digest(message.seq, message.value)
        for place, entry in message.entries.items():
            if entry is not None:
                again = sync_wire.encode_entry(place, sync_wire.metric_of(entry))
                require(again == entry, "entry", place)
        if isinstance(message, sync_wire.Full):
            pieces = sync_wire.encode_full(message.seq, message.entries)
            flags = (
                message.is_first * wire.SYNC_FIRST_PIECE | message.is_last * wire.SYNC_LAST_PIECE
            )
            return pieces[0][:5] + bytes((flags,)) + pieces[0][6:]
        if isinstance(message, sync_wire.Lost):
            return b"".join(sync_wire.encode_lost(message.seq, message.losses, message.entries))
        empty = bytes((wire.SYNC_DELTA,)) + message.seq.to_bytes(4, "big")
        return b"".join(sync_wire.encode_delta(message.seq, message.entries)) or empty


class AddressTarget(Target):
    """Addresses: text that people write. What was parsed is spelled in a form that parses alike."""

    name = "address"
    PIECES = (
        "7@", "4294967294@", "/ip4/127.0.0.1/tcp/5000", "/ip6/::1/tcp/0", "/ip6/fe80::1%eth0/tcp/1",
        "/dns/node.example/tcp/65535", "/memory/name", "/unix/run/x.sock", "/tcp/", "@", "/", "%",
        "::ffff:1.2.3.4", "/ip4/", "/dns/", "0", "\0", "\u0661", "\ud800", "é",
    )  # fmt: skip

    def seeds(self) -> Sequence[bytes]:
        texts = (
            "/ip4/127.0.0.1/tcp/5000",
            "7@/ip6/::1/tcp/0",
            "/ip6/fe80::1%eth0/tcp/65535",
            "0@/dns/Node.Example/tcp/80/ip4/10.0.0.1/tcp/81",
            "/memory/a-name.of_1",
            "4294967294@/memory/x/unix/run/netcore.sock",
        )
        return tuple(text.encode() for text in texts)

    def generate(self, rnd: random.Random) -> bytes:
        pieces = rnd.choices(self.PIECES, k=1 + rnd.getrandbits(2))
        if rnd.random() < 0.01:
            pieces.insert(0, "1" * 5000)  # more digits than int() takes
        return "".join(pieces).encode("utf-8", "surrogatepass")

    def run(self, data: bytes) -> bool:
        text = data.decode("utf-8", "surrogateescape")
        try:
            addr = NodeAddr.parse(text)
        except AddressError as error:
            require(error.text == text and 0 <= error.offset <= len(text), error)
            return False
        spelled = str(addr)
        require(NodeAddr.parse(spelled) == addr, repr(spelled), "is another address")
        require(str(NodeAddr.parse(spelled)) == spelled, repr(spelled), "is not canonical")
        return True
