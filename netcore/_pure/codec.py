"""Frames and message headers: bytes to values and back.

The layout is drawn in `netcore.wire`. Everything here is a function of its arguments; nothing
blocks, nothing logs. What a neighbour did wrong is a `FrameError`; what the caller did wrong is a
`TypeError` or a `ValueError` that names the argument.
"""

from __future__ import annotations

import struct

from netcore import wire
from netcore.errors import FrameError
from netcore.route import RouteRule

from .._typing import TYPE_CHECKING, Any, Final, NoReturn, final

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    # collections.abc.Buffer is newer than the oldest Python that we support.
    BytesLike: TypeAlias = bytes | bytearray | memoryview
    # What decode_header returns.
    Header: TypeAlias = tuple[int, int, int, int, int, int, int, int | None, int]
    # payload, from_node, from_service, to_service, route kind, route argument, stream_id, meta,
    # ttl, sender_verified
    _Values: TypeAlias = tuple[bytes, int | None, int, int, int, int, int, int, int, bool]

__all__ = [
    "FrameSplitter",
    "Message",
    "decode_header",
    "decode_message",
    "encode_frame",
    "encode_header",
    "message_of",
]

_FIXED: Final = struct.Struct(">BBBBI")  # flags, ttl, from_service, to_service, stream_id
_WORD: Final = struct.Struct(">I")
_DIRECT: Final = RouteRule.direct()
_U8: Final = 0xFF


def _check(name: str, value: object, limit: int) -> int:
    """Return ``value`` as a plain int in 0..limit, or raise an error that names the argument."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int in 0..{limit}, not {value!r}")
    if not 0 <= value <= limit:
        raise ValueError(f"{name} must be an int in 0..{limit}, not {value!r}")
    return value if type(value) is int else int.__int__(value)


def _as_bytes(data: BytesLike) -> bytes:
    return data if type(data) is bytes else bytes(memoryview(data))


@final
class Message:
    """A decoded message. Immutable, compared by value.

    A direct message that names no sender comes from the link's node, so its ``from_node`` is that
    node. ``sender_verified`` is true for local messages and for those whose ``from_node`` is the
    other end of the link they came over.
    """

    # One tuple instead of ten slots: an immutable class pays ~100 ns for each slot that it sets.
    __slots__ = ("_values",)

    _values: _Values

    def __init__(
        self,
        payload: bytes,
        *,
        from_node: int | None = None,
        from_service: int = 0,
        to_service: int = 0,
        route: RouteRule = _DIRECT,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = wire.DEFAULT_TTL_HOPS,
        sender_verified: bool = False,
    ) -> None:
        """Make a message.

        Args:
            payload: Exactly ``bytes``; what the sender's service gave.
            from_node: Node id of the first sender, 0..2**32 - 2, or None when unknown.
            from_service: Service that sent it, 0..255.
            to_service: Service that it is for, 0..255.
            route: What it asked for.
            stream_id: 32 bits, free for the service.
            meta: 0..3, free for the service.
            ttl: Hops left, 0..255.
            sender_verified: Whether ``from_node`` is more than a claim.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: An argument is out of range.
        """
        if type(payload) is not bytes:
            raise TypeError(f"payload must be bytes, not {type(payload).__name__}")
        if type(route) is not RouteRule:
            raise TypeError(f"route must be a RouteRule, not {type(route).__name__}")
        values: _Values = (
            payload,
            None if from_node is None else _check("from_node", from_node, wire.MAX_NODE_ID),
            _check("from_service", from_service, _U8),
            _check("to_service", to_service, _U8),
            _check("route.kind", route.kind, wire.ROUTE_SERVICES),
            _check("route.argument", route.argument, wire.MAX_U32),
            _check("stream_id", stream_id, wire.MAX_U32),
            _check("meta", meta, wire.MAX_META),
            _check("ttl", ttl, wire.MAX_TTL_HOPS),
            bool(sender_verified),
        )
        object.__setattr__(self, "_values", values)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"Message is immutable, {name} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"Message is immutable, {name} cannot be deleted")

    def __reduce__(self) -> tuple[Callable[..., Message], tuple[Any, ...]]:
        return _restore, self._values

    @property
    def payload(self) -> bytes:
        """What the sender's service gave."""
        return self._values[0]

    @property
    def from_node(self) -> int | None:
        """Node id of the first sender; None when the message names none and was routed."""
        return self._values[1]

    @property
    def from_service(self) -> int:
        """Service that sent it, 0..255."""
        return self._values[2]

    @property
    def to_service(self) -> int:
        """Service that it is for, 0..255."""
        return self._values[3]

    @property
    def route(self) -> RouteRule:
        """What it asked for; made when read, since few handlers read it."""
        kind = self._values[4]
        return _DIRECT if kind == wire.ROUTE_DIRECT else RouteRule(kind, self._values[5])

    @property
    def stream_id(self) -> int:
        """32 bits, free for the service."""
        return self._values[6]

    @property
    def meta(self) -> int:
        """0..3, free for the service."""
        return self._values[7]

    @property
    def ttl(self) -> int:
        """Hops left when it arrived, 0..255."""
        return self._values[8]

    @property
    def sender_verified(self) -> bool:
        """Whether ``from_node`` is this node, or the node at the other end of the link."""
        return self._values[9]

    def __eq__(self, other: object) -> bool:
        if type(other) is not Message:
            return NotImplemented
        return self._values == other._values

    def __hash__(self) -> int:
        return hash(self._values)

    def __repr__(self) -> str:
        return (
            f"Message(<{len(self.payload)} bytes>, from_node={self.from_node}, "
            f"from_service={self.from_service}, to_service={self.to_service}, "
            f"route={self.route!r}, stream_id={self.stream_id}, meta={self.meta}, "
            f"ttl={self.ttl}, sender_verified={self.sender_verified})"
        )


def _restore(*values: Any) -> Message:  # noqa: ANN401  # the fields, in the order of _Values
    """Return the message with these fields, which are known to be in range."""
    message = object.__new__(Message)
    object.__setattr__(message, "_values", values)
    return message


def encode_header(
    kind: int,
    argument: int,
    ttl: int,
    from_service: int,
    to_service: int,
    stream_id: int,
    meta: int,
    from_node: int | None,
) -> bytes:
    """Return a message header.

    Args:
        kind: One of ``wire.ROUTE_*``.
        argument: Node id, service meta or key, 32 bits; not written for ``ROUTE_DIRECT``.
        ttl: 0..255.
        from_service: 0..255.
        to_service: 0..255.
        stream_id: 32 bits.
        meta: 0..3.
        from_node: Node id, 0..2**32 - 2, or None to leave it out.

    Returns:
        8, 12 or 16 bytes.

    Raises:
        TypeError: An argument is not an int.
        ValueError: An argument is out of range.
    """
    flags = _check("kind", kind, wire.ROUTE_KEY) << wire.ROUTE_SHIFT
    _check("argument", argument, wire.MAX_U32)
    _check("ttl", ttl, wire.MAX_TTL_HOPS)
    _check("from_service", from_service, _U8)
    _check("to_service", to_service, _U8)
    _check("stream_id", stream_id, wire.MAX_U32)
    flags |= _check("meta", meta, wire.MAX_META)
    tail = b""
    if from_node is not None:
        flags |= wire.FLAG_FROM_NODE
        tail = _WORD.pack(_check("from_node", from_node, wire.MAX_NODE_ID))
    if kind != wire.ROUTE_DIRECT:
        tail += _WORD.pack(argument)
    return _FIXED.pack(flags, ttl, from_service, to_service, stream_id) + tail


def decode_header(data: BytesLike) -> Header:
    """Decode the header at the start of ``data``; what follows it is not looked at.

    Returns:
        ``(kind, argument, ttl, from_service, to_service, stream_id, meta, from_node, size)``:
        argument is 0 for ``ROUTE_DIRECT``, from_node is None when the header names none, and
        size is the header's own, 8, 12 or 16.

    Raises:
        FrameError: "truncated" at the number of bytes that are there, "bad_version" or "sealed"
            at 0; in the order fixed part, version, seal, optional words.
    """
    if type(data) is not bytes:
        data = bytes(memoryview(data)[: wire.MAX_HEADER_BYTES])
    there = len(data)
    if there < wire.HEADER_BYTES:
        raise FrameError(wire.FRAME_TRUNCATED, there)
    flags, ttl, from_service, to_service, stream_id = _FIXED.unpack_from(data)
    if flags >> wire.VERSION_SHIFT != wire.HEADER_VERSION:
        raise FrameError(wire.FRAME_BAD_VERSION, 0)
    if flags & wire.FLAG_SEALED:
        raise FrameError(wire.FRAME_SEALED, 0)
    kind = (flags & wire.ROUTE_MASK) >> wire.ROUTE_SHIFT
    has_from = bool(flags & wire.FLAG_FROM_NODE)
    size = wire.HEADER_BYTES + 4 * has_from + 4 * (kind != wire.ROUTE_DIRECT)
    if there < size:
        raise FrameError(wire.FRAME_TRUNCATED, there)
    from_node: int | None = _WORD.unpack_from(data, wire.HEADER_BYTES)[0] if has_from else None
    argument: int = _WORD.unpack_from(data, size - 4)[0] if kind != wire.ROUTE_DIRECT else 0
    meta = flags & wire.META_MASK
    return kind, argument, ttl, from_service, to_service, stream_id, meta, from_node, size


def decode_message(body: BytesLike, link_node: int) -> Message:
    """Decode the body of a MESSAGE or CALL frame.

    Args:
        body: Header and payload.
        link_node: Node id of the other end of the link, 32 bits.

    Raises:
        FrameError: As `decode_header`.
        TypeError, ValueError: ``link_node`` is not a 32-bit int.
    """
    node = _check("link_node", link_node, wire.MAX_U32)
    data = _as_bytes(body)
    return message_of(decode_header(data), data, node)


def message_of(header: Header, data: bytes, node: int) -> Message:
    """Return the message whose decoded header is at the start of ``data``."""
    kind, argument, ttl, from_service, to_service, stream_id, meta, from_node, size = header
    if from_node is None and kind == wire.ROUTE_DIRECT:
        from_node = node
    return _restore(
        data[size:],
        from_node,
        from_service,
        to_service,
        kind,
        argument,
        stream_id,
        meta,
        ttl,
        from_node == node,
    )


def encode_frame(kind: int, body: BytesLike) -> bytes:
    """Return a frame: kind, 24-bit length, body.

    Args:
        kind: One of ``wire.KIND_*``, 0..255.
        body: At most 2**24 - 1 bytes.

    Raises:
        TypeError: ``kind`` is not an int, or ``body`` not bytes-like.
        ValueError: ``kind`` is out of range, or ``body`` too long.
    """
    _check("kind", kind, _U8)
    data = _as_bytes(body)
    if len(data) > wire.MAX_FRAME_BYTES:
        raise ValueError(f"body must be at most {wire.MAX_FRAME_BYTES} bytes, not {len(data)}")
    return _WORD.pack(kind << 24 | len(data)) + data


@final
class FrameSplitter:
    """Cut a stream of bytes into frames, however the bytes arrive.

    It holds what was fed and not taken yet, and nothing else: no memory is set aside because a
    frame claims to be long. After an error it is broken for good: the same error is raised again,
    and what is fed from then on is thrown away.
    """

    __slots__ = ("_broken", "_buffer", "_limit")

    def __init__(self, max_frame_bytes: int) -> None:
        """Make an empty splitter.

        Args:
            max_frame_bytes: Longest body that is accepted, 0..2**24 - 1.

        Raises:
            TypeError: It is not an int.
            ValueError: It is out of range.
        """
        self._limit = _check("max_frame_bytes", max_frame_bytes, wire.MAX_FRAME_BYTES)
        self._buffer = bytearray()
        self._broken = False

    def receive_data(self, data: BytesLike) -> None:
        """Take the next bytes of the stream, any number of them."""
        chunk = _as_bytes(data)
        if not self._broken:
            self._buffer += chunk

    def next_frame(self) -> tuple[int, bytes] | None:
        """Return kind and body of the next complete frame, or None.

        Raises:
            FrameError: "too_big" at 1, as soon as the four bytes of the frame's header are there.
        """
        if self._broken:
            raise FrameError(wire.FRAME_TOO_BIG, 1)
        if len(self._buffer) < wire.FRAME_HEADER_BYTES:
            return None
        word: int = _WORD.unpack_from(self._buffer)[0]
        length = word & wire.MAX_FRAME_BYTES
        if length > self._limit:
            self._broken = True
            raise FrameError(wire.FRAME_TOO_BIG, 1)
        end = wire.FRAME_HEADER_BYTES + length
        if len(self._buffer) < end:
            return None
        body = bytes(memoryview(self._buffer)[wire.FRAME_HEADER_BYTES : end])
        del self._buffer[:end]  # CPython moves the start of a bytearray instead of its bytes
        return word >> 24, body

    @property
    def buffered(self) -> int:
        """Number of bytes held."""
        return len(self._buffer)

    def take_rest(self) -> bytes:
        """Return the bytes that no frame was made of and forget them."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest
