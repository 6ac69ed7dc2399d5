"""Links, and what they need of their switch, as other kernels see them."""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from netcore._fast.buffer cimport inbox_t, pool_t, queue_t
from netcore._fast.codec cimport header_t
from netcore._fast.loop cimport Loop, Source
from netcore._fast.records cimport Records
from netcore._fast.syscalls cimport ssize_t
from netcore._fast.timers cimport Timer

# States of a connection.
cdef enum:
    OPEN = 0
    CLOSING = 1             # no new sends; ours is going out, theirs is still received
    CLOSED = 2

# The same names and values as in netcore/wire.py; tests/meta compares them.
cdef enum:
    FIRST_RESERVED_SERVICE = 240
    MAX_REASON_BYTES = 200
    CLOSE_NORMAL = 0
    CLOSE_PROTOCOL_ERROR = 3
    CLOSE_CONTROL_OVERFLOW = 4
    CLOSE_QUEUE_FULL = 6
    CLOSE_SHED = 7
    CLOSE_LOST = 0x100

# The names in stats.SWITCH_COUNTERS, in that order.
cdef enum:
    MESSAGES_SENT = 0
    MESSAGES_DELIVERED = 1
    MESSAGES_RELAYED = 2
    DROPPED_NO_ROUTE = 3
    DROPPED_TTL_EXPIRED = 4
    DROPPED_RELAY_QUEUE_FULL = 5
    DROPPED_RETURNED = 6
    DROPPED_NO_SERVICE = 7
    DROPPED_LINK_CLOSED = 8
    DROPPED_ROUTER_ERROR = 9
    DROPPED_TOO_BIG = 10
    DROPPED_SEND_QUEUE_FULL = 11
    SENDS_REFUSED = 12
    CONTROL_SENT = 13
    CONTROL_RECEIVED = 14
    FRAMES_IGNORED = 15
    PROTOCOL_ERRORS = 16
    CONTROL_OVERFLOWS = 17
    BYTES_SENT = 18
    BYTES_RECEIVED = 19
    BROADCASTS_SENT = 20
    BROADCASTS_RECEIVED = 21
    BROADCASTS_DELIVERED = 22
    BROADCASTS_DUPLICATE = 23
    BROADCASTS_STALE = 24
    BROADCAST_COPIES = 25
    BROADCAST_COPIES_DROPPED = 26
    BROADCAST_ORIGINS_FORGOTTEN = 27
    QUEUE_OVERFLOWS = 28
    LINKS_SHED = 29
    COUNTERS = 30

# Positions in config.SEND_QUEUE_POLICIES.
cdef enum:
    POLICY_ERROR = 0
    POLICY_DROP_NEWEST = 1
    POLICY_DROP_OLDEST = 2
    POLICY_CLOSE = 3

cdef enum:
    READ_CHUNK_KIB = 128        # of one read: what it brings is handled while it is in the cache
    LEAST_PORTION_KIB = 4
    HOOKS_PER_READ = 1024       # about: more keep timers and writes waiting
    HOOKS_IN_COMPANY = 128      # about: more keep the links waiting that bring little
    LITTLE_BYTES = 16384
    COMPANY_READS = 64          # such links count for so many reads of one that brings much
    WRITE_CHUNK_BYTES = 262144  # handed to one write of a channel


cdef class Connection


# The part of Switch that links use. It is here because two kernels cannot know each other.
cdef class Hub(Source):
    cdef readonly Loop loop
    cdef readonly size_t read_budget_bytes
    cdef readonly size_t write_high_bytes
    cdef readonly size_t write_low_bytes
    cdef readonly size_t control_queue_bytes
    cdef readonly long long close_timeout_ms
    cdef readonly str send_queue_policy
    cdef readonly size_t max_queued_bytes
    cdef int _policy                        # POLICY_*
    cdef size_t _held_limit                 # max_queued_bytes, or more than there ever is
    cdef object _sink
    cdef bint _busy                         # frames are being parsed
    cdef uint32_t _hooks                    # called, for small frames that came
    cdef const void* _heavy                 # the link that brought much last; only compared
    cdef uint32_t _company                  # reads of it that are to be short, for the others
    cdef uint8_t* _buffer                   # of _buffer_bytes; NULL until something is received
    cdef size_t _buffer_bytes
    cdef uint8_t* _spare_out                # for sealed records, while no link has it
    cdef pool_t _pool
    cdef uint64_t _counts[COUNTERS]

    cdef uint8_t* _shared_buffer(self) except NULL
    cdef int _refuse(self, object error) except -1

    # Give up links until all queues together are below their bound.
    cdef int c_shed(self) except -1
    # Handle whole frames of a link from ``position`` on, and move it.
    cdef int c_parse(
        self, Connection conn, uint8_t* data, size_t n, size_t* position
    ) except -1
    # Deliver, relay or drop one large MESSAGE or CALL.
    cdef int c_on_large(
        self, Connection conn, int kind, const header_t* header, bytes payload
    ) except -1
    # Take in one BROADCAST.
    cdef int c_on_broadcast(self, Connection conn, const uint8_t* body, size_t n) except -1
    # Forget a link that has ended.
    cdef int c_forget(self, Connection conn) except -1


@cython.final
cdef class Connection(Source):
    cdef readonly uint64_t conn_id
    cdef readonly uint32_t remote_node_id
    cdef readonly uint32_t max_frame_bytes
    cdef readonly int state                 # OPEN | CLOSING | CLOSED
    cdef public object owner
    cdef readonly long long last_received_ms
    cdef readonly long long last_sent_ms
    cdef readonly uint64_t frames_sent
    cdef readonly uint64_t frames_received
    cdef readonly uint64_t bytes_sent
    cdef readonly uint64_t bytes_received
    cdef readonly uint64_t relay_queue_full
    cdef readonly uint64_t sends_refused
    cdef readonly uint64_t sends_dropped
    cdef Hub _switch
    cdef object _channel
    cdef Records _records                   # None at level open
    cdef tuple _handlers                    # service, (hook, agent), service, ...
    cdef uint64_t _handled                  # bit service & 63: perhaps in _handlers
    cdef bytes _unsent                      # of the handshake, and first of all
    cdef size_t _uncounted                  # of those that leave next: of the handshake
    cdef tuple _close_reason
    cdef tuple _failure
    cdef Timer _timer
    cdef int _sock_fd                       # -1 with a channel
    cdef uint8_t _registered                # events the loop watches
    cdef uint8_t _portion_kib               # asked for at a time
    cdef bint _started
    cdef bint _blocked                      # the socket took less than it was given
    cdef bint _refused                      # a send was refused since the queue was last low
    cdef bint _eof_in
    cdef bint _eof_out
    cdef bint _peer_closed                  # a CLOSE came
    cdef queue_t _data
    cdef queue_t _control
    cdef inbox_t _inbox

    cdef object _find_handler(self, uint8_t service)
    cdef bint _is_empty(self) noexcept
    cdef bint _starts_whole(self) noexcept

    cdef bint _takes(self, Py_ssize_t size) except -1
    cdef bint _overflow(self) except -1
    cdef size_t _held_bytes(self) noexcept
    cdef int _push(
        self, queue_t* queue, int kind, const header_t* header, bytes payload
    ) except -1
    cdef int _write_all(self) except -1
    cdef int _write_pieces(self) except -1
    cdef ssize_t _write_gathered(self, size_t* total) noexcept
    cdef bint _may_write(self) noexcept
    cdef size_t c_write_past(self, const uint8_t* frames, size_t n) noexcept
    cdef int _write_records(self) except -1
    cdef int _seal(self) except -1
    cdef void _take(self, size_t n, uint8_t* to) noexcept
    cdef Py_ssize_t _write(self, bytes data) except -1
    cdef Py_ssize_t _send(self, const uint8_t* data, size_t n) except -1
    cdef int _check_errno(self) except -1
    cdef void _count_sent(self, size_t n) noexcept
    cdef bytes _peek(self)
    cdef void _consume(self, size_t n) noexcept

    cdef int _receive(self) except -1
    cdef int _receive_some(self, size_t budget) except -1
    cdef int _receive_large(self, uint8_t* buffer, size_t budget) except -1
    cdef void _adapt(self, size_t n, uint32_t hooks) noexcept
    cdef int _receive_nothing(self, ssize_t n) except -1
    cdef int _grow_large(self) except -1
    cdef int _lack_memory(self) except -1
    cdef int _keep(self, const uint8_t* data, size_t n, bint behind) except -1
    cdef int _count_received(self, size_t n) except -1
    cdef int _receive_records(self, uint8_t* buffer) except -1
    cdef int _resume_soon(self) except -1
    cdef int _feed(self, const uint8_t* data, size_t n) except -1
    cdef int _handle_input(self, uint8_t* data, size_t n) except -1
    cdef int _stop_at(self, const uint8_t* rest, size_t n, size_t* position) except -1
    cdef int _fill_large(self, const uint8_t* data, size_t n, size_t* position) except -1
    cdef int _on_large_routed(self, int kind, bytes payload) except -1
    cdef int _on_other(self, int kind, const uint8_t* body, size_t n) except -1

    cdef int _on_close_frame(self, const uint8_t* body, size_t n) except -1
    cdef int _begin_close(self, object code, object text) except -1
    cdef int _leave_open(self) except -1
    cdef int _end_input(self) except -1
    cdef int _end_output(self) except -1
    cdef int _shutdown_channel(self) except -1
    cdef void _close_fd(self) noexcept
    cdef int _lose(self, str text) except -1
    cdef int _protocol_error(self, str text) except -1
    cdef int _give_up(self, int counter, int code, str text) except -1
    cdef int _drop_waiting(self) except -1
    cdef int _fail_now(self) except -1
    cdef int _say_why(self, object code, object text) except -1
    cdef int _finish(self, tuple reason) except -1
    cdef int _watch(self, int events) except -1


cdef inline size_t queued(Connection conn) noexcept:
    """Return how many bytes of data wait to be sent on a link."""
    cdef size_t n = conn._data.bytes + <size_t>PyBytes_GET_SIZE(conn._unsent)
    if conn._records is not None:
        n += conn._records.out_end - conn._records.out_start
    return n
