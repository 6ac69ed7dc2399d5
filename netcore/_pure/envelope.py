"""The RPC envelope: what the payload of a CALL frame holds.

::

    request  u8 1 | u64 call id | u32 time left in ms | payload
    answer   u8 2 | u64 call id | payload
    error    u8 3 | u64 call id | u16 code | text, UTF-8, at most 200 bytes
"""

from __future__ import annotations

import struct

from .. import wire
from .._typing import Final, NamedTuple
from ..errors import (
    AnswerDropped,
    Busy,
    CallError,
    CallTimeout,
    NotHandled,
    RemoteFailure,
    ServiceNotFound,
)

__all__ = [
    "Answer",
    "Request",
    "cut_text",
    "decode_envelope",
    "encode_error",
    "encode_ok",
    "encode_request",
    "error_of",
]

_REQUEST: Final = struct.Struct("!BQI")
_OK: Final = struct.Struct("!BQ")
_ERROR: Final = struct.Struct("!BQH")

_KIND_REQUEST: Final = bytes([wire.RPC_REQUEST])
_KIND_OK: Final = bytes([wire.RPC_OK])
_KIND_ERROR: Final = bytes([wire.RPC_ERROR])

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


def encode_request(call_id: int, time_left_ms: int, payload: bytes) -> bytes:
    """Return the envelope of a request."""
    return _REQUEST.pack(wire.RPC_REQUEST, call_id, time_left_ms) + payload


def encode_ok(call_id: int, payload: bytes) -> bytes:
    """Return the envelope of an answer."""
    return _OK.pack(wire.RPC_OK, call_id) + payload


def encode_error(call_id: int, code: int, text: bytes) -> bytes:
    """Return the envelope of an error, with a text out of ``cut_text``."""
    return _ERROR.pack(wire.RPC_ERROR, call_id, code) + text


def cut_text(text: str) -> bytes:
    """Return at most 200 bytes of UTF-8, never cut inside a character."""
    if not isinstance(text, str):
        raise TypeError(f"text must be str, not {type(text).__name__}")
    data = text.encode("utf-8", "replace")
    if len(data) <= wire.MAX_REASON_BYTES:
        return data
    return data[: wire.MAX_REASON_BYTES].decode("utf-8", "ignore").encode()


def decode_envelope(payload: bytes) -> Request | Answer | None:
    """Return the request or the answer in the payload of a CALL; None when it makes no sense.

    The writer may be many hops away, so that says nothing about the neighbour that brought it.
    """
    kind, size = payload[:1], len(payload)
    if kind == _KIND_REQUEST and size >= wire.RPC_REQUEST_HEADER_BYTES:
        _, call_id, left_ms = _REQUEST.unpack_from(payload)
        return Request(call_id, left_ms, payload[wire.RPC_REQUEST_HEADER_BYTES :])
    if kind == _KIND_OK and size >= wire.RPC_OK_HEADER_BYTES:
        _, call_id = _OK.unpack_from(payload)
        return Answer(call_id, 0, payload[wire.RPC_OK_HEADER_BYTES :], "")
    start = wire.RPC_ERROR_HEADER_BYTES
    if kind == _KIND_ERROR and start <= size <= start + wire.MAX_REASON_BYTES:
        return _decode_error(payload)
    return None


def _decode_error(payload: bytes) -> Answer | None:
    _, call_id, code = _ERROR.unpack_from(payload)
    try:
        text = payload[wire.RPC_ERROR_HEADER_BYTES :].decode()
    except UnicodeDecodeError:
        return None
    return Answer(call_id, code, b"", text) if code else None


def error_of(code: int, text: str = "") -> CallError:
    """Return the error a code stands for; a plain `CallError` for the application's own."""
    return _ERRORS.get(code, CallError)(code, text)
