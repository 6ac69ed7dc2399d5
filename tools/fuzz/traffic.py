"""Targets: what the switch decodes for its desks, calls and broadcasts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import ModuleType

from netcore import wire

from .decoders import frame_bytes, header_bytes
from .rig import ASKED, ECHO, FAR, NEAR, NODE, SILENT, Rig, error_of_link
from .target import Target, require

FIRST_CALL = (1).to_bytes(8, "big")


def request_bytes(call_id: int, payload: bytes = b"", left_ms: int = 5_000) -> bytes:
    """Return the envelope of a request."""
    head = bytes((wire.RPC_REQUEST,)) + call_id.to_bytes(8, "big")
    return head + left_ms.to_bytes(4, "big") + payload


def ok_bytes(call_id: int, payload: bytes = b"") -> bytes:
    """Return the envelope of an answer."""
    return bytes((wire.RPC_OK,)) + call_id.to_bytes(8, "big") + payload


def error_bytes(call_id: int, code: int, text: bytes = b"") -> bytes:
    """Return the envelope of an error."""
    head = bytes((wire.RPC_ERROR,)) + call_id.to_bytes(8, "big")
    return head + code.to_bytes(2, "big") + text


def broadcast_bytes(
    service: int,
    payload: bytes = b"",
    *,
    level: int = 0,
    origin: int = FAR,
    epoch: int = 1,
    sequence: int = 0,
    ttl: int = 64,
) -> bytes:
    """Return the body of a BROADCAST."""
    head = header_bytes(
        wire.ROUTE_SERVICE, level << 24, ttl=ttl, services=(1, service), from_node=origin
    )
    return head + epoch.to_bytes(8, "big") + sequence.to_bytes(4, "big") + payload


class CallTarget(Target):
    """The envelope of a CALL; one call waits for its answer, with id 1 in the input."""

    name = "call"
    session = 1_000
    HEADER = header_bytes(wire.ROUTE_NODE, NODE, services=(ECHO, ASKED), from_node=NEAR)

    def seeds(self) -> Sequence[bytes]:
        return (
            request_bytes(77, b"payload"),
            *(request_bytes(78, letter) for letter in (b"k", b"e", b"r", b"n", b"d")),
            ok_bytes(1, b"answer"),
            error_bytes(1, wire.RPC_BUSY, "voll besetzt \u2026".encode()),
            error_bytes(1, 0xFFFF, bytes(200)),
        )

    def generate(self, rnd: random.Random) -> bytes:
        call_id = rnd.choice((1, 1, 2, rnd.getrandbits(64)))
        payload = rnd.choice((b"", b"k", b"d", rnd.randbytes(rnd.getrandbits(5))))
        return rnd.choice(
            (
                request_bytes(call_id, payload, rnd.getrandbits(32)),
                ok_bytes(call_id, payload),
                error_bytes(call_id, rnd.getrandbits(16), payload),
            )
        )

    def __init__(self, kernels: ModuleType) -> None:
        super().__init__(kernels)
        self.reset()

    def reset(self) -> None:
        self._rig = Rig(self.kernels)

    def run(self, data: bytes) -> bool:
        rig = self._rig
        rig.events.clear()
        desk = rig.desk
        if not desk.pending:
            rig.call()
        before = desk.received + desk.malformed + desk.late
        malformed = desk.malformed
        call_id = desk.sent.to_bytes(8, "big")  # of the call that waits: they are numbered
        if data[1:9] == FIRST_CALL:
            data = data[:1] + call_id + data[9:]
        rig.near[0].receive_data(frame_bytes(wire.KIND_CALL, self.HEADER + data[:60_000]))
        malformed = desk.malformed - malformed
        done = sum(event[0] == "done" for event in rig.events)
        require(rig.near[0].state == 0, "a call ended the link")
        require(desk.received + desk.malformed + desk.late + done == before + 1, rig.calls())
        require(desk.pending + done == 1, rig.calls())
        rig.kept.clear()
        rig.turn()
        require(desk.open == 0, rig.calls())
        require(not [e for e in rig.events if e[0] == "loop error"], rig.events)
        rig.near[1].taken.clear()
        return not malformed

    def finish(self) -> None:
        self._rig.turn(1_000)
        require(self._rig.desk.pending == 0, "the deadline passed", self._rig.calls())


class BroadcastTarget(Target):
    """The body of a BROADCAST that comes over the near link, twice: once at most it is new."""

    name = "broadcast"
    session = 1_000

    def seeds(self) -> Sequence[bytes]:
        return (
            broadcast_bytes(SILENT, b"hi"),
            broadcast_bytes(SILENT, b"to the group", level=3, origin=NEAR),
            broadcast_bytes(200, bytes(40), epoch=(1 << 64) - 1, sequence=(1 << 32) - 1, ttl=1),
            broadcast_bytes(SILENT, bytes(20_000), ttl=255),
        )

    def generate(self, rnd: random.Random) -> bytes:
        return broadcast_bytes(
            rnd.choice((ECHO, SILENT, 200, rnd.getrandbits(8))),
            rnd.randbytes(rnd.getrandbits(4)),
            level=rnd.getrandbits(2) if rnd.random() < 0.9 else rnd.getrandbits(8),
            origin=rnd.choice((FAR, NEAR, NODE, wire.NO_NODE, rnd.getrandbits(32))),
            epoch=rnd.getrandbits(64),
            sequence=rnd.getrandbits(32),
            ttl=rnd.getrandbits(8),
        )

    def __init__(self, kernels: ModuleType) -> None:
        super().__init__(kernels)
        self.reset()

    def reset(self) -> None:
        self._rig = Rig(self.kernels)
        self._before = self._counts()

    def _counts(self) -> tuple[int, ...]:
        counts = self._rig.switch.counters()
        names = ("received", "duplicate", "stale", "delivered")
        return (counts["protocol_errors"], *(counts[f"broadcasts_{name}"] for name in names))

    def run(self, data: bytes) -> bool:
        rig = self._rig
        rig.events.clear()
        frame = frame_bytes(wire.KIND_BROADCAST, data[:65_000])
        rig.near[0].receive_data(frame + frame)
        rig.turn()
        rig.near[1].taken.clear()
        rig.far[1].taken.clear()
        before, self._before = self._before, self._counts()
        errors, new, again, stale, delivered = map(int.__sub__, self._before, before)
        require(not [e for e in rig.events if e[0] == "loop error"], rig.events)
        text = error_of_link(rig)
        if text:
            require(text.split(" at byte ")[0] in wire.FRAME_ERRORS, text)
            require((errors, new, again, stale, delivered) == (1, 0, 0, 0, 0), self._before)
            rig.reopen()
            return False
        require(not errors and delivered <= new <= 1, self._before)
        require(new + again + stale == 2, self._before)
        return True
