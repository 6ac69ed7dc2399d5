"""Records: the layer between socket and frames at level *auth*.

Facts that this file relies on:

- A record is ``u24 length | body (1..32 KiB) | tag (16 bytes)``; the body is a piece of the frame
  stream, cut anywhere. The tag is HMAC-SHA256 over (64-bit sequence | body), cut to 16 bytes.
- Each direction has its own key and its own sequence, from 0. So a record that was repeated,
  dropped, reordered or sent back to its sender has a wrong tag. The length needs no place in the
  tag: another length is another body.
- It authenticates, it does **not** encrypt. Everybody on the way can read along.
- No byte of a body leaves ``open`` before its tag was verified, and a wrong one breaks the stream
  for good; what came before it is good all the same.
- hmac is imported by the first link that needs it: a node without a secret never does.
"""

from __future__ import annotations

from .. import wire
from .._typing import final
from ..errors import FrameError

__all__ = ["Records"]

_LENGTH_BYTES = wire.RECORD_LENGTH_BYTES
_TAG_BYTES = wire.RECORD_TAG_BYTES


@final
class Records:
    """Both directions of one link: ``seal`` what goes out, ``open`` what came in."""

    __slots__ = (
        "_broken",
        "_buffer",
        "_compare",
        "_digest",
        "_open_key",
        "_opened",
        "_seal_key",
        "_sealed",
    )

    def __init__(self, seal_key: bytes, open_key: bytes) -> None:
        """Start both sequences at 0.

        Args:
            seal_key: 32 bytes for what this side sends.
            open_key: 32 bytes for what the other side sends.
        """
        from hmac import compare_digest, digest

        self._digest = digest
        self._compare = compare_digest
        self._seal_key = seal_key
        self._open_key = open_key
        self._sealed = 0
        self._opened = 0
        self._buffer = bytearray()
        self._broken: tuple[str, int] | None = None  # not the error: it would keep its callers

    def seal(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return ``data`` as records, ready to send. Nothing in, nothing out."""
        parts: list[bytes] = []
        for start in range(0, len(data), wire.MAX_RECORD_BODY_BYTES):
            body = bytes(data[start : start + wire.MAX_RECORD_BODY_BYTES])
            parts.append(len(body).to_bytes(_LENGTH_BYTES, "big"))
            parts.append(body)
            parts.append(self._tag(self._seal_key, self._sealed, body))
            self._sealed += 1
        return b"".join(parts)

    def open(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return what the records completed by ``data`` hold; the start of another one is kept.

        A record that is wrong ends it: nothing behind is opened, and ``error`` says why.
        """
        if self._broken is not None:
            return b""
        self._buffer += data
        bodies: list[bytes] = []
        start = 0
        try:
            while (body := self._body_at(start)) is not None:
                bodies.append(body)
                start += _LENGTH_BYTES + len(body) + _TAG_BYTES
        except FrameError as exc:
            self._broken = (exc.reason, exc.offset)
            self._buffer.clear()
        del self._buffer[:start]
        return b"".join(bodies)

    @property
    def error(self) -> FrameError | None:
        """What is wrong with what came, None while nothing is.

        Its reason is ``too_big`` or ``bad_body`` for a length that cannot be, ``bad_tag`` for a
        wrong tag. Offsets count from the start of that record.
        """
        return None if self._broken is None else FrameError(*self._broken)

    @property
    def buffered(self) -> int:
        """Bytes of an unfinished record; never more than one record's worth."""
        return len(self._buffer)

    def _body_at(self, start: int) -> bytes | None:
        """Return the verified body of the record at ``start``, None while it is incomplete."""
        begin = start + _LENGTH_BYTES
        if len(self._buffer) < begin:
            return None
        length = int.from_bytes(self._buffer[start:begin], "big")
        if length > wire.MAX_RECORD_BODY_BYTES:
            raise FrameError(wire.FRAME_TOO_BIG, 0)
        if length == 0:  # says nothing and costs a hash: nobody sends it in good faith
            raise FrameError(wire.FRAME_BAD_BODY, 0)
        end = begin + length
        if len(self._buffer) < end + _TAG_BYTES:
            return None
        body = bytes(self._buffer[begin:end])
        tag = bytes(self._buffer[end : end + _TAG_BYTES])
        if not self._compare(tag, self._tag(self._open_key, self._opened, body)):
            raise FrameError(wire.FRAME_BAD_TAG, _LENGTH_BYTES + length)
        self._opened += 1
        return body

    def _tag(self, key: bytes, sequence: int, body: bytes) -> bytes:
        return self._digest(key, sequence.to_bytes(8, "big") + body, "sha256")[:_TAG_BYTES]

    def __repr__(self) -> str:
        return f"<Records sealed={self._sealed} opened={self._opened}>"
