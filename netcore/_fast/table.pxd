"""The forwarding table, as other kernels see it."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

# The same names and values as in netcore/wire.py; tests/meta compares them.
cdef enum:
    ACTION_REJECT = 0
    ACTION_LOCAL = 1
    ACTION_NEXT = 2
    LAYERS = 4
    SLOTS = 256
    SERVICES = 256

cdef enum:
    FIRST_SERVICE = 1024    # slots come first in the array of entries, services behind them
    ENTRIES = 1280

cdef extern from *:
    """
    #ifndef NETCORE_NO_NODE
    #define NETCORE_NO_NODE 0xFFFFFFFFu
    #endif
    """
    # An enumerator is an int, which is too small for it.
    const uint32_t NO_NODE "NETCORE_NO_NODE"

cdef struct route_t:
    int action              # ACTION_REJECT | ACTION_LOCAL | ACTION_NEXT
    uint64_t conn           # 0 unless ACTION_NEXT
    uint32_t node           # the neighbour at its other end; 0 unless ACTION_NEXT

cdef struct entry_t:
    uint64_t conn           # 0: the entry is empty
    uint64_t alt_conn       # 0: no alternate
    uint32_t node           # NO_NODE when conn is 0
    uint32_t alt_node       # NO_NODE when alt_conn is 0


@cython.final
cdef class RouteTable:
    cdef uint32_t _local_node
    cdef uint64_t _version
    cdef uint8_t _own[LAYERS]
    cdef uint8_t _is_local[SERVICES]
    cdef uint8_t _closest[LAYERS][SLOTS]    # occupied or own index closest to that byte of a key
    cdef entry_t _entries[ENTRIES]          # layer << 8 | index, then FIRST_SERVICE + service

    # from_node: the neighbour that the frame came from, NO_NODE for none. A route back to it is
    # answered only when there is no other: compare ``node`` and drop.
    cdef route_t c_path_to_node(self, uint32_t dest, uint32_t from_node) noexcept nogil
    cdef route_t c_path_to_key(self, uint32_t key, uint32_t from_node) noexcept nogil
    cdef route_t c_path_to_service(self, uint8_t service, uint32_t from_node) noexcept nogil

    cdef route_t _answer(self, int at, uint32_t from_node) noexcept nogil
    cdef void _put(self, int at, entry_t entry) noexcept nogil
    cdef void _rebuild_closest(self, int layer) noexcept nogil
    cdef int _slot(self, object layer, object index) except -1
