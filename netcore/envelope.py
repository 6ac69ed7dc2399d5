"""The RPC envelope: what the payload of a CALL frame holds.

::

    request  u8 1 | u64 call id | u32 time left in ms | payload
    answer   u8 2 | u64 call id | payload
    error    u8 3 | u64 call id | u16 code | text, UTF-8, at most 200 bytes
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from . import wire
from .errors import (
    AnswerDropped,
    Busy,
    CallError,
    CallTimeout,
    FrameError,
    NotHandled,
    RemoteFailure,
    ServiceNotFound,
)

__all__ = [
    "Answer",
    "BytesLike",
    "Request",
    "decode_envelope",
    "encode_error",
    "encode_ok",
    "encode_request",
    "error_of",
]

BytesLike = bytes | bytearray | memoryview

MAX_CODE: Final = 0xFFFF  # u16

_REQUEST: Final = struct.Struct("!BQI")
_OK: Final = struct.Struct("!BQ")
_ERROR: Final = struct.Struct("!BQH")
_CODE_OFFSET: Final = 9

_ERRORS: Final[dict[int, type[CallError]]] = {
    wire.RPC_LOCAL_TIMEOUT: CallTimeout,
    wire.RPC_SERVICE_NOT_FOUND: ServiceNotFound,
    wire.RPC_NOT_HANDLED: NotHandled,
    wire.RPC_INTERNAL: RemoteFailure,
    wire.RPC_DROPPED: AnswerDropped,
    wire.RPC_BUSY: Busy,
}


class Request(NamedTuple):
    """A decoded request.

    Attributes:
        call_id: 64 bits, chosen at random by the caller.
        time_left_ms: Until the caller gives up, as it was when the request left.
        payload: The caller's bytes.
    """

    call_id: int
    time_left_ms: int
    payload: bytes


class Answer(NamedTuple):
    """A decoded answer.

    Attributes:
        call_id: That of the request.
        code: 0 for an answer, else why there is none.
        payload: The answer, empty for an error.
        text: The words of an error, empty for an answer.
    """

    call_id: int
    code: int
    payload: bytes
    text: str


def encode_request(call_id: int, time_left_ms: int, payload: BytesLike) -> bytes:
    """Return the envelope of a request; the time left saturates at 0 and 2**32 - 1."""
    left_ms = min(max(time_left_ms, 0), wire.MAX_U32)
    return _REQUEST.pack(wire.RPC_REQUEST, call_id, left_ms) + _checked(payload)


def encode_ok(call_id: int, payload: BytesLike) -> bytes:
    """Return the envelope of an answer."""
    return _OK.pack(wire.RPC_OK, call_id) + _checked(payload)


def _checked(payload: BytesLike) -> BytesLike:
    if not isinstance(payload, bytes | bytearray | memoryview):
        raise TypeError(
            f"a payload is bytes, bytearray or memoryview, not {type(payload).__name__}"
        )
    return payload


def encode_error(call_id: int, code: int, text: str = "") -> bytes:
    """Return the envelope of an error.

    Args:
        call_id: That of the request.
        code: 1..65535.
        text: Cut to 200 bytes of UTF-8, never inside a character.

    Raises:
        ValueError: ``code`` is out of range.
    """
    if not 0 < code <= MAX_CODE:
        raise ValueError(f"an error code is 1..{MAX_CODE}, not {code!r}")
    return _ERROR.pack(wire.RPC_ERROR, call_id, code) + _cut(text)


def _cut(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    if len(data) <= wire.MAX_REASON_BYTES:
        return data
    return data[: wire.MAX_REASON_BYTES].decode("utf-8", "ignore").encode()


def decode_envelope(payload: BytesLike) -> Request | Answer:
    """Return the request or the answer in the payload of a CALL.

    Raises:
        FrameError: "truncated", with the number of bytes that were there, or "bad_body", with the
            offset of what is wrong. The writer may be many hops away, so this says nothing about
            the neighbour that brought the frame.
    """
    if not payload:
        raise FrameError(wire.FRAME_TRUNCATED, 0)
    kind = payload[0]
    if kind == wire.RPC_REQUEST:
        _check_header(payload, wire.RPC_REQUEST_HEADER_BYTES)
        _, call_id, left_ms = _REQUEST.unpack_from(payload)
        return Request(call_id, left_ms, bytes(payload[wire.RPC_REQUEST_HEADER_BYTES :]))
    if kind == wire.RPC_OK:
        _check_header(payload, wire.RPC_OK_HEADER_BYTES)
        _, call_id = _OK.unpack_from(payload)
        return Answer(call_id, 0, bytes(payload[wire.RPC_OK_HEADER_BYTES :]), "")
    if kind == wire.RPC_ERROR:
        return _decode_error(payload)
    raise FrameError(wire.FRAME_BAD_BODY, 0)


def _check_header(payload: BytesLike, size: int) -> None:
    if len(payload) < size:
        raise FrameError(wire.FRAME_TRUNCATED, len(payload))


def _decode_error(payload: BytesLike) -> Answer:
    start = wire.RPC_ERROR_HEADER_BYTES
    _check_header(payload, start)
    _, call_id, code = _ERROR.unpack_from(payload)
    if code == 0:
        raise FrameError(wire.FRAME_BAD_BODY, _CODE_OFFSET)
    if len(payload) > start + wire.MAX_REASON_BYTES:
        raise FrameError(wire.FRAME_BAD_BODY, start + wire.MAX_REASON_BYTES)
    try:
        text = bytes(payload[start:]).decode()
    except UnicodeDecodeError as exc:
        raise FrameError(wire.FRAME_BAD_BODY, start + exc.start) from None
    return Answer(call_id, code, b"", text)


def error_of(code: int, text: str = "") -> CallError:
    """Return the error a code stands for; a plain `CallError` for the application's own."""
    return _ERRORS.get(code, CallError)(code, text)
