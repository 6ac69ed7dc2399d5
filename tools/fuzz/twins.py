"""Target: the compiled kernels beside the pure ones; value, error, offset, counters, bytes sent."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from netcore import _backend, wire
from netcore.errors import NetcoreError

from .decoders import FrameTarget, HeaderTarget, RecordTarget, frame_bytes, header_bytes
from .rig import ASKED, BAD, ECHO, FAR, NEAR, NODE, SILENT, Rig
from .target import Reader, Target, require
from .traffic import broadcast_bytes, error_bytes, ok_bytes, request_bytes

#: Of an input: each byte may be an operation, and the pure kernels take a while for one.
MOST_BYTES = 8_192
NODES = (NODE, NEAR, FAR, 0x01020399, 0x0B000001)
SERVICES = (ECHO, BAD, ASKED, SILENT, 9, 200, 240, 255)


def _header(kernels: ModuleType, data: bytes) -> object:
    return kernels.decode_header(data)


def _message(kernels: ModuleType, data: bytes) -> object:
    message = kernels.decode_message(data, HeaderTarget.NODE)
    return repr(message), hash(message), message.payload


def _splitter(kernels: ModuleType, data: bytes) -> object:
    splitter = kernels.FrameSplitter(data[0] if data else 0)
    found: list[object] = []
    for start in range(1, len(data), 97):
        splitter.receive_data(data[start : start + 97])
        while (frame := _outcome(splitter.next_frame)) != ("value", None):
            found.append(frame)
            if frame[0] != "value":
                break
    return found, splitter.buffered, splitter.take_rest()


def _records(kernels: ModuleType, data: bytes) -> object:
    records = kernels.Records(*RecordTarget.KEYS[::-1])
    found = [records.open(data[start : start + 61]) for start in range(0, len(data), 61)]
    error = records.error
    return found, error and (error.reason, error.offset), records.buffered, repr(records)


def _stream(kernels: ModuleType, data: bytes) -> object:
    """Feed a link what the bytes say, between turns and with little room, or sealed."""
    reader = Reader(data)
    flags = reader.byte()
    sealed = bool(flags & 1)
    rig = Rig(kernels, room=(1 << 40, 300, 0, 5_000)[flags >> 1 & 3], sealed=sealed)
    sealer = kernels.Records(bytes(range(32)), bytes(32)) if sealed and flags & 8 else None
    if flags & 16:
        rig.call()
    conn, stream = rig.near
    while reader:
        size = reader.number(2)
        part = reader.take(min(size & 0x3FFF, 9_000))
        conn.receive_data(part if sealer is None else sealer.seal(part))
        if size & 0x8000:
            rig.turn((0, 1, 50, 600)[flags >> 5 & 3])
        if size & 0x4000:
            stream.room += 1_000
            conn.channel_writable()
    rig.turn()
    if flags & 128:
        conn.receive_eof()
        rig.turn()
    rig.kept.clear()
    rig.turn(2_000)
    return rig.state()


#: By the first byte, modulo their number; a stream costs as much as a hundred of the others.
FORMS: tuple[Callable[[ModuleType, bytes], object], ...] = (
    _header, _message, _splitter, _records, _stream,
    *(_header, _message, _splitter, _message, _header) * 3,
)  # fmt: skip


def _outcome(function: Callable[..., object], *args: Any) -> tuple[object, ...]:  # noqa: ANN401
    try:
        return "value", function(*args)
    except NetcoreError as error:
        return type(error).__name__, str(error), vars(error)


def random_frame(rnd: random.Random) -> bytes:
    """Return a frame that a link may bring, mostly."""
    node = rnd.choice(NODES)
    head = header_bytes(
        rnd.getrandbits(2),
        rnd.choice(NODES),
        ttl=rnd.choice((64, 64, 0, 1, 2)),
        services=(SILENT, rnd.choice(SERVICES)),
        from_node=None if rnd.random() < 0.4 else node,
    )
    body = rnd.randbytes(int(rnd.random() ** 4 * 4_000))
    draw = rnd.random()
    if draw < 0.5:
        return frame_bytes(wire.KIND_MESSAGE, head + body)
    if draw < 0.7:
        call_id = rnd.choice((1, 2, 99))
        envelope = rnd.choice(
            (request_bytes(call_id, rnd.choice((b"k", b"e", b"r", b"n", b"d", body)))
             , ok_bytes(call_id, body), error_bytes(call_id, rnd.getrandbits(16), b"text"))
        )  # fmt: skip
        return frame_bytes(wire.KIND_CALL, head + envelope)
    if draw < 0.85:
        cast = broadcast_bytes(
            rnd.choice(SERVICES), body, origin=node, sequence=rnd.getrandbits(2), ttl=head[1],
            level=rnd.choice((0, 0, 1, 3)),
        )  # fmt: skip
        return frame_bytes(wire.KIND_BROADCAST, cast)
    return rnd.choice(
        (
            frame_bytes(wire.KIND_PING, bytes(11)),
            frame_bytes(wire.KIND_PONG, bytes(8)),
            frame_bytes(wire.KIND_CLOSE, b"\0\1bye"),
            frame_bytes(wire.KIND_EXTENSION, body),
            frame_bytes(wire.KIND_HELLO, b""),
        )
    )


class TwinsTarget(Target):
    """The first byte says what both backends do with the rest; they must do the same."""

    name = "twins"

    def __init__(self, kernels: ModuleType) -> None:
        super().__init__(kernels)
        self.pure, self.fast = _backend.load("pure"), _backend.load("fast")

    def seeds(self) -> Sequence[bytes]:
        message = frame_bytes(0, header_bytes(services=(1, SILENT)) + b"hello")
        stream = b"\0" + (len(message) | 0x8000).to_bytes(2, "big") + message
        return (
            b"\0" + HeaderTarget(self.fast).seeds()[1],
            b"\1" + HeaderTarget(self.fast).seeds()[2],
            b"\2\x40" + FrameTarget(self.fast).seeds()[1],
            b"\3" + RecordTarget(self.fast).seeds()[1],
            b"\4" + stream,
            b"\4\x09" + stream[1:],
            *(
                bytes((form,)) + header
                for form, header in enumerate(HeaderTarget(self.fast).seeds())
                if form != 4
            ),
        )

    def generate(self, rnd: random.Random) -> bytes:
        if rnd.random() < 0.96:
            return self.some_seed(rnd)
        parts = [bytes((4, rnd.getrandbits(8)))]
        data = b"".join(random_frame(rnd) for _ in range(1 + rnd.getrandbits(2)))
        while data:
            size = min(len(data), 1 + int(rnd.random() ** 2 * 8_000))
            parts.append((size | rnd.getrandbits(2) << 14).to_bytes(2, "big") + data[:size])
            data = data[size:]
        return b"".join(parts)

    def run(self, data: bytes) -> bool:
        form = FORMS[data[0] % len(FORMS)] if data else _header
        data = data[:MOST_BYTES]
        pure = _outcome(form, self.pure, data[1:])
        fast = _outcome(form, self.fast, data[1:])
        require(pure == fast, f"pure: {pure}\nfast: {fast}")
        return pure[0] == "value"
