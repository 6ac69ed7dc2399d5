"""The bodies of PING and PONG frames.

::

    PING  u64 token | u16 the sender's interval in ms | u8 flags
    PONG  u64 token
"""

from __future__ import annotations

import struct

from . import wire
from ._typing import Final, NamedTuple
from .errors import FrameError

__all__ = ["Ping", "decode_ping", "decode_pong", "encode_ping", "encode_pong"]

BytesLike = bytes | bytearray | memoryview

_PING: Final = struct.Struct("!QHB")
_PONG: Final = struct.Struct("!Q")


class Ping(NamedTuple):
    """A decoded PING.

    Attributes:
        token: To be sent back; 0: no answer wanted.
        interval_ms: The sender's interval.
        flags: ``wire.PING_FLAG_*``; unknown ones are room for extensions.
    """

    token: int
    interval_ms: int
    flags: int


def encode_ping(token: int, interval_ms: int, flags: int = 0) -> bytes:
    """Return the body of a PING."""
    return _PING.pack(token, interval_ms, flags)


def decode_ping(body: BytesLike) -> Ping:
    """Return what is in the body of a PING.

    Raises:
        FrameError: "truncated" or, for a body too long, "bad_body".
    """
    _check_length(body, wire.PING_BYTES)
    return Ping(*_PING.unpack(body))


def encode_pong(token: int) -> bytes:
    """Return the body of a PONG."""
    return _PONG.pack(token)


def decode_pong(body: BytesLike) -> int:
    """Return the token in the body of a PONG.

    Raises:
        FrameError: "truncated" or, for a body too long, "bad_body".
    """
    _check_length(body, wire.PONG_BYTES)
    return int(_PONG.unpack(body)[0])


def _check_length(body: BytesLike, size: int) -> None:
    if len(body) < size:
        raise FrameError(wire.FRAME_TRUNCATED, len(body))
    if len(body) > size:
        raise FrameError(wire.FRAME_BAD_BODY, size)
