"""All links of a node, and what happens to each frame: deliver, relay or drop, and count it."""

# Facts that this file relies on, besides those of the pure twin:
# - Frames are parsed in the receive buffer; relayed ones are changed in it (TTL) and written from
#   there, or copied once, into the send queue of the next hop.
# - Relayed frames that lie behind each other and go to the same link form a run, appended at once.
#   A run ends before any Python code runs, so nobody sees a queue without it, and the borrowed
#   pointers in it live as long as it does.

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from netcore._fast.buffer cimport (
    BY_REFERENCE_BYTES,
    HEAD_BYTES,
    KIND_BROADCAST,
    KIND_CALL,
    KIND_MESSAGE,
    LARGE_FRAME_BYTES,
    decref,
    frames_behind,
    inbox_append,
    queue_append_parts,
    queue_append_rest,
    queue_reserve,
)
from netcore._fast.codec cimport (
    DEFAULT_TTL_HOPS,
    ERROR_NONE,
    FRAME_HEADER_BYTES,
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    MAX_HEADER_BYTES,
    MAX_META,
    MAX_SERVICE,
    MAX_TTL_HOPS,
    ROUTE_DIRECT,
    ROUTE_KEY,
    ROUTE_NODE,
    ROUTE_SERVICES,
    Message,
    c_decode_header,
    c_encode_header,
    c_error_offset,
    header_t,
    load_u32,
    new_message,
    plain,
    raise_frame_error,
    store_u32,
)
from netcore._fast.connection cimport (
    BROADCAST_COPIES_DROPPED,
    BROADCASTS_DELIVERED,
    BYTES_RECEIVED,
    CLOSE_LOST,
    CLOSE_SHED,
    CLOSED,
    CONTROL_RECEIVED,
    CONTROL_SENT,
    COUNTERS,
    DROPPED_LINK_CLOSED,
    DROPPED_NO_ROUTE,
    DROPPED_NO_SERVICE,
    DROPPED_RELAY_QUEUE_FULL,
    DROPPED_RETURNED,
    DROPPED_ROUTER_ERROR,
    DROPPED_TOO_BIG,
    DROPPED_TTL_EXPIRED,
    FIRST_RESERVED_SERVICE,
    FRAMES_IGNORED,
    LINKS_SHED,
    MESSAGES_DELIVERED,
    MESSAGES_RELAYED,
    MESSAGES_SENT,
    OPEN,
    Connection,
    Hub,
    queued,
)
from netcore._fast.loop cimport Loop, enter_hook, leave_hook
from netcore._fast.records cimport MAX_RECORD_BYTES, RECORD_ROOM_BYTES
from netcore._fast.table cimport (
    ACTION_LOCAL,
    ACTION_NEXT,
    ACTION_REJECT,
    NO_NODE,
    SERVICES,
    RouteTable,
    route_t,
)

from collections import deque

from netcore import wire
from netcore._fast.codec import encode_header
from netcore.config import SEND_QUEUE_POLICIES
from netcore.errors import (
    LocalError,
    MessageTooBigError,
    NoRouteError,
    QueueFullError,
    SendQueueFullError,
)
from netcore.ids import check_service_id, format_conn
from netcore.route import RouteRule
from netcore.stats import SWITCH_COUNTERS

__all__ = ["Switch"]

cdef extern from *:
    """
    static PyObject *netcore_call_hook(PyObject *hook, PyObject *agent, PyObject *message) {
        PyObject *args[4] = {NULL, NULL, agent, message};
        if (PyMethod_Check(hook)) {
            args[1] = PyMethod_GET_SELF(hook);
            return PyObject_Vectorcall(
                PyMethod_GET_FUNCTION(hook), args + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
        }
        return PyObject_Vectorcall(hook, args + 2, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    """
    # Without a bound method's own hop. NULL with the exception set, which the caller handles.
    PyObject* call_hook "netcore_call_hook" (object hook, object agent, object message) noexcept

cdef extern from "Python.h":
    # len() of a deque, which is a PyVarObject.
    Py_ssize_t deque_size "Py_SIZE" (object queue) noexcept

cdef enum:
    MAX_ENVELOPE_BYTES = 16     # in front of the payload of a CALL

cdef str SHED_TEXT = "most of max_queued_bytes waited for it"
cdef object MAX_U32 = wire.MAX_U32
cdef object MAX_U64 = (1 << 64) - 1

if len(SWITCH_COUNTERS) != COUNTERS:
    raise ImportError("netcore._fast.switch and netcore.stats disagree about the counters")


cdef inline bint fill_header(
    header_t* header,
    object from_service,
    object to_service,
    object stream_id,
    object meta,
    object ttl,
) noexcept:
    """Set these fields; False when one of them cannot be sent."""
    cdef long long values[5]
    values[0] = plain(from_service, MAX_SERVICE)
    values[1] = plain(to_service, MAX_SERVICE)
    values[2] = plain(stream_id, 0xFFFFFFFF)
    values[3] = plain(meta, MAX_META)
    values[4] = plain(ttl, MAX_TTL_HOPS)
    if (values[0] | values[1] | values[2] | values[3] | values[4]) < 0 or values[4] == 0:
        return False
    header.from_service = <uint8_t>values[0]
    header.to_service = <uint8_t>values[1]
    header.stream_id = <uint32_t>values[2]
    header.meta = <uint8_t>values[3]
    header.ttl = <uint8_t>values[4]
    return True


cdef bytes as_payload(object payload):
    """Return ``payload`` as bytes."""
    if not isinstance(payload, (bytes, bytearray, memoryview)):
        raise TypeError(
            f"a payload is bytes, bytearray or memoryview, not {type(payload).__name__}"
        )
    return bytes(payload)


@cython.auto_pickle(False)
cdef class Calls:
    """What the switch and ports need of a call desk; ``CallDesk`` is the only one."""

    def __cinit__(self, *_, **__):
        if type(self) is Calls:
            raise TypeError("Calls is made by its subclass only")

    cdef int c_on_call(
        self, const header_t* header, bint verified, const uint8_t* data, size_t n
    ) except -1:
        raise NotImplementedError

    cdef int c_call(
        self,
        object from_service,
        object rule,
        object service_id,
        object payload,
        object on_done,
        object timeout_ms,
    ) except -1:
        raise NotImplementedError


@cython.auto_pickle(False)
cdef class Broadcasts:
    """What the switch needs of a broadcast desk; ``BroadcastDesk`` is the only one."""

    def __cinit__(self, *_, **__):
        if type(self) is Broadcasts:
            raise TypeError("Broadcasts is made by its subclass only")

    cdef int c_on_frame(self, Connection conn, const uint8_t* body, size_t n) except -1:
        raise NotImplementedError

    cdef int c_send(
        self,
        object level,
        object payload,
        object from_service,
        object to_service,
        object stream_id,
        object meta,
        object ttl,
    ) except -1:
        raise NotImplementedError


@cython.auto_pickle(False)
@cython.final
cdef class Switch(Hub):
    """All links of one node, and the decision what happens to each frame."""

    def __cinit__(
        self,
        Loop loop not None,
        router,
        sink,
        *,
        node_id,
        max_frame_bytes,
        read_budget_bytes,
        write_high_bytes,
        write_low_bytes,
        control_queue_bytes,
        local_queue_bytes,
        close_timeout_ms,
        send_queue_policy="error",
        max_queued_bytes=0,
    ):
        """Make a switch without links."""
        if send_queue_policy not in SEND_QUEUE_POLICIES:
            raise ValueError(f"no such send_queue_policy: {send_queue_policy!r}")
        self.loop = loop
        self.node_id = node_id
        self.max_frame_bytes = max_frame_bytes
        self.read_budget_bytes = read_budget_bytes
        self.write_high_bytes = write_high_bytes
        self.write_low_bytes = write_low_bytes
        self.control_queue_bytes = control_queue_bytes
        self.local_queue_bytes = local_queue_bytes
        self.close_timeout_ms = close_timeout_ms
        self.send_queue_policy = send_queue_policy
        self._policy = SEND_QUEUE_POLICIES.index(send_queue_policy)
        self.max_queued_bytes = max_queued_bytes
        # Half of what there could be: so the difference of two sums is never out of range.
        self._held_limit = self.max_queued_bytes if self.max_queued_bytes != 0 else <size_t>-1 // 2
        # What is never touched costs nothing: the room for a record, at level open.
        self._buffer_bytes = self.read_budget_bytes + LARGE_FRAME_BYTES + HEAD_BYTES
        self._buffer_bytes += RECORD_ROOM_BYTES + MAX_RECORD_BYTES
        self._sink = sink
        self._commands = sink.commands
        if not isinstance(self._commands, deque):
            raise TypeError(f"sink.commands is a deque, not {type(self._commands).__name__}")
        if isinstance(router, RouteTable):
            self._table = router
        else:
            self._router = router
        self._connections = {}
        self._behaviors = [None] * SERVICES
        self._local = deque()

    # -- set-up ------------------------------------------------------------------------------------

    def set_behavior(self, service_id, hook, agent=None):
        """Deliver messages for a service to ``hook(agent, message)``; None ends that."""
        self._behaviors[check_service_id(service_id)] = None if hook is None else (hook, agent)

    def add_connection(
        self,
        conn_id,
        remote_node_id,
        *,
        sock=None,
        channel=None,
        records=None,
        max_frame_bytes=None,
        unsent=b"",
        rest=b"",
        rest_bytes=None,
        owner=None,
    ):
        """Return a new link over a stream whose handshake is done; ``start`` it afterwards."""
        cdef Connection conn
        cdef bytes waiting
        if self._closed is not None:
            raise self._closed.with_traceback(None)  # else it grows with every send
        if conn_id in self._connections:
            raise LocalError(f"{format_conn(conn_id)} is in use")
        if (sock is None) == (channel is None):
            raise LocalError("a connection needs a socket or a channel, and not both")
        limit = self.max_frame_bytes if max_frame_bytes is None else max_frame_bytes
        conn = Connection(self, conn_id, remote_node_id, sock, channel, records, limit)
        conn._unsent = bytes(unsent)
        conn._uncounted = PyBytes_GET_SIZE(conn._unsent)
        waiting = bytes(rest)
        inbox_append(
            &conn._inbox, <const uint8_t*>PyBytes_AS_STRING(waiting), PyBytes_GET_SIZE(waiting)
        )
        conn.bytes_received = PyBytes_GET_SIZE(waiting) if rest_bytes is None else rest_bytes
        self._counts[BYTES_RECEIVED] += conn.bytes_received
        conn.owner = owner
        self._connections[conn_id] = conn
        return conn

    def find_connection(self, conn_id):
        """Return the link with this id, also while it closes."""
        return self._connections.get(conn_id)

    def connections(self):
        """Return all links, oldest first."""
        return list(self._connections.values())

    def counters(self):
        """Return the counters named in ``stats.SWITCH_COUNTERS``."""
        cdef int i
        return {SWITCH_COUNTERS[i]: self._counts[i] for i in range(COUNTERS)}

    def refuse_sends(self, error):
        """Raise ``error`` from every send from now on."""
        self._closed = error

    cdef PyObject* _find(self, uint64_t conn_id) except? NULL:
        """Return the link with this id, borrowed, or NULL."""
        cdef link_t* cached = &self._cache[conn_id >> 16 & (CACHED_LINKS - 1)]
        cdef PyObject* found
        if cached.conn != NULL and cached.conn_id == conn_id:
            return cached.conn
        found = PyDict_GetItemWithError(self._connections, conn_id)
        if found != NULL:
            cached.conn_id = conn_id
            cached.conn = found
        return found

    cdef int c_forget(self, Connection conn) except -1:
        cdef link_t* cached = &self._cache[conn.conn_id >> 16 & (CACHED_LINKS - 1)]
        if cached.conn == <PyObject*>conn:
            cached.conn = NULL
        if self._way.conn == <PyObject*>conn:
            self._way.conn = NULL
        self._connections.pop(conn.conn_id, None)
        return 0

    # -- sending -----------------------------------------------------------------------------------

    def originate(
        self,
        frame_kind,
        route_kind,
        argument,
        payload,
        from_service,
        to_service,
        stream_id=0,
        meta=0,
        ttl=DEFAULT_TTL_HOPS,
    ):
        """Send a message of this node where the router says."""
        self._originate_checked(
            frame_kind, route_kind, argument, payload, from_service, to_service, stream_id, meta,
            ttl,
        )

    def send_on(
        self,
        Connection conn,
        payload,
        from_service,
        to_service,
        stream_id=0,
        meta=0,
        ttl=DEFAULT_TTL_HOPS,
    ):
        """Send a direct message: one hop, on exactly this link."""
        self._send_on(conn, payload, from_service, to_service, stream_id, meta, ttl)

    def send_local(
        self,
        payload,
        from_service,
        to_service,
        stream_id=0,
        meta=0,
        ttl=DEFAULT_TTL_HOPS,
    ):
        """Send a message to this node itself; it is delivered after the running hook."""
        self._originate(
            KIND_MESSAGE, ROUTE_DIRECT, 0, payload, from_service, to_service, stream_id, meta, ttl
        )

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
    ) except -1:
        """Originate with a route that was not checked yet."""
        cdef long long kind = plain(route_kind, ROUTE_KEY)
        cdef long long number = plain(argument, 0xFFFFFFFF)
        if kind < 0 and route_kind == ROUTE_SERVICES and frame_kind == KIND_MESSAGE:
            if self._broadcasts is None:
                raise LocalError("nobody takes broadcasts here")
            return self._broadcasts.c_send(
                argument, payload, from_service, to_service, stream_id, meta, ttl
            )
        if kind < 0 or number < 0:
            self._refuse_header(
                payload, route_kind, argument, ttl, from_service, to_service, stream_id, meta
            )
        return self._originate(
            frame_kind, <int>kind, <uint32_t>number, payload, from_service, to_service, stream_id,
            meta, ttl,
        )

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
    ) except -1:
        cdef header_t header
        cdef Connection conn
        cdef bytes data
        cdef int action
        cdef Py_ssize_t size = HEADER_BYTES + 4 * (1 + (route_kind != ROUTE_DIRECT))
        if self._closed is not None or type(payload) is not bytes:
            payload = self._check_send(payload, ttl)
        data = <bytes>payload
        if not fill_header(&header, from_service, to_service, stream_id, meta, ttl):
            self._refuse_header(
                data, route_kind, argument, ttl, from_service, to_service, stream_id, meta
            )
        header.kind = route_kind
        header.argument = 0 if route_kind == ROUTE_DIRECT else argument
        header.has_from = True
        header.from_node = self.node_id
        size += PyBytes_GET_SIZE(data)
        if size > self.max_frame_bytes:
            self._refuse(MessageTooBigError(size, self.max_frame_bytes))
        conn = self._outgoing(&header, &action)
        if action == ACTION_LOCAL:
            return self._push_local(frame_kind, new_message(data, &header, self.node_id, True))
        if conn is None or conn.state != OPEN:
            self._refuse(NoRouteError(destination(&header)))
        return self._push_data(conn, frame_kind, &header, data, size)

    cdef Connection _outgoing(self, const header_t* header, int* action):
        """Return the link to send over, if any; the answer of the table is kept while it holds."""
        cdef route_t route
        cdef PyObject* found
        if (
            self._way.conn != NULL
            and self._way.kind == header.kind
            and self._way.key == route_key(header)
            and self._way.version == self._table._version
        ):
            action[0] = ACTION_NEXT
            return <Connection>self._way.conn
        self._find_route(header, NO_NODE, &route)
        action[0] = route.action
        found = self._find(route.conn) if route.action == ACTION_NEXT else NULL
        if found == NULL:
            return None
        if self._table is not None:
            self._way.conn = found
            self._way.version = self._table._version
            self._way.kind = header.kind
            self._way.key = route_key(header)
        return <Connection>found

    cdef int _push_data(
        self, Connection conn, int frame_kind, const header_t* header, bytes data, Py_ssize_t size
    ) except -1:
        """Queue a message or call of this node whose body has ``size`` bytes."""
        cdef uint8_t* to
        if size > <Py_ssize_t>conn.max_frame_bytes or queued(conn) >= self.write_high_bytes:
            if not conn._takes(size):
                return 0
        if size >= BY_REFERENCE_BYTES:
            conn._push(&conn._data, frame_kind, header, data)
            self._counts[MESSAGES_SENT] += 1
            return 0
        to = queue_reserve(&conn._data, &self._pool, FRAME_HEADER_BYTES + <uint32_t>size)
        if to == NULL:
            raise MemoryError
        store_u32(to, <uint32_t>frame_kind << 24 | <uint32_t>size)
        to += FRAME_HEADER_BYTES
        to += c_encode_header(to, header)
        memcpy(to, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        self._counts[MESSAGES_SENT] += 1
        conn.frames_sent += 1
        if not conn._dirty:
            self.loop.c_mark_dirty(conn)
        if self._pool.held > self._held_limit:
            self.c_shed()
        return 0

    cdef int _originate_call(
        self, header_t* header, const uint8_t* envelope, uint32_t n, bytes payload
    ) except -1:
        """Originate a CALL: route and services are in the header, the envelope is in two parts."""
        cdef Connection conn
        cdef int action
        cdef size_t size = HEADER_BYTES + 4 * (1 + (header.kind != ROUTE_DIRECT))
        if self._closed is not None:
            raise self._closed.with_traceback(None)
        header.ttl = DEFAULT_TTL_HOPS
        header.meta = 0
        header.stream_id = 0
        header.has_from = True
        header.from_node = self.node_id
        size += n + <size_t>PyBytes_GET_SIZE(payload)
        if size > <size_t>self.max_frame_bytes:
            self._refuse(MessageTooBigError(size, self.max_frame_bytes))
        conn = self._outgoing(header, &action)
        if action == ACTION_LOCAL:
            data = PyBytes_FromStringAndSize(<const char*>envelope, n) + payload
            return self._push_local(KIND_CALL, new_message(data, header, self.node_id, True))
        if conn is None or conn.state != OPEN:
            self._refuse(NoRouteError(destination(header)))
        if size > conn.max_frame_bytes or queued(conn) >= self.write_high_bytes:
            if not conn._takes(size):
                return 0
        self._push_call(conn, header, envelope, n, payload)
        self._counts[MESSAGES_SENT] += 1
        return 0

    cdef int _push_call(
        self,
        Connection conn,
        const header_t* header,
        const uint8_t* envelope,
        uint32_t n,
        bytes payload,
    ) except -1:
        cdef uint8_t head[HEAD_BYTES + MAX_ENVELOPE_BYTES]
        cdef uint8_t* to
        cdef size_t rest = <size_t>PyBytes_GET_SIZE(payload)
        cdef uint32_t at = FRAME_HEADER_BYTES
        at += c_encode_header(head + at, header)
        memcpy(head + at, envelope, n)
        at += n
        store_u32(head, <uint32_t>KIND_CALL << 24 | <uint32_t>(at - FRAME_HEADER_BYTES + rest))
        if rest < BY_REFERENCE_BYTES:
            to = queue_reserve(&conn._data, &self._pool, at + <uint32_t>rest)
            if to == NULL:
                raise MemoryError
            memcpy(to, head, at)
            memcpy(to + at, PyBytes_AS_STRING(payload), rest)
        else:
            queue_append_parts(&conn._data, &self._pool, head, at, <PyObject*>payload, rest, 0)
        conn.frames_sent += 1
        if not conn._dirty:
            self.loop.c_mark_dirty(conn)
        if self._pool.held > self._held_limit:
            self.c_shed()
        return 0

    cdef int _send_on(
        self,
        Connection conn,
        object payload,
        object from_service,
        object to_service,
        object stream_id,
        object meta,
        object ttl,
    ) except -1:
        cdef header_t header
        cdef bytes data
        cdef Py_ssize_t size
        if self._closed is not None or type(payload) is not bytes:
            payload = self._check_send(payload, ttl)
        data = <bytes>payload
        if not fill_header(&header, from_service, to_service, stream_id, meta, ttl):
            self._refuse_header(
                data, ROUTE_DIRECT, 0, ttl, from_service, to_service, stream_id, meta
            )
        header.kind = ROUTE_DIRECT
        header.argument = 0
        header.has_from = False
        if conn is None or conn.state != OPEN:
            self._refuse(NoRouteError("a link that is closed or closing"))
        size = HEADER_BYTES + PyBytes_GET_SIZE(data)
        if size > <Py_ssize_t>conn.max_frame_bytes:
            self._refuse(MessageTooBigError(size, conn.max_frame_bytes))
        if header.to_service < FIRST_RESERVED_SERVICE:
            return self._push_data(conn, KIND_MESSAGE, &header, data, size)
        if conn._control.bytes >= self.control_queue_bytes:
            self._refuse(
                SendQueueFullError(conn.conn_id, conn._control.bytes, self.control_queue_bytes)
            )
        self._counts[CONTROL_SENT] += 1
        return conn._push(&conn._control, KIND_MESSAGE, &header, data)

    @property
    def queued_bytes(self):
        """Bytes that wait on all links together; a broadcast's shared payload counts once."""
        return self._pool.held

    cdef int c_shed(self) except -1:
        """Give up the link for which the most waits, then the next, until there is some room."""
        cdef Py_ssize_t position = 0
        cdef PyObject* found
        cdef Connection largest
        while PyDict_Next(self._connections, &position, NULL, &found):
            (<Connection>found).c_write_early()
        while self._pool.held > self._held_limit - self._held_limit // SHED_SHARE:
            position = 0
            largest = None
            while PyDict_Next(self._connections, &position, NULL, &found):
                if largest is None or (<Connection>found)._held_bytes() > largest._held_bytes():
                    largest = <Connection>found
            if largest is None or largest._held_bytes() == 0:
                return 0  # nothing that could be given up
            largest._give_up(LINKS_SHED, CLOSE_SHED, SHED_TEXT)
        return 0

    cdef bytes _check_send(self, object payload, object ttl):
        """Return the payload as bytes, or raise what is wrong before the header."""
        cdef bytes data
        if self._closed is not None:
            raise self._closed.with_traceback(None)
        data = payload if type(payload) is bytes else as_payload(payload)
        if ttl == 0:
            raise ValueError("ttl must be in 1..255, not 0")
        return data

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
    ) except -1:
        """Raise what is wrong with a send that cannot be encoded; the first one counts."""
        self._check_send(payload, ttl)
        encode_header(route_kind, argument, ttl, from_service, to_service, stream_id, meta, None)
        raise SystemError("a header was refused for no reason")

    # -- local delivery ----------------------------------------------------------------------------

    @property
    def local_pending(self):
        """Messages of this node to itself that wait for ``deliver_local``."""
        return len(self._local)

    cdef int _push_local(self, int frame_kind, Message message) except -1:
        if self._local_bytes >= self.local_queue_bytes:
            self._refuse(QueueFullError("local_queue_bytes", self.local_queue_bytes))
        if frame_kind != KIND_BROADCAST:
            self._counts[MESSAGES_SENT] += 1
        self._local.append(message if frame_kind == KIND_MESSAGE else (frame_kind, message))
        self._local_bytes += MAX_HEADER_BYTES + PyBytes_GET_SIZE(message.payload)
        return self.loop.c_mark_dirty(self)

    def deliver_local(self):
        """Deliver the oldest message of this node to itself; False when there is none."""
        cdef int frame_kind = KIND_MESSAGE
        if not self._local:
            return False
        message = self._local.popleft()
        if type(message) is tuple:
            frame_kind, message = message
        self._local_bytes -= MAX_HEADER_BYTES + PyBytes_GET_SIZE((<Message>message).payload)
        self._deliver(frame_kind, None, <Message>message)
        return True

    def drop_local(self):
        """Forget the messages of this node to itself, counted as dropped: nobody takes them."""
        for waiting in self._local:
            if type(waiting) is tuple and waiting[0] == KIND_BROADCAST:
                self._counts[BROADCAST_COPIES_DROPPED] += 1
            else:
                self._counts[DROPPED_NO_SERVICE] += 1
        self._local.clear()
        self._local_bytes = 0

    def flush(self):
        """Let the sink drain what was asked for outside a hook."""
        self._sink.drain()

    cdef int c_flush(self) except -1:
        self._sink.drain()
        return 0

    # -- receiving ---------------------------------------------------------------------------------

    cdef int c_parse(
        self, Connection conn, uint8_t* data, size_t n, size_t* position
    ) except -1:
        """Handle whole frames of a link from ``position`` on, and move it."""
        cdef uint32_t from_node = conn.remote_node_id
        # What the table would say of messages to this node; a router of the caller's is asked.
        cdef long long local_node = -1 if self._table is None else self._table._local_node
        cdef header_t header
        cdef route_t route
        cdef run_t run
        cdef uint8_t* frame
        cdef PyObject* hop
        cdef uint32_t length, total
        cdef int kind, code
        cdef size_t at = position[0]
        run.bytes = 0
        while conn._failure is None and conn.state != CLOSED and n - at >= FRAME_HEADER_BYTES:
            frame = data + at
            length = load_u32(frame) & MAX_FRAME_BYTES
            if length > conn.max_frame_bytes or n - at - FRAME_HEADER_BYTES < length:
                break
            total = FRAME_HEADER_BYTES + length
            at += total
            position[0] = at
            conn.frames_received += 1
            kind = frame[0]
            if kind > KIND_CALL:
                self._end_run(&run)
                conn._on_other(kind, frame + FRAME_HEADER_BYTES, length)
                continue
            code = c_decode_header(frame + FRAME_HEADER_BYTES, length, &header)
            if code != ERROR_NONE:
                self._end_run(&run)
                raise_frame_error(code, c_error_offset(code, length))
            if (
                run.bytes != 0
                and run.kind == header.kind
                and run.key == route_key(&header)
                and run.start + run.bytes == frame
                and run.bytes < run.queue_room
                and length <= run.max_length
                and header.ttl > 1
            ):
                frame[FRAME_HEADER_BYTES + 1] -= 1
                run.bytes += total
                run.frames += 1
                if run.bytes > run.held_room:
                    self._end_run(&run)
                continue
            if run.bytes != 0:
                self._end_run(&run)
            if header.kind != ROUTE_DIRECT and (
                header.kind != ROUTE_NODE or <long long>header.argument != local_node
            ):
                self._find_route(&header, from_node, &route)
                if route.action != ACTION_LOCAL:
                    hop = self._next_hop(&route, from_node, header.ttl, length)
                    if hop != NULL:
                        self._begin_run(&run, hop, &header, frame, total)
                        if run.bytes > run.held_room:
                            self._end_run(&run)
                    continue
            self._hooks += 1
            if self._hooks % HOOKS_BETWEEN == 0:
                self.loop.c_write_early()
            if kind == KIND_CALL and self._calls is not None:
                self._deliver_call(
                    &header,
                    from_node,
                    frame + FRAME_HEADER_BYTES + header.size,
                    length - header.size,
                )
                continue
            self._deliver(
                kind,
                conn,
                new_message(
                    PyBytes_FromStringAndSize(
                        <char*>frame + FRAME_HEADER_BYTES + header.size, length - header.size
                    ),
                    &header,
                    from_node,
                    False,
                ),
            )
        return self._end_run(&run)

    cdef int c_on_large(
        self, Connection conn, int kind, const header_t* header, bytes payload
    ) except -1:
        """Deliver, relay or drop one large MESSAGE or CALL; its payload is not copied."""
        cdef header_t next_header = header[0]
        cdef route_t route
        cdef Connection hop
        cdef PyObject* found
        cdef uint32_t length = header.size + <uint32_t>PyBytes_GET_SIZE(payload)
        self._find_route(header, conn.remote_node_id, &route)
        if route.action == ACTION_LOCAL:
            message = new_message(payload, header, conn.remote_node_id, False)
            return self._deliver(kind, conn, message)
        found = self._next_hop(&route, conn.remote_node_id, header.ttl, length)
        if found == NULL:
            return 0
        hop = <Connection>found
        next_header.ttl -= 1
        self._counts[MESSAGES_RELAYED] += 1
        return hop._push(&hop._data, kind, &next_header, payload)

    cdef int c_on_broadcast(self, Connection conn, const uint8_t* body, size_t n) except -1:
        """Take in one BROADCAST."""
        if self._broadcasts is not None:
            return self._broadcasts.c_on_frame(conn, body, n)
        self._counts[FRAMES_IGNORED] += 1
        return 0

    # -- routing -----------------------------------------------------------------------------------

    cdef int _find_route(
        self, const header_t* header, uint32_t from_node, route_t* route
    ) except -1:
        """Answer where a message goes."""
        if header.kind == ROUTE_DIRECT:
            route.action = ACTION_LOCAL
        elif self._table is None:
            self._ask_router(header, route)
        elif header.kind == ROUTE_NODE:
            route[0] = self._table.c_path_to_node(header.argument, from_node)
        elif header.kind == ROUTE_KEY:
            route[0] = self._table.c_path_to_key(header.argument, from_node)
        else:
            route[0] = self._table.c_path_to_service(header.to_service, from_node)
        return 0

    cdef int _ask_router(self, const header_t* header, route_t* route) except -1:
        route.action = ROUTER_ERROR
        route.conn = 0
        route.node = NO_NODE
        try:
            rule = RouteRule(header.kind, header.argument)
            answer = self._router.path_to(rule, header.to_service)
            action, conn_id, node_id = answer.action, answer.conn_id, answer.node_id
        except Exception as exc:
            self._sink.on_hook_error(self._router, exc)
            return 0
        route.action = ACTION_REJECT
        if action == ACTION_LOCAL:
            route.action = ACTION_LOCAL
        elif action == ACTION_NEXT:
            route.action = ACTION_NEXT
            if isinstance(conn_id, int) and 0 <= conn_id <= MAX_U64:
                route.conn = conn_id
            if isinstance(node_id, int) and 0 <= node_id <= MAX_U32:
                route.node = node_id
        return 0

    cdef PyObject* _next_hop(
        self, const route_t* route, uint32_t from_node, uint8_t ttl, uint32_t length
    ) except? NULL:
        """Return the link to relay over, borrowed, or count the drop and return NULL."""
        cdef PyObject* found
        cdef Connection hop
        cdef int drop
        if route.action != ACTION_NEXT:
            drop = DROPPED_ROUTER_ERROR if route.action == ROUTER_ERROR else DROPPED_NO_ROUTE
        elif route.node == from_node:
            drop = DROPPED_RETURNED
        elif ttl <= 1:
            drop = DROPPED_TTL_EXPIRED
        else:
            drop = DROPPED_NO_ROUTE
            found = self._find(route.conn)
            if found != NULL and (<Connection>found).state == OPEN:
                hop = <Connection>found
                if length > hop.max_frame_bytes:
                    drop = DROPPED_TOO_BIG
                elif queued(hop) < self.write_high_bytes:
                    return found
                else:
                    drop = DROPPED_RELAY_QUEUE_FULL
                    hop.relay_queue_full += 1
        self._counts[drop] += 1
        return NULL

    cdef int _begin_run(
        self, run_t* run, PyObject* hop, const header_t* header, uint8_t* frame, uint32_t n
    ) except -1:
        """Make a run of the first frame that goes this way."""
        cdef Connection conn = <Connection>hop
        frame[FRAME_HEADER_BYTES + 1] -= 1
        run.hop = hop
        run.start = frame
        run.bytes = n
        run.frames = 1
        run.queue_room = self.write_high_bytes - queued(conn)
        run.held_room = self._held_limit - self._pool.held
        run.max_length = conn.max_frame_bytes
        # The answers of a router of the caller's may change with each message: -1 fits none.
        run.kind = header.kind if self._table is not None else -1
        run.key = route_key(header)
        return 0

    cdef int _end_run(self, run_t* run) except -1:
        """Send the run, if there is one: a long one past the queue, when that is empty."""
        cdef Connection hop
        cdef size_t n = run.bytes
        cdef size_t sent = 0
        cdef size_t queued_before
        if n == 0:
            return 0
        run.bytes = 0
        hop = <Connection>run.hop
        hop.frames_sent += run.frames
        self._counts[MESSAGES_RELAYED] += run.frames
        if n >= WRITE_PAST_BYTES:
            sent = hop.c_write_past(run.start, n)
            if sent == n:
                return 0
        queued_before = hop._data.bytes
        try:
            queue_append_rest(&hop._data, &self._pool, run.start, n, sent)
        except MemoryError:
            # A frame may have left in part: nothing else can follow it.
            sent += hop._data.bytes - queued_before
            self._counts[DROPPED_LINK_CLOSED] += frames_behind(run.start, n, sent)
            hop.fail(CLOSE_LOST, "no memory for a frame")
        if not hop._dirty:
            self.loop.c_mark_dirty(hop)
        if self._pool.held > self._held_limit:
            self.c_shed()
        return 0

    # -- delivery ----------------------------------------------------------------------------------

    cdef int _deliver_call(
        self, header_t* header, uint32_t link_node, const uint8_t* data, size_t n
    ) except -1:
        """Hand a call to the desk without making a message of it; then let the sink drain."""
        self._counts[MESSAGES_DELIVERED] += 1
        if header.kind == ROUTE_DIRECT and not header.has_from:
            header.has_from = True
            header.from_node = link_node
        try:
            self._calls.c_on_call(
                header, header.has_from and header.from_node == link_node, data, n
            )
        except Exception as exc:
            self._sink.on_hook_error(self._calls, exc)
        if deque_size(self._commands) != 0 or deque_size(self._local) != 0:
            self._sink.drain()
        return 0

    cdef int _deliver(self, int kind, Connection conn, Message message) except -1:
        """Hand one message or call to whoever it is for; then let the sink drain."""
        cdef uint8_t service = message.to_service
        cdef object target = None
        if kind == KIND_CALL:
            self._counts[MESSAGES_DELIVERED] += 1
            return self._call_hook(self._sink.on_call, conn, message)
        if conn is not None and conn._handled >> (service & 63) & 1:
            target = conn._find_handler(service)
        if target is None:
            target = self._behaviors[service]
        if kind == KIND_BROADCAST:
            self._counts[BROADCAST_COPIES_DROPPED if target is None else BROADCASTS_DELIVERED] += 1
        elif (
            service >= FIRST_RESERVED_SERVICE
            and conn is not None
            and message.c_kind == ROUTE_DIRECT
        ):
            self._counts[CONTROL_RECEIVED] += 1
        elif target is None:
            self._counts[DROPPED_NO_SERVICE] += 1
        else:
            self._counts[MESSAGES_DELIVERED] += 1
        if target is None:
            return 0
        return self._call_hook((<tuple>target)[0], (<tuple>target)[1], message)

    cdef int _call_hook(self, object hook, object agent, Message message) except -1:
        cdef PyObject* result
        enter_hook(self.loop, hook)
        result = call_hook(hook, agent, message)
        if result != NULL:
            decref(result)
        else:
            self._on_hook_error(hook)
        if deque_size(self._commands) != 0 or deque_size(self._local) != 0:
            leave_hook(self.loop)
            self._sink.drain()
        return 0

    cdef int _on_hook_error(self, object hook) except -1:
        """Tell the sink about the exception that is set, when it is an ``Exception``."""
        try:
            reraise()
        except Exception as exc:
            self._sink.on_hook_error(hook, exc)
        return 0


cdef int reraise() except -1:
    """Return with the exception that is set."""
    return -1


cdef str destination(const header_t* header):
    if header.kind == ROUTE_NODE:
        return f"node {header.argument}"
    if header.kind == ROUTE_KEY:
        return f"the node closest to key {header.argument}"
    return f"service {header.to_service}"
