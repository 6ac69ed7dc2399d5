"""Frames and message headers: bytes to values and back."""

cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from netcore import wire
from netcore.errors import FrameError
from netcore.route import RouteRule

__all__ = [
    "FrameSplitter",
    "Message",
    "decode_header",
    "decode_message",
    "encode_frame",
    "encode_header",
]

cdef uint32_t MAX_NODE_ID = wire.MAX_NODE_ID
cdef uint32_t MAX_U32 = wire.MAX_U32
cdef object DIRECT = RouteRule.direct()
cdef tuple REASONS = wire.FRAME_ERRORS


cdef uint32_t checked(str name, object value, uint32_t limit) except? 0xDEAD:
    """Return the value of an int in 0..limit, or raise an error that names the argument."""
    cdef int overflow = 0
    cdef long long number
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int in 0..{limit}, not {value!r}")
    number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow or not 0 <= number <= limit:
        raise ValueError(f"{name} must be an int in 0..{limit}, not {value!r}")
    return <uint32_t>number


cdef inline bytes as_bytes(object data):
    return data if isinstance(data, bytes) else bytes(memoryview(data))


cdef inline const uint8_t* start_of(bytes data) noexcept:
    """Return the first byte; valid as long as the caller holds the object."""
    return <const uint8_t*>PyBytes_AS_STRING(data)


cdef int raise_frame_error(int code, Py_ssize_t offset) except -1:
    raise FrameError(REASONS[code - 1], offset)


@cython.final
@cython.freelist(256)
cdef class Message:
    """A decoded message. Immutable, compared by value."""

    def __init__(
        self,
        payload,
        *,
        from_node=None,
        from_service=0,
        to_service=0,
        route=DIRECT,
        stream_id=0,
        meta=0,
        ttl=DEFAULT_TTL_HOPS,
        sender_verified=False,
    ):
        """Make a message."""
        if not PyBytes_CheckExact(payload):
            raise TypeError(f"payload must be bytes, not {type(payload).__name__}")
        if type(route) is not RouteRule:
            raise TypeError(f"route must be a RouteRule, not {type(route).__name__}")
        self.payload = payload
        self.c_has_from = from_node is not None
        if self.c_has_from:
            self.c_from_node = checked("from_node", from_node, MAX_NODE_ID)
        self.from_service = <uint8_t>checked("from_service", from_service, MAX_SERVICE)
        self.to_service = <uint8_t>checked("to_service", to_service, MAX_SERVICE)
        self.c_kind = <uint8_t>checked("route.kind", route.kind, ROUTE_SERVICES)
        self.c_argument = checked("route.argument", route.argument, MAX_U32)
        self.stream_id = checked("stream_id", stream_id, MAX_U32)
        self.meta = <uint8_t>checked("meta", meta, MAX_META)
        self.ttl = <uint8_t>checked("ttl", ttl, MAX_TTL_HOPS)
        self.sender_verified = sender_verified

    def __reduce__(self):
        return _restore, self._values()

    @property
    def from_node(self):
        """Node id of the first sender; None when the message names none and was routed."""
        return self.c_from_node if self.c_has_from else None

    @property
    def route(self):
        """What it asked for; made when read, since few handlers read it."""
        return DIRECT if self.c_kind == ROUTE_DIRECT else RouteRule(self.c_kind, self.c_argument)

    cdef tuple _values(self):
        return (
            self.payload,
            self.from_node,
            self.from_service,
            self.to_service,
            self.c_kind,
            self.c_argument,
            self.stream_id,
            self.meta,
            self.ttl,
            self.sender_verified,
        )

    def __eq__(self, other):
        if type(other) is not Message:
            return NotImplemented
        return self._values() == (<Message>other)._values()

    def __hash__(self):
        return hash(self._values())

    def __repr__(self):
        return (
            f"Message(<{len(self.payload)} bytes>, from_node={self.from_node}, "
            f"from_service={self.from_service}, to_service={self.to_service}, "
            f"route={self.route!r}, stream_id={self.stream_id}, meta={self.meta}, "
            f"ttl={self.ttl}, sender_verified={self.sender_verified})"
        )


cdef Message new_message(bytes payload, const header_t* header, uint32_t link_node, bint local):
    cdef Message message = Message.__new__(Message)
    message.payload = payload
    message.c_has_from = header.has_from or header.kind == ROUTE_DIRECT
    message.c_from_node = 0
    if message.c_has_from:
        message.c_from_node = header.from_node if header.has_from else link_node
    message.from_service = header.from_service
    message.to_service = header.to_service
    message.c_kind = <uint8_t>header.kind
    message.c_argument = header.argument
    message.stream_id = header.stream_id
    message.meta = header.meta
    message.ttl = header.ttl
    message.sender_verified = local or (message.c_has_from and message.c_from_node == link_node)
    return message


def _restore(
    bytes payload,
    from_node,
    uint8_t from_service,
    uint8_t to_service,
    uint8_t kind,
    uint32_t argument,
    uint32_t stream_id,
    uint8_t meta,
    uint8_t ttl,
    bint sender_verified,
):
    """Return the message with these fields, which are known to be in range."""
    cdef Message message = Message.__new__(Message)
    message.payload = payload
    message.c_has_from = from_node is not None
    message.c_from_node = from_node if message.c_has_from else 0
    message.from_service = from_service
    message.to_service = to_service
    message.c_kind = kind
    message.c_argument = argument
    message.stream_id = stream_id
    message.meta = meta
    message.ttl = ttl
    message.sender_verified = sender_verified
    return message


def encode_header(
    kind, argument, ttl, from_service, to_service, stream_id, meta, from_node
):
    """Return a message header."""
    cdef header_t header
    cdef uint8_t out[MAX_HEADER_BYTES]
    header.kind = <int>checked("kind", kind, ROUTE_KEY)
    header.argument = checked("argument", argument, MAX_U32)
    header.ttl = <uint8_t>checked("ttl", ttl, MAX_TTL_HOPS)
    header.from_service = <uint8_t>checked("from_service", from_service, MAX_SERVICE)
    header.to_service = <uint8_t>checked("to_service", to_service, MAX_SERVICE)
    header.stream_id = checked("stream_id", stream_id, MAX_U32)
    header.meta = <uint8_t>checked("meta", meta, MAX_META)
    header.has_from = from_node is not None
    header.from_node = checked("from_node", from_node, MAX_NODE_ID) if header.has_from else 0
    return PyBytes_FromStringAndSize(<char*>out, c_encode_header(out, &header))


def decode_header(data):
    """Decode the header at the start of ``data``; what follows it is not looked at."""
    cdef header_t header
    cdef int code
    cdef bytes there = (
        data if isinstance(data, bytes) else bytes(memoryview(data)[:MAX_HEADER_BYTES])
    )
    code = c_decode_header(start_of(there), PyBytes_GET_SIZE(there), &header)
    if code:
        return raise_frame_error(code, c_error_offset(code, PyBytes_GET_SIZE(there)))
    return (
        header.kind,
        header.argument,
        header.ttl,
        header.from_service,
        header.to_service,
        header.stream_id,
        header.meta,
        header.from_node if header.has_from else None,
        header.size,
    )


def decode_message(body, link_node):
    """Decode the body of a MESSAGE or CALL frame."""
    cdef uint32_t node = checked("link_node", link_node, MAX_U32)
    cdef bytes data = as_bytes(body)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
    cdef header_t header
    cdef int code = c_decode_header(start_of(data), n, &header)
    if code:
        return raise_frame_error(code, c_error_offset(code, n))
    payload = PyBytes_FromStringAndSize(<char*>start_of(data) + header.size, n - header.size)
    return new_message(payload, &header, node, False)


def encode_frame(kind, body):
    """Return a frame: kind, 24-bit length, body."""
    cdef uint32_t word = checked("kind", kind, 0xFF) << 24
    cdef bytes data = as_bytes(body)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
    cdef bytes frame
    cdef uint8_t* out
    if n > MAX_FRAME_BYTES:
        raise ValueError(f"body must be at most {MAX_FRAME_BYTES} bytes, not {n}")
    frame = PyBytes_FromStringAndSize(NULL, FRAME_HEADER_BYTES + n)
    out = <uint8_t*>PyBytes_AS_STRING(frame)
    store_u32(out, word | <uint32_t>n)
    memcpy(out + FRAME_HEADER_BYTES, start_of(data), n)
    return frame


@cython.final
cdef class FrameSplitter:
    """Cut a stream of bytes into frames, however the bytes arrive."""

    cdef bytearray _buffer
    cdef uint32_t _limit
    cdef bint _broken

    def __cinit__(self, max_frame_bytes):
        """Make an empty splitter."""
        self._limit = checked("max_frame_bytes", max_frame_bytes, MAX_FRAME_BYTES)
        self._buffer = bytearray()
        self._broken = False

    def receive_data(self, data):
        """Take the next bytes of the stream, any number of them."""
        cdef bytes chunk = as_bytes(data)
        if not self._broken:
            self._buffer += chunk

    def next_frame(self):
        """Return kind and body of the next complete frame, or None."""
        cdef Py_ssize_t there = len(self._buffer)
        cdef Py_ssize_t end
        cdef const char* data = self._buffer
        cdef uint32_t word
        if self._broken:
            raise_frame_error(ERROR_TOO_BIG, 1)
        if there < FRAME_HEADER_BYTES:
            return None
        word = load_u32(data)
        if (word & MAX_FRAME_BYTES) > self._limit:
            self._broken = True
            raise_frame_error(ERROR_TOO_BIG, 1)
        end = FRAME_HEADER_BYTES + (word & MAX_FRAME_BYTES)
        if there < end:
            return None
        body = PyBytes_FromStringAndSize(data + FRAME_HEADER_BYTES, end - FRAME_HEADER_BYTES)
        del self._buffer[:end]  # CPython moves the start of a bytearray instead of its bytes
        return word >> 24, body

    @property
    def buffered(self):
        """Number of bytes held."""
        return len(self._buffer)

    def take_rest(self):
        """Return the bytes that no frame was made of and forget them."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest
