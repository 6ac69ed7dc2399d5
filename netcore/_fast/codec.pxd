"""Frames and message headers, as other kernels see them."""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

# The same names and values as in netcore/wire.py; tests/meta compares them.
cdef enum:
    FRAME_HEADER_BYTES = 4
    MAX_FRAME_BYTES = 0xFFFFFF

    HEADER_BYTES = 8
    MAX_HEADER_BYTES = 16
    HEADER_VERSION = 0
    VERSION_SHIFT = 6
    FLAG_FROM_NODE = 0x20
    FLAG_SEALED = 0x04
    ROUTE_SHIFT = 3
    ROUTE_MASK = 0x18
    META_MASK = 0x03

    ROUTE_DIRECT = 0
    ROUTE_NODE = 1
    ROUTE_SERVICE = 2
    ROUTE_KEY = 3
    ROUTE_SERVICES = 4      # a rule, but not in a header

    DEFAULT_TTL_HOPS = 64
    MAX_TTL_HOPS = 255
    MAX_META = 3
    MAX_SERVICE = 255

# What is wrong with bytes: 1 + the position of the reason in wire.FRAME_ERRORS.
cdef enum:
    ERROR_NONE = 0
    ERROR_TRUNCATED = 1
    ERROR_BAD_VERSION = 2
    ERROR_SEALED = 3
    ERROR_TOO_BIG = 4
    ERROR_BAD_KIND = 5
    ERROR_BAD_TAG = 6
    ERROR_BAD_BODY = 7

# memcpy because nothing in a receive buffer is aligned; the compiler makes one instruction of it.
cdef extern from *:
    """
    #ifndef NETCORE_BYTE_ORDER
    #define NETCORE_BYTE_ORDER
    #include <stdint.h>
    #include <string.h>
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    #define netcore_be16(v) __builtin_bswap16(v)
    #define netcore_be32(v) __builtin_bswap32(v)
    #define netcore_be64(v) __builtin_bswap64(v)
    #else
    #define netcore_be16(v) (v)
    #define netcore_be32(v) (v)
    #define netcore_be64(v) (v)
    #endif
    #define NETCORE_BYTE_ORDER_PAIR(bits) \\
        static inline uint##bits##_t netcore_load_u##bits(const void *from) { \\
            uint##bits##_t v; memcpy(&v, from, sizeof v); return netcore_be##bits(v); \\
        } \\
        static inline void netcore_store_u##bits(void *to, uint##bits##_t v) { \\
            v = netcore_be##bits(v); memcpy(to, &v, sizeof v); \\
        }
    NETCORE_BYTE_ORDER_PAIR(16)
    NETCORE_BYTE_ORDER_PAIR(32)
    NETCORE_BYTE_ORDER_PAIR(64)
    #endif
    """
    uint16_t load_u16 "netcore_load_u16" (const void* data) noexcept nogil
    uint32_t load_u32 "netcore_load_u32" (const void* data) noexcept nogil
    uint64_t load_u64 "netcore_load_u64" (const void* data) noexcept nogil
    void store_u16 "netcore_store_u16" (void* to, uint16_t value) noexcept nogil
    void store_u32 "netcore_store_u32" (void* to, uint32_t value) noexcept nogil
    void store_u64 "netcore_store_u64" (void* to, uint64_t value) noexcept nogil

# An int that fits one digit, as nearly all arguments of sends do, is read without a call.
cdef extern from *:
    """
    #ifndef NETCORE_PLAIN_INT
    #define NETCORE_PLAIN_INT
    #if PY_VERSION_HEX < 0x030B0000
    #include <longintrepr.h>
    #endif
    static inline long long netcore_plain_int(PyObject *value, long long limit) {
        long long number;
        int overflow = 0;
        if (PyLong_CheckExact(value)) {
    #if PY_VERSION_HEX >= 0x030C0000
            if (PyUnstable_Long_IsCompact((PyLongObject *)value)) {
                number = PyUnstable_Long_CompactValue((PyLongObject *)value);
                return number >= 0 && number <= limit ? number : -1;
            }
    #else
            if (Py_SIZE(value) == 0) return 0;
            if (Py_SIZE(value) == 1) {
                number = ((PyLongObject *)value)->ob_digit[0];
                return number <= limit ? number : -1;
            }
    #endif
        } else if (!PyLong_Check(value) || PyBool_Check(value)) {
            return -1;
        }
        number = PyLong_AsLongLongAndOverflow(value, &overflow);
        return overflow == 0 && number >= 0 && number <= limit ? number : -1;
    }
    #endif
    """
    # An int in 0..limit, else -1; a bool is no int here. Never fails.
    long long plain "netcore_plain_int" (object value, long long limit) noexcept

cdef struct header_t:
    int kind                # ROUTE_*
    uint32_t argument       # 0 when kind is ROUTE_DIRECT
    uint8_t ttl
    uint8_t from_service
    uint8_t to_service
    uint8_t meta
    bint has_from
    uint32_t from_node      # 0 unless has_from
    uint32_t stream_id
    int size                # 8, 12 or 16


cdef inline int c_decode_header(const uint8_t* data, size_t n, header_t* out) noexcept nogil:
    """Decode the header at the start of n bytes; return 0 or an ERROR_* and leave out undefined."""
    cdef int flags
    cdef int at = HEADER_BYTES
    if n < HEADER_BYTES:
        return ERROR_TRUNCATED
    flags = data[0]
    if flags >> VERSION_SHIFT != HEADER_VERSION:
        return ERROR_BAD_VERSION
    if flags & FLAG_SEALED:
        return ERROR_SEALED
    out.kind = (flags & ROUTE_MASK) >> ROUTE_SHIFT
    out.has_from = (flags & FLAG_FROM_NODE) != 0
    out.meta = flags & META_MASK
    out.ttl = data[1]
    out.from_service = data[2]
    out.to_service = data[3]
    out.stream_id = load_u32(data + 4)
    out.from_node = 0
    out.argument = 0
    out.size = HEADER_BYTES + 4 * out.has_from + 4 * (out.kind != ROUTE_DIRECT)
    if n < <size_t>out.size:
        return ERROR_TRUNCATED
    if out.has_from:
        out.from_node = load_u32(data + at)
        at += 4
    if out.kind != ROUTE_DIRECT:
        out.argument = load_u32(data + at)
    return ERROR_NONE


cdef inline int c_encode_header(uint8_t* out, const header_t* header) noexcept nogil:
    """Write a header into MAX_HEADER_BYTES of room; return its size, header.size is not read."""
    cdef int at = HEADER_BYTES
    out[0] = <uint8_t>(
        HEADER_VERSION << VERSION_SHIFT
        | (FLAG_FROM_NODE if header.has_from else 0)
        | header.kind << ROUTE_SHIFT
        | (header.meta & META_MASK)
    )
    out[1] = header.ttl
    out[2] = header.from_service
    out[3] = header.to_service
    store_u32(out + 4, header.stream_id)
    if header.has_from:
        store_u32(out + at, header.from_node)
        at += 4
    if header.kind != ROUTE_DIRECT:
        store_u32(out + at, header.argument)
        at += 4
    return at


# Offset of the error that c_decode_header found in n bytes, as FrameError wants it.
cdef inline Py_ssize_t c_error_offset(int code, size_t n) noexcept nogil:
    return <Py_ssize_t>n if code == ERROR_TRUNCATED else 0


@cython.final
cdef class Message:
    cdef readonly bytes payload
    cdef uint32_t c_from_node           # 0 unless c_has_from
    cdef uint32_t c_argument            # of the route; 0 when c_kind is ROUTE_DIRECT
    cdef readonly uint32_t stream_id
    cdef readonly uint8_t from_service
    cdef readonly uint8_t to_service
    cdef readonly uint8_t meta
    cdef readonly uint8_t ttl
    cdef uint8_t c_kind                 # ROUTE_*
    cdef bint c_has_from
    cdef readonly bint sender_verified

    cdef tuple _values(self)


# local: the message never left this node. A direct one that names no sender is from link_node.
cdef Message new_message(bytes payload, const header_t* header, uint32_t link_node, bint local)

# Raise the FrameError of an ERROR_*; always returns -1.
cdef int raise_frame_error(int code, Py_ssize_t offset) except -1
