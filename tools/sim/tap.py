"""Tap: reads the frames that leave every node, on both backends alike.

Records of level *auth* are not secret: their bodies are joined, their tags left out.
"""

from __future__ import annotations

from typing import Final, final

from netcore import wire
from netcore.sim.streams import End

from .crew import Crew

__all__ = ["Direction", "Tap"]

_TAG_BYTES: Final = 16
_HEAD_BYTES: Final = 4
_LENGTH_BYTES: Final = 3
_ANSWER_TTL: Final = 64


@final
class Tap:
    """Follows each message from hop to hop.

    Args:
        crew: Knows with which TTL a message was sent, and is told what is wrong.
        secret: Whether the network has one.
    """

    def __init__(self, crew: Crew, *, secret: bool) -> None:
        self._crew = crew
        self._secret = secret
        self._streams: dict[End, Direction] = {}
        self._hops: dict[bytes, int] = {}
        self._visits: set[tuple[bytes, int, int]] = set()

    def __call__(self, end: End, data: bytes) -> None:
        """Take in what leaves an end."""
        direction = self._streams.get(end)
        if direction is None:
            direction = self._streams[end] = Direction(secret=self._secret)
        node_id = end.peer.peer_id
        for kind, body in direction.take(data):
            if kind in (wire.KIND_MESSAGE, wire.KIND_CALL):
                self._follow(node_id, kind, body)

    def _follow(self, node_id: int, kind: int, body: bytes) -> None:
        """Look at a message that leaves a node."""
        flags, ttl = body[0], body[1]
        route = flags >> 3 & 0b11
        if route == wire.ROUTE_DIRECT:
            return
        at = 8 + 4 * (flags >> 5 & 1) + 4
        # The first bytes of a call's envelope are its kind and its id.
        key = body[at : at + 9] if kind == wire.KIND_CALL else body[at : at + 8]
        hops = self._hops[key] = self._hops.get(key, 0) + 1
        sent = None if kind == wire.KIND_CALL else self._crew.sent.get(int.from_bytes(key, "big"))
        first_ttl = _ANSWER_TTL if sent is None else sent.ttl
        if hops > first_ttl:
            self._crew.fail("hops", f"{key.hex()} makes hop {hops} of {first_ttl} at {node_id}")
        if (key, node_id, ttl) in self._visits:
            self._crew.fail("visits", f"{key.hex()} leaves {node_id} again with TTL {ttl}")
        self._visits.add((key, node_id, ttl))


@final
class Direction:
    """The bytes of one direction of a stream."""

    def __init__(self, *, secret: bool) -> None:
        self._secret = secret
        self._sealed = False
        self._bytes = bytearray()
        self._frames = bytearray()

    def take(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the frames that are complete now."""
        frames: list[tuple[int, bytes]] = []
        target = self._bytes if self._sealed else self._frames
        target += data
        if self._sealed:
            self._unseal()
        while (frame := self._cut()) is not None:
            frames.append(frame)
            if self._secret and not self._sealed and frame[0] == wire.KIND_AUTH:
                self._sealed = True
                self._bytes, self._frames = self._frames, bytearray()
                self._unseal()
        return frames

    def _unseal(self) -> None:
        raw = self._bytes
        while len(raw) >= _LENGTH_BYTES:
            size = int.from_bytes(raw[:_LENGTH_BYTES], "big")
            whole = _LENGTH_BYTES + size + _TAG_BYTES
            if len(raw) < whole:
                return
            self._frames += raw[_LENGTH_BYTES : _LENGTH_BYTES + size]
            del raw[:whole]

    def _cut(self) -> tuple[int, bytes] | None:
        raw = self._frames
        if len(raw) < _HEAD_BYTES:
            return None
        size = int.from_bytes(raw[1:_HEAD_BYTES], "big")
        if len(raw) < _HEAD_BYTES + size:
            return None
        frame = raw[0], bytes(raw[_HEAD_BYTES : _HEAD_BYTES + size])
        del raw[: _HEAD_BYTES + size]
        return frame
