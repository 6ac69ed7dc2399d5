"""Two handshake machines and the wire between them, which a test may watch, cut up and bend."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from netcore import _backend
from netcore.errors import HandshakeTimeout
from netcore.handshake import Accepted, Failed, Identity, Initiator, Responder
from netcore.keys import KeyRing

SECRET = b"a secret of 23 bytes ok"
OTHER_SECRET = b"another one of 24 bytes."

#: Changes bytes on the way; the arguments are their direction ("i" or "r", the sender) and the
#: offset of the first one in that direction.
Bend = Callable[[str, int, bytes], bytes]


def straight(sender: str, offset: int, data: bytes) -> bytes:
    """Change nothing."""
    return data


def identity(node_id: int, secrets: Sequence[bytes] = (), *, epoch: int = 0) -> Identity:
    """Return a node; its epoch is its id unless told."""
    return Identity(
        node_id=node_id,
        epoch=epoch or node_id << 32,
        records=_backend.kernels.Records,
        keys=KeyRing(secrets),
    )


def initiator(
    node: Identity, *, expected: int | None = None, parallel: bool = False, nonce: int = 0xAA
) -> Initiator:
    """Return a dialling side."""
    return Initiator(
        node, expected_node=expected, link=7, parallel=parallel, nonce=bytes([nonce]) * 32
    )


def responder(node: Identity, *, nonce: int = 0xBB) -> Responder:
    """Return a dialled side."""
    return Responder(node, nonce=bytes([nonce]) * 32, link=9)


class Pair:
    """Both ends of one conversation."""

    def __init__(
        self, i: Initiator, r: Responder, *, bend: Bend = straight, chunk: int = 1 << 16
    ) -> None:
        self.i = i
        self.r = r
        self.sent = {"i": b"", "r": b""}
        self._bend = bend
        self._chunk = chunk

    def run(self) -> None:
        """Move bytes and take every decision in favour of the link until nothing moves."""
        while self.step() or self.decide():
            pass

    def time_out(self) -> None:
        """Do what the drivers do with a side that has no result in time."""
        for side in (self.i, self.r):
            side.abort(HandshakeTimeout())

    def step(self) -> bool:
        """Move what both sides have to say; return whether there was anything."""
        moved = self._move("i", self.i, self.r)
        return self._move("r", self.r, self.i) or moved

    def decide(self) -> bool:
        """Let the side whose driver has the word go on; return whether there was one."""
        if self.i.state == "NEED_PROCEED":
            self.i.proceed()
        elif self.r.state == "NEED_DECISION":
            self.r.answer()
        elif self.r.state == "ANSWERED":
            self.r.accept()
        else:
            return False
        return True

    def _move(self, name: str, source: Initiator | Responder, sink: Initiator | Responder) -> bool:
        data = source.data_to_send()
        bent = self._bend(name, len(self.sent[name]), data)
        self.sent[name] += data
        for start in range(0, len(bent), self._chunk):
            if not isinstance(sink.result, Accepted):
                sink.receive_data(bent[start : start + self._chunk])
        return bool(data)


def accepted(side: Initiator | Responder) -> Accepted:
    """Return the result of a side that must have got its link."""
    assert isinstance(side.result, Accepted), side.result
    return side.result


def failed(side: Initiator | Responder) -> Failed:
    """Return the result of a side that must have failed."""
    assert isinstance(side.result, Failed), side.result
    return side.result
