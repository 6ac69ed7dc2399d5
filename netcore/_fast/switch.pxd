"""The switch, as other kernels see it."""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from netcore._fast.codec cimport ROUTE_SERVICE, Message, header_t
from netcore._fast.connection cimport Connection, Hub
from netcore._fast.table cimport RouteTable, route_t

# What ACTION_* cannot say: the injected router raised.
cdef enum:
    ROUTER_ERROR = 3

cdef enum:
    HOOKS_BETWEEN = 16          # looks at the clock
    WRITE_PAST_BYTES = 16384    # runs from here on are written at once, if nothing waits before
    CACHED_LINKS = 1024     # entries of the map from conn id to link; a power of two
    SHED_SHARE = 16         # this part of the bound of all queues is made free when it is exceeded

# One entry of the direct-mapped cache in front of Switch._connections.
cdef struct link_t:
    uint64_t conn_id
    PyObject* conn          # borrowed from Switch._connections; NULL: empty

# Where the last message of this node went: the next one often goes the same way.
cdef struct way_t:
    PyObject* conn          # borrowed from Switch._connections; NULL: nothing is known
    uint64_t version        # of the table that said so
    uint32_t key
    int kind                # ROUTE_*

# Frames that lie behind each other in a receive buffer and go the same way. What is known about
# their next hop stays true as long as the run lasts, because no Python code runs meanwhile.
cdef struct run_t:
    PyObject* hop           # the link, borrowed
    uint8_t* start
    size_t bytes            # 0: no run
    size_t queue_room       # a frame may be added while fewer bytes than that are in the run
    size_t held_room        # with more than that in it the bound of all queues is exceeded
    uint32_t max_length     # of a body
    int kind                # ROUTE_*
    uint32_t key            # node, key or service
    uint64_t frames


cdef inline uint32_t route_key(const header_t* header) noexcept:
    """Return what the route depends on besides its kind: node, key or service."""
    return header.to_service if header.kind == ROUTE_SERVICE else header.argument


# Return ``payload`` as bytes.
cdef bytes as_payload(object payload)


# The part of CallDesk that switch and ports use. It is here because two kernels cannot know each
# other.
cdef class Calls:
    # Take in a CALL for this node; ``data`` is its envelope and lives as long as this runs.
    cdef int c_on_call(
        self, const header_t* header, bint verified, const uint8_t* data, size_t n
    ) except -1
    cdef int c_call(
        self,
        object from_service,
        object rule,
        object service_id,
        object payload,
        object on_done,
        object timeout_ms,
    ) except -1


# The part of BroadcastDesk that the switch uses, likewise.
cdef class Broadcasts:
    # Take in a BROADCAST; its body lives as long as this runs.
    cdef int c_on_frame(self, Connection conn, const uint8_t* body, size_t n) except -1
    cdef int c_send(
        self,
        object level,
        object payload,
        object from_service,
        object to_service,
        object stream_id,
        object meta,
        object ttl,
    ) except -1


@cython.final
cdef class Switch(Hub):
    cdef readonly uint32_t node_id
    cdef readonly Py_ssize_t max_frame_bytes
    cdef readonly size_t local_queue_bytes
    cdef Calls _calls                       # set by itself, or None
    cdef Broadcasts _broadcasts             # likewise
    cdef RouteTable _table                  # one of these two is None
    cdef object _router
    cdef object _commands
    cdef dict _connections                  # conn id -> Connection, oldest first
    cdef list _behaviors                    # (hook, agent) or None
    cdef object _local                      # deque of Message, or (frame kind, Message)
    cdef size_t _local_bytes
    cdef object _closed                     # what sends raise, None while they are accepted
    cdef link_t _cache[CACHED_LINKS]
    cdef way_t _way

    cdef PyObject* _find(self, uint64_t conn_id) except? NULL

    cdef int _originate_checked(
        self,
        int frame_kind,
        object route_kind,
        object argument,
        object payload,
        object from_service,
        object to_service,
        object stream_id,
        object meta,
        object ttl,
    ) except -1
    cdef int _originate(
        self,
        int frame_kind,
        int route_kind,
        uint32_t argument,
        object payload,
        object from_service,
        object to_service,
        object stream_id,
        object meta,
        object ttl,
    ) except -1
    cdef int _originate_call(
        self, header_t* header, const uint8_t* envelope, uint32_t n, bytes payload
    ) except -1
    cdef int _push_call(
        self,
        Connection conn,
        const header_t* header,
        const uint8_t* envelope,
        uint32_t n,
        bytes payload,
    ) except -1
    cdef int _send_on(
        self,
        Connection conn,
        object payload,
        object from_service,
        object to_service,
        object stream_id,
        object meta,
        object ttl,
    ) except -1
    cdef bytes _check_send(self, object payload, object ttl)
    cdef int _refuse_header(
        self,
        object payload,
        object route_kind,
        object argument,
        object ttl,
        object from_service,
        object to_service,
        object stream_id,
        object meta,
    ) except -1
    cdef Connection _outgoing(self, const header_t* header, int* action)
    cdef int _push_data(
        self, Connection conn, int frame_kind, const header_t* header, bytes data, Py_ssize_t size
    ) except -1
    cdef int _push_local(self, int frame_kind, Message message) except -1

    cdef int _find_route(
        self, const header_t* header, uint32_t from_node, route_t* route
    ) except -1
    cdef int _ask_router(self, const header_t* header, route_t* route) except -1
    cdef PyObject* _next_hop(
        self, const route_t* route, uint32_t from_node, uint8_t ttl, uint32_t length
    ) except? NULL
    cdef int _begin_run(
        self, run_t* run, PyObject* hop, const header_t* header, uint8_t* frame, uint32_t n
    ) except -1
    cdef int _end_run(self, run_t* run) except -1

    cdef int _deliver_call(
        self, header_t* header, uint32_t link_node, const uint8_t* data, size_t n
    ) except -1
    cdef int _deliver(self, int kind, Connection conn, Message message) except -1
    cdef int _call_hook(self, object hook, object agent, Message message) except -1
    cdef int _on_hook_error(self, object hook) except -1
