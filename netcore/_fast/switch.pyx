"""All links of a node, and what happens to each frame: deliver, relay or drop, and count it."""

# Facts that this file relies on, besides those of the pure twins:
# - One receive buffer per switch. Frames are parsed in it, relayed ones are changed in it (TTL) and
#   copied once, into the send queue of the next hop. Python code may run in the middle, but none of
#   it can lead back here: _busy turns a receive inside a hook into bytes kept for later.
# - Relayed frames that lie behind each other and go to the same link form a run, appended at once.
#   A run ends before any Python code runs, so nobody sees a queue without it, and the borrowed
#   pointers in it live as long as it does.
# - An exception out of Python code leaves `position` behind the frame that caused it; what lies
#   behind is kept and parsed by a timer.

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from netcore._fast.buffer cimport (
    BY_REFERENCE_BYTES,
    HEAD_BYTES,
    KIND_BROADCAST,
    KIND_CALL,
    KIND_CLOSE,
    KIND_EXTENSION,
    KIND_MESSAGE,
    KIND_PING,
    KIND_PONG,
    LARGE_FRAME_BYTES,
    MAX_PIECES,
    bytes_room,
    bytes_start,
    copy_bytes,
    decref,
    inbox_append,
    inbox_clear,
    inbox_drop_tail,
    inbox_fill_large,
    inbox_grow_large,
    inbox_prepend,
    inbox_start_large,
    pool_clear,
    queue_append,
    queue_append_parts,
    queue_clear,
    queue_consume,
    queue_copy,
    queue_gather,
    queue_reserve,
    queue_room,
    queue_routed,
    queue_t,
    queue_whole,
)
from netcore._fast.codec cimport (
    DEFAULT_TTL_HOPS,
    ERROR_BAD_BODY,
    ERROR_BAD_KIND,
    ERROR_NONE,
    ERROR_TOO_BIG,
    ERROR_TRUNCATED,
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
    ROUTE_SERVICE,
    Message,
    c_decode_header,
    c_encode_header,
    c_error_offset,
    header_t,
    load_u32,
    new_message,
    raise_frame_error,
    store_u32,
)
from netcore._fast.loop cimport READ, WRITE, Loop, Source
from netcore._fast.syscalls cimport (
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    iovec,
    msghdr,
    recv,
    recvmsg,
    send,
    sendmsg,
    ssize_t,
)
from netcore._fast.table cimport (
    ACTION_LOCAL,
    ACTION_NEXT,
    ACTION_REJECT,
    NO_NODE,
    SERVICES,
    RouteTable,
    route_t,
)

import os
import socket
from collections import deque

from netcore import wire
from netcore._fast.codec import encode_header
from netcore.errors import (
    FrameError,
    LocalError,
    MessageTooBigError,
    NoRouteError,
    QueueFullError,
    SendQueueFullError,
)
from netcore.ids import check_key, check_node_id, format_conn, key_of
from netcore.route import RouteRule
from netcore.stats import SWITCH_COUNTERS

__all__ = ["Connection", "Port", "Switch"]

cdef extern from "Python.h":
    # No exception check: a hook's exception is handled where it is called.
    PyObject* vectorcall "PyObject_Vectorcall" (
        PyObject* function, PyObject** args, size_t n, PyObject* names
    ) noexcept
    const size_t PY_VECTORCALL_ARGUMENTS_OFFSET

cdef object MAX_U32 = wire.MAX_U32
cdef object SHUT_WR = socket.SHUT_WR
cdef object strerror = os.strerror

if len(SWITCH_COUNTERS) != COUNTERS:
    raise ImportError("netcore._fast.switch and netcore.stats disagree about the counters")


# -- arguments of sends ----------------------------------------------------------------------------


cdef inline long long plain(object value, long long limit) noexcept:
    """Return an int in 0..limit, -1 for everything else; bool is something else."""
    cdef int overflow = 0
    cdef long long number
    if not PyLong_CheckExact(value) and (not isinstance(value, int) or isinstance(value, bool)):
        return -1
    number = PyLong_AsLongLongAndOverflow(value, &overflow)
    return number if overflow == 0 and 0 <= number <= limit else -1


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
        raise TypeError(f"a payload is bytes, bytearray or memoryview, not {type(payload).__name__}")
    return bytes(payload)


cdef bytes close_body(object code, object text):
    """Return the body of a CLOSE frame."""
    reason = text.encode()[:MAX_REASON_BYTES].decode("utf-8", "ignore").encode()
    return code.to_bytes(2, "big") + reason


cdef inline bint would_block(int error) noexcept:
    return error == EAGAIN or error == EINTR  # EWOULDBLOCK is EAGAIN on Linux


# -- links -----------------------------------------------------------------------------------------


@cython.auto_pickle(False)
@cython.final
cdef class Connection(Source):
    """One link: a stream, its two send queues, its unfinished input, its handlers."""

    def __init__(
        self,
        Switch switch not None,
        conn_id,
        remote_node_id,
        sock,
        channel,
        records,
        max_frame_bytes,
    ):
        """Make a link; ``Switch.add_connection`` does."""
        self._switch = switch
        self.conn_id = conn_id
        self.remote_node_id = remote_node_id
        self.max_frame_bytes = max_frame_bytes
        self.state = OPEN
        self.last_received_ms = self.last_sent_ms = switch.loop._now_ms
        self._sock = sock
        self._sock_fd = -1 if sock is None else sock.fileno()
        self._channel = channel
        self._records = records
        self._unsent = b""
        self._close_reason = (CLOSE_LOST, "the stream ended")

    def __dealloc__(self):
        queue_clear(&self._data, NULL)
        queue_clear(&self._control, NULL)
        inbox_clear(&self._inbox)

    # -- what the plane does -----------------------------------------------------------------------

    def start(self):
        """Begin to receive; what came behind the handshake is handled in the next turn."""
        self._started = True
        if self._channel is not None:
            self._channel.set_target(self)
        self._watch(READ)
        if self._inbox.tail_bytes != 0:
            self._resume_soon()
        self._switch.loop.c_mark_dirty(self)

    def set_handler(self, service_id, hook, agent=None):
        """Deliver messages for a service that arrive here to ``hook(agent, message)``."""
        if self._handlers is None:
            self._handlers = {}
        if hook is None:
            self._handlers.pop(service_id, None)
        else:
            self._handlers[service_id] = (hook, agent)

    @property
    def queued_bytes(self):
        """Bytes of data that wait to be sent."""
        return self._queued()

    @property
    def control_queued_bytes(self):
        """Bytes of control frames that wait to be sent."""
        return self._control.bytes

    def send_control(self, int kind, bytes body not None):
        """Queue a control frame; a full control queue ends the link."""
        cdef Switch switch = self._switch
        if self.state == CLOSED or self._eof_out:
            return
        if self._control.bytes >= switch.control_queue_bytes:
            if self._failure is None:
                switch._counts[CONTROL_OVERFLOWS] += 1
            self.fail(CLOSE_CONTROL_OVERFLOW, "control queue full")
            return
        switch._counts[CONTROL_SENT] += 1
        self._push(&self._control, kind, NULL, body)

    def close(self, code=CLOSE_NORMAL, text=""):
        """End the link politely: what is queued still goes out. Idempotent."""
        if self.state == OPEN:
            self._close_reason = (code, text)
        self._begin_close(code, text)

    def fail(self, code, text):
        """End the link now: what is queued is dropped and counted. Idempotent."""
        if self.state == CLOSED or self._failure is not None:
            return
        self._failure = (code, text)
        self._leave_open()
        self._switch.loop.c_mark_dirty(self)

    def abandon(self):
        """Close the stream's descriptor and nothing else: for the child after a fork."""
        self.state = CLOSED
        if self._sock is not None:
            self._sock.close()

    # -- sending -----------------------------------------------------------------------------------

    cdef size_t _queued(self) noexcept:
        return self._data.bytes + <size_t>PyBytes_GET_SIZE(self._unsent)

    cdef int _check_queue(self, Py_ssize_t size) except -1:
        cdef Switch switch = self._switch
        cdef size_t queued = self._queued()
        if size > <Py_ssize_t>self.max_frame_bytes:
            switch._refuse(MessageTooBigError(size, self.max_frame_bytes))
        if queued >= switch.write_high_bytes:
            self.sends_refused += 1
            self._refused = True
            switch._refuse(SendQueueFullError(self.conn_id, queued, switch.write_high_bytes))
        return 0

    cdef int _push(
        self, queue_t* queue, int kind, const header_t* header, bytes payload
    ) except -1:
        """Append a frame: the message header, if any, and the payload."""
        cdef uint8_t head[HEAD_BYTES]
        cdef uint8_t* to
        cdef size_t n = <size_t>PyBytes_GET_SIZE(payload)
        cdef uint32_t head_bytes = FRAME_HEADER_BYTES
        if header != NULL:
            head_bytes += c_encode_header(head + FRAME_HEADER_BYTES, header)
        store_u32(head, <uint32_t>kind << 24 | <uint32_t>(head_bytes - FRAME_HEADER_BYTES + n))
        if n < BY_REFERENCE_BYTES:
            to = queue_reserve(queue, &self._switch._pool, head_bytes + <uint32_t>n)
            if to == NULL:
                raise MemoryError
            memcpy(to, head, head_bytes)
            memcpy(to + head_bytes, PyBytes_AS_STRING(payload), n)
        else:
            queue_append_parts(queue, &self._switch._pool, head, head_bytes, <PyObject*>payload, n)
        self.frames_sent += 1
        self._switch.loop.c_mark_dirty(self)
        return 0

    def flush(self):
        """Write what the stream takes; finish the link when it has come to its end."""
        self.c_flush()

    cdef int c_flush(self) except -1:
        cdef bint blocked
        if self.state == CLOSED or not self._started:
            return 0
        if self._failure is not None:
            return self._fail_now()
        try:
            blocked = self._write_all()
        except OSError as exc:
            return self._lose(f"write failed: {exc.strerror or exc}")
        self._watch((0 if self._eof_in else READ) | (WRITE if blocked else 0))
        if self._refused and self._queued() <= self._switch.write_low_bytes:
            self._refused = False
            if self.state == OPEN:
                self._switch._sink.on_writable(self)
        if self.state == CLOSING and not blocked and self._is_empty():
            self._end_output()
        return 0

    cdef bint _is_empty(self) noexcept:
        return self._data.bytes == 0 and self._control.bytes == 0

    cdef int _write_all(self) except -1:
        """Write until the queues are empty (0) or the stream is full (1)."""
        cdef Py_ssize_t sent
        cdef bytes chunk
        while True:
            if PyBytes_GET_SIZE(self._unsent) != 0:
                sent = self._write(self._unsent)
                self._unsent = self._unsent[sent:]
                if PyBytes_GET_SIZE(self._unsent) != 0:
                    return 1
            if self._is_empty():
                return 0
            if self._records is None and self._sock_fd >= 0:
                return self._write_pieces()
            chunk = self._peek()
            if self._records is not None:
                self._consume(PyBytes_GET_SIZE(chunk))
                self._unsent = self._records.seal(chunk)
                continue
            sent = self._write(chunk)
            self._consume(sent)
            if sent < PyBytes_GET_SIZE(chunk):
                return 1

    cdef int _write_pieces(self) except -1:
        """Do so without copying: several pieces of the queues with one system call."""
        cdef iovec pieces[MAX_PIECES]
        cdef msghdr message
        cdef size_t total
        cdef ssize_t sent
        cdef int i, count
        memset(&message, 0, sizeof(message))
        message.msg_iov = pieces
        while not self._is_empty():
            # The frame that has begun, then control frames, then data.
            count = queue_gather(&self._data, 0, self._data.left, pieces, MAX_PIECES)
            count += queue_gather(
                &self._control, 0, self._control.bytes, pieces + count, MAX_PIECES - count
            )
            count += queue_gather(
                &self._data,
                self._data.left,
                self._data.bytes - self._data.left,
                pieces + count,
                MAX_PIECES - count,
            )
            total = 0
            for i in range(count):
                total += pieces[i].iov_len
            message.msg_iovlen = count
            sent = sendmsg(self._sock_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent < 0:
                self._check_errno()
                return 1
            self._count_sent(sent)
            self._consume(sent)
            if <size_t>sent < total:
                return 1
        return 0

    cdef Py_ssize_t _write(self, bytes data) except -1:
        cdef Py_ssize_t sent
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
        if self._sock_fd >= 0:
            sent = send(self._sock_fd, PyBytes_AS_STRING(data), n, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent < 0:
                self._check_errno()
                return 0
        else:
            try:
                sent = self._channel.write(data)
            except (BlockingIOError, InterruptedError):
                return 0
            if not 0 <= sent <= n:
                raise ValueError(f"the channel took {sent} of {n} bytes")
        self._count_sent(sent)
        return sent

    cdef int _check_errno(self) except -1:
        """Raise what errno says, unless it is "later"."""
        cdef int error = errno
        if not would_block(error):
            raise OSError(error, strerror(error))
        return 0

    cdef int _count_sent(self, size_t n) except -1:
        self.bytes_sent += n
        self._switch._counts[BYTES_SENT] += n
        if n != 0:
            self.last_sent_ms = self._switch.loop._now_ms
        return 0

    cdef bytes _peek(self):
        """Return the bytes to send next, about WRITE_CHUNK_BYTES of them, without removing them."""
        cdef size_t begun = self._data.left
        cdef size_t control = self._control.left
        cdef size_t data
        cdef bytes chunk
        cdef uint8_t* to
        control += queue_whole(&self._control, begun + control, WRITE_CHUNK_BYTES)
        data = queue_whole(&self._data, begun + control, WRITE_CHUNK_BYTES)
        chunk = PyBytes_FromStringAndSize(NULL, begun + control + data)
        to = <uint8_t*>PyBytes_AS_STRING(chunk)
        queue_copy(&self._data, 0, begun, to)
        queue_copy(&self._control, 0, control, to + begun)
        queue_copy(&self._data, begun, data, to + begun + control)
        return chunk

    cdef void _consume(self, size_t n) noexcept:
        """Remove the n bytes that come first, in the order in which they are sent."""
        cdef size_t step = min(n, <size_t>self._data.left)
        queue_consume(&self._data, &self._switch._pool, step)
        n -= step
        step = min(n, self._control.bytes)
        queue_consume(&self._control, &self._switch._pool, step)
        queue_consume(&self._data, &self._switch._pool, n - step)

    # -- receiving ---------------------------------------------------------------------------------

    def on_ready(self, events):
        """Receive once and handle what came; write when the stream has room again."""
        self.c_on_ready(events)

    cdef int c_on_ready(self, int events) except -1:
        if events & READ and not self._eof_in and self.state != CLOSED:
            self._receive()
        if events & WRITE:
            self._switch.loop.c_mark_dirty(self)
        return 0

    cdef int _receive(self) except -1:
        cdef Switch switch = self._switch
        cdef size_t kept = 0
        cdef uint8_t* buffer
        cdef ssize_t n
        if switch._busy:  # inside a hook; the fd stays ready
            return 0
        buffer = switch._shared_buffer()
        if self._records is None:
            if self._inbox.large != NULL:
                return self._receive_large(buffer)
            kept = self._inbox.tail_bytes
            if kept > LARGE_FRAME_BYTES:  # more than an unfinished frame: an exception left it
                return self._feed(NULL, 0)
            copy_bytes(buffer, self._inbox.tail, kept)
        n = recv(self._sock_fd, buffer + kept, switch.read_budget_bytes, MSG_DONTWAIT)
        if n <= 0:
            return self._receive_nothing(n)
        if self._failure is not None:
            return 0
        self._count_received(n)
        if self._records is not None:
            return self._open_records(PyBytes_FromStringAndSize(<char*>buffer, n))
        inbox_drop_tail(&self._inbox)
        return self._handle_input(buffer, kept + n)

    cdef int _receive_large(self, uint8_t* buffer) except -1:
        """Receive into the large frame, and what goes beyond its room into the shared buffer."""
        cdef Switch switch = self._switch
        cdef iovec pieces[2]
        cdef msghdr message
        cdef size_t room, behind
        cdef ssize_t n
        self._grow_large()
        room = bytes_room(self._inbox.large) - self._inbox.large_bytes
        pieces[0].iov_base = bytes_start(self._inbox.large) + self._inbox.large_bytes
        pieces[0].iov_len = min(room, switch.read_budget_bytes)
        pieces[1].iov_base = buffer
        pieces[1].iov_len = switch.read_budget_bytes - pieces[0].iov_len
        memset(&message, 0, sizeof(message))
        message.msg_iov = pieces
        message.msg_iovlen = 2
        n = recvmsg(self._sock_fd, &message, MSG_DONTWAIT)
        if n <= 0:
            return self._receive_nothing(n)
        if self._failure is not None:
            return 0
        self._count_received(n)
        behind = n - min(<size_t>n, pieces[0].iov_len)
        self._inbox.large_bytes += <uint32_t>(n - behind)
        return self._handle_input(buffer, behind)

    cdef int _grow_large(self) except -1:
        """Make room for at least one more byte of the large frame."""
        try:
            inbox_grow_large(&self._inbox, 1)
        except MemoryError:
            self.fail(CLOSE_LOST, "no memory for a frame")
            raise

    cdef int _receive_nothing(self, ssize_t n) except -1:
        """Handle the end of the stream (0) or an error."""
        cdef int error = errno
        if n == 0:
            self.receive_eof()
        elif not would_block(error):
            self._lose(f"read failed: {strerror(error)}")
        return 0

    cdef int _count_received(self, size_t n) except -1:
        self.bytes_received += n
        self._switch._counts[BYTES_RECEIVED] += n
        self.last_received_ms = self._switch.loop._now_ms
        return 0

    def receive_data(self, data):
        """Handle bytes of the stream. The channel of a link without a socket calls this."""
        cdef bytes chunk
        if self.state == CLOSED or self._failure is not None:
            return
        chunk = data if type(data) is bytes else bytes(data)
        self._count_received(PyBytes_GET_SIZE(chunk))
        if self._records is not None:
            self._open_records(chunk)
        else:
            self._feed(<const uint8_t*>PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk))

    cdef int _open_records(self, bytes data) except -1:
        try:
            data = self._records.open(data)
        except FrameError as exc:
            return self._protocol_error(str(exc))
        return self._feed(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    def receive_eof(self):
        """Handle the end of the neighbour's stream."""
        self._eof_in = True
        self._feed(NULL, 0)

    def channel_writable(self):
        """Write again: the channel has room."""
        self._switch.loop.c_mark_dirty(self)

    def _resume(self):
        """Handle what an exception, or the handshake, left behind."""
        self._feed(NULL, 0)

    cdef int _resume_soon(self) except -1:
        cdef Loop loop = self._switch.loop
        loop.c_call_at(loop._now_ms, self._resume, ())
        return 0

    cdef int _feed(self, const uint8_t* data, size_t n) except -1:
        """Handle the tail and n bytes behind it."""
        cdef Switch switch = self._switch
        cdef size_t kept = self._inbox.tail_bytes
        cdef uint8_t* buffer
        cdef uint8_t* own = NULL
        if switch._busy:
            inbox_append(&self._inbox, data, n)
            return self._resume_soon()
        if kept + n <= switch._buffer_bytes:
            buffer = switch._shared_buffer()
        else:
            buffer = own = <uint8_t*>PyMem_Malloc(kept + n)
            if own == NULL:
                raise MemoryError
        copy_bytes(buffer, self._inbox.tail, kept)
        copy_bytes(buffer + kept, data, n)
        inbox_drop_tail(&self._inbox)
        try:
            return self._handle_input(buffer, kept + n)
        finally:
            PyMem_Free(own)

    cdef int _handle_input(self, uint8_t* data, size_t n) except -1:
        """Handle every whole frame, then the end of the stream if it has come; keep the rest."""
        cdef size_t position = 0
        self._switch._busy = True
        try:
            if self._inbox.large != NULL:
                self._fill_large(data, n, &position)
            if self._inbox.large == NULL:
                self._parse(data, n, &position)
        except FrameError as exc:
            self._protocol_error(str(exc))
        except BaseException:
            # KeyboardInterrupt out of a hook: the frames behind it wait here, and the stream will
            # not tell again that they are there.
            self._resume_soon()
            raise
        finally:
            self._switch._busy = False
            if position < n and self._failure is None and self.state != CLOSED:
                inbox_prepend(&self._inbox, data + position, n - position)
        if self._eof_in:
            self._end_input()
        return 0

    cdef int _parse(self, uint8_t* data, size_t n, size_t* position) except -1:
        """Handle whole frames from ``position`` on, and move it."""
        cdef Switch switch = self._switch
        cdef header_t header
        cdef route_t route
        cdef memo_t memo
        cdef run_t run
        cdef uint8_t* frame
        cdef uint32_t length = 0
        cdef int kind, code
        cdef size_t at = position[0]
        memo.kind = -1
        run.bytes = 0
        while self._failure is None and self.state != CLOSED and n - at >= FRAME_HEADER_BYTES:
            frame = data + at
            length = load_u32(frame) & MAX_FRAME_BYTES
            if length > self.max_frame_bytes or n - at - FRAME_HEADER_BYTES < length:
                break
            at += FRAME_HEADER_BYTES + length
            position[0] = at
            self.frames_received += 1
            kind = frame[0]
            frame += FRAME_HEADER_BYTES
            if kind > KIND_CALL:
                switch._end_run(&run)
                self._on_other(kind, frame, length)
                continue
            code = c_decode_header(frame, length, &header)
            if code != ERROR_NONE:
                switch._end_run(&run)
                raise_frame_error(code, c_error_offset(code, length))
            if switch._router is not None:
                switch._end_run(&run)  # it may do anything
            switch._find_route(&header, self.remote_node_id, &memo, &route)
            if route.action != ACTION_LOCAL:
                switch._relay(&route, self.remote_node_id, frame, length, &run)
                continue
            switch._end_run(&run)
            switch._deliver(
                kind,
                self,
                new_message(
                    PyBytes_FromStringAndSize(<char*>frame + header.size, length - header.size),
                    &header,
                    self.remote_node_id,
                    False,
                ),
            )
        switch._end_run(&run)
        return self._stop_at(data + at, n - at, position)

    cdef int _stop_at(self, const uint8_t* rest, size_t n, size_t* position) except -1:
        """Look at the unfinished rest: too big a frame is an error, a large one gets its own room."""
        cdef uint32_t length
        if self._failure is not None or self.state == CLOSED or n < FRAME_HEADER_BYTES:
            return 0
        length = load_u32(rest) & MAX_FRAME_BYTES
        if length > self.max_frame_bytes:
            raise_frame_error(ERROR_TOO_BIG, 1)
        if length > LARGE_FRAME_BYTES and n >= HEAD_BYTES:
            inbox_start_large(&self._inbox, rest, <uint32_t>n, FRAME_HEADER_BYTES + length)
            position[0] += n
        return 0

    cdef int _fill_large(self, const uint8_t* data, size_t n, size_t* position) except -1:
        """Add to the large frame what belongs to it; handle it when it is whole."""
        cdef header_t header
        cdef bytes payload
        cdef int kind = self._inbox.head[0]
        if self._failure is not None or self.state == CLOSED:
            return 0
        if self._inbox.large_bytes < self._inbox.large_need and n != 0:
            try:
                position[0] += inbox_fill_large(&self._inbox, data, n)
            except MemoryError:
                self.fail(CLOSE_LOST, "no memory for a frame")
                raise
        if self._inbox.large_bytes < self._inbox.large_need:
            return 0
        payload = <bytes>self._inbox.large
        decref(self._inbox.large)
        self._inbox.large = NULL
        self.frames_received += 1
        if kind > KIND_CALL:
            return self._on_other(
                kind, <const uint8_t*>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload)
            )
        return self._on_large_routed(kind, payload)

    cdef int _on_large_routed(self, int kind, bytes payload) except -1:
        """Deliver, relay or drop one large MESSAGE or CALL, whose header is in the inbox."""
        cdef Switch switch = self._switch
        cdef inbox_t* inbox = &self._inbox
        cdef header_t header
        cdef route_t route
        cdef memo_t memo
        cdef Connection hop
        cdef PyObject* found
        cdef int code
        cdef uint32_t length = inbox.head_bytes - FRAME_HEADER_BYTES
        if length == 0:  # a header that cannot be decoded was left where it is
            code = c_decode_header(
                <const uint8_t*>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), &header
            )
            return raise_frame_error(code, 0)
        c_decode_header(inbox.head + FRAME_HEADER_BYTES, length, &header)
        length += <uint32_t>PyBytes_GET_SIZE(payload)
        memo.kind = -1
        switch._find_route(&header, self.remote_node_id, &memo, &route)
        if route.action == ACTION_LOCAL:
            message = new_message(payload, &header, self.remote_node_id, False)
            return switch._deliver(kind, self, message)
        found = switch._next_hop(&route, self.remote_node_id, header.ttl, length, NULL)
        if found != NULL:
            hop = <Connection>found
            header.ttl -= 1
            switch._counts[MESSAGES_RELAYED] += 1
            hop._push(&hop._data, kind, &header, payload)
        return 0

    cdef int _on_other(self, int kind, const uint8_t* body, size_t n) except -1:
        """Handle a frame that is neither message nor call."""
        cdef Switch switch = self._switch
        if kind == KIND_PING or kind == KIND_PONG:
            switch._counts[CONTROL_RECEIVED] += 1
            switch._sink.on_control(self, kind, PyBytes_FromStringAndSize(<const char*>body, n))
        elif kind == KIND_CLOSE:
            switch._counts[CONTROL_RECEIVED] += 1
            self._on_close_frame(body, n)
        elif kind >= KIND_EXTENSION or kind == KIND_BROADCAST:
            switch._counts[FRAMES_IGNORED] += 1
        else:
            raise_frame_error(ERROR_BAD_KIND, 0)
        return 0

    # -- ending ------------------------------------------------------------------------------------

    cdef int _on_close_frame(self, const uint8_t* body, size_t n) except -1:
        cdef bytes text
        if n < 2:
            raise_frame_error(ERROR_TRUNCATED, n)
        if n > 2 + MAX_REASON_BYTES:
            raise_frame_error(ERROR_BAD_BODY, 2)
        if not self._peer_closed:
            self._peer_closed = True
            if self.state == OPEN:
                text = PyBytes_FromStringAndSize(<const char*>body + 2, n - 2)
                self._close_reason = (body[0] << 8 | body[1], text.decode("utf-8", "replace"))
            self._begin_close(CLOSE_NORMAL, "")
        return 0

    cdef int _begin_close(self, object code, object text) except -1:
        cdef Switch switch = self._switch
        cdef Loop loop = switch.loop
        if self.state != OPEN:
            return 0
        # At the end of the data queue: everything sent before still arrives.
        self._push(&self._data, KIND_CLOSE, NULL, close_body(code, text))
        switch._counts[CONTROL_SENT] += 1
        self._timer = loop.c_call_at(
            loop._now_ms + switch.close_timeout_ms, self._on_close_timeout, ()
        )
        return self._leave_open()

    cdef int _leave_open(self) except -1:
        if self.state == OPEN:
            self.state = CLOSING
            self._switch._sink.on_closing(self)
        return 0

    def _on_close_timeout(self):
        """End a link whose neighbour did not end it in time."""
        if self._failure is None:
            self._failure = (CLOSE_LOST, "the neighbour did not finish in time")
        self._switch.loop.c_mark_dirty(self)

    cdef int _end_input(self) except -1:
        """The neighbour's stream has ended."""
        if self._peer_closed:
            return self._switch.loop.c_mark_dirty(self)
        return self._lose("the stream ended")

    cdef int _end_output(self) except -1:
        """Everything has left: end our stream, and the link when theirs has ended too."""
        if not self._eof_out:
            self._eof_out = True
            try:
                if self._sock is not None:
                    self._sock.shutdown(SHUT_WR)
                else:
                    self._channel.shutdown()
            except OSError:
                pass  # the neighbour was faster; its end of stream tells
        if self._eof_in:
            self._finish(self._close_reason)
        return 0

    cdef int _lose(self, str text) except -1:
        """The stream broke: nothing more can be sent or received."""
        self._eof_out = True
        if self._peer_closed or self._close_reason[0] != CLOSE_LOST:
            self.fail(*self._close_reason)
        else:
            self.fail(CLOSE_LOST, text)
        return 0

    cdef int _protocol_error(self, str text) except -1:
        self._switch._counts[PROTOCOL_ERRORS] += 1
        self.fail(CLOSE_PROTOCOL_ERROR, text)
        return 0

    cdef int _fail_now(self) except -1:
        code, text = self._failure
        if not self._eof_out and code != CLOSE_LOST and self._starts_whole():
            self._say_why(code, text)
        return self._finish(self._failure)

    cdef bint _starts_whole(self) noexcept:
        """Whether no frame has left in part."""
        return (
            PyBytes_GET_SIZE(self._unsent) == 0
            and self._data.left == 0
            and self._control.left == 0
        )

    cdef int _say_why(self, object code, object text) except -1:
        cdef bytes body = close_body(code, text)
        cdef bytes frame = (KIND_CLOSE << 24 | len(body)).to_bytes(4, "big") + body
        try:
            self._write(self._records.seal(frame) if self._records is not None else frame)
        except OSError:
            pass  # it is gone already
        return 0

    cdef int _finish(self, tuple reason) except -1:
        """Give everything back and say so, once."""
        cdef Switch switch = self._switch
        self.state = CLOSED
        switch._counts[DROPPED_LINK_CLOSED] += queue_routed(&self._data)
        queue_clear(&self._data, &switch._pool)
        queue_clear(&self._control, &switch._pool)
        inbox_clear(&self._inbox)
        self._unsent = b""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._watch(0)
        if self._sock is not None:
            self._sock.close()
        else:
            self._channel.close()
        switch._forget(self)
        try:
            switch._sink.on_closed(self, reason[0], reason[1])
        finally:
            self._handlers = None
            self.owner = None
        return 0

    cdef int _watch(self, int events) except -1:
        cdef Loop loop
        if self._sock is None or events == self._registered:
            return 0
        loop = self._switch.loop
        if events == 0:
            loop.remove(self)
        elif self._registered == 0:
            loop.add(self, self._sock_fd, events)
        else:
            loop.modify(self, events)
        self._registered = events
        return 0


# -- the switch ------------------------------------------------------------------------------------


@cython.auto_pickle(False)
@cython.final
cdef class Switch(Source):
    """All links of one node, and the decision what happens to each frame."""

    def __init__(
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
    ):
        """Make a switch without links."""
        self.loop = loop
        self.node_id = node_id
        self.max_frame_bytes = max_frame_bytes
        self.read_budget_bytes = read_budget_bytes
        self.write_high_bytes = write_high_bytes
        self.write_low_bytes = write_low_bytes
        self.control_queue_bytes = control_queue_bytes
        self.local_queue_bytes = local_queue_bytes
        self.close_timeout_ms = close_timeout_ms
        self._buffer_bytes = self.read_budget_bytes + LARGE_FRAME_BYTES + HEAD_BYTES
        self._sink = sink
        self._commands = sink.commands
        if isinstance(router, RouteTable):
            self._table = router
        else:
            self._router = router
        self._connections = {}
        self._behaviors = [None] * SERVICES
        self._local = deque()

    def __dealloc__(self):
        pool_clear(&self._pool)
        PyMem_Free(self._buffer)

    # -- set-up ------------------------------------------------------------------------------------

    def set_behavior(self, service_id, hook, agent=None):
        """Deliver messages for a service to ``hook(agent, message)``; None ends that."""
        self._behaviors[service_id] = None if hook is None else (hook, agent)

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
        owner=None,
    ):
        """Return a new link over a stream whose handshake is done; ``start`` it afterwards."""
        cdef Connection conn
        if self._closed is not None:
            raise self._closed
        if conn_id in self._connections:
            raise LocalError(f"{format_conn(conn_id)} is in use")
        if (sock is None) == (channel is None):
            raise LocalError("a connection needs a socket or a channel, and not both")
        limit = self.max_frame_bytes if max_frame_bytes is None else max_frame_bytes
        conn = Connection(self, conn_id, remote_node_id, sock, channel, records, limit)
        conn._unsent = unsent
        inbox_append(&conn._inbox, <const uint8_t*>PyBytes_AS_STRING(rest), len(rest))
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

    cdef int _forget(self, Connection conn) except -1:
        cdef link_t* cached = &self._cache[conn.conn_id >> 16 & (CACHED_LINKS - 1)]
        if cached.conn == <PyObject*>conn:
            cached.conn = NULL
        self._connections.pop(conn.conn_id, None)
        return 0

    cdef uint8_t* _shared_buffer(self) except NULL:
        """Return the receive buffer, made when first needed."""
        if self._buffer == NULL:
            self._buffer = <uint8_t*>PyMem_Malloc(self._buffer_bytes)
            if self._buffer == NULL:
                raise MemoryError
        return self._buffer

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
            frame_kind, route_kind, argument, payload, from_service, to_service, stream_id, meta, ttl
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
        if kind < 0 or number < 0:
            self._check_send(payload, ttl)
            encode_header(
                route_kind, argument, ttl, from_service, to_service, stream_id, meta, self.node_id
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
        cdef route_t route
        cdef memo_t memo
        cdef Connection conn = None
        cdef PyObject* found
        cdef bytes data
        cdef Py_ssize_t size = HEADER_BYTES + 4 * (1 + (route_kind != ROUTE_DIRECT))
        if self._closed is not None or type(payload) is not bytes:
            payload = self._check_send(payload, ttl)
        data = <bytes>payload
        if not fill_header(&header, from_service, to_service, stream_id, meta, ttl):
            self._check_send(data, ttl)
            encode_header(
                route_kind, argument, ttl, from_service, to_service, stream_id, meta, self.node_id
            )
        header.kind = route_kind
        header.argument = 0 if route_kind == ROUTE_DIRECT else argument
        header.has_from = True
        header.from_node = self.node_id
        size += PyBytes_GET_SIZE(data)
        if size > self.max_frame_bytes:
            self._refuse(MessageTooBigError(size, self.max_frame_bytes))
        memo.kind = -1
        self._find_route(&header, NO_NODE, &memo, &route)
        if route.action == ACTION_LOCAL:
            return self._push_local(frame_kind, new_message(data, &header, self.node_id, True))
        if route.action == ACTION_NEXT:
            found = self._find(route.conn)
            if found != NULL:
                conn = <Connection>found
        if conn is None or conn.state != OPEN:
            self._refuse(NoRouteError(destination(&header)))
        conn._check_queue(size)
        self._counts[MESSAGES_SENT] += 1
        return conn._push(&conn._data, frame_kind, &header, data)

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
            self._check_send(data, ttl)
            encode_header(ROUTE_DIRECT, 0, ttl, from_service, to_service, stream_id, meta, None)
        header.kind = ROUTE_DIRECT
        header.argument = 0
        header.has_from = False
        if conn is None or conn.state != OPEN:
            self._refuse(NoRouteError("a link that is closed or closing"))
        size = HEADER_BYTES + PyBytes_GET_SIZE(data)
        if size > <Py_ssize_t>conn.max_frame_bytes:
            self._refuse(MessageTooBigError(size, conn.max_frame_bytes))
        if header.to_service < FIRST_RESERVED_SERVICE:
            conn._check_queue(size)
            self._counts[MESSAGES_SENT] += 1
            return conn._push(&conn._data, KIND_MESSAGE, &header, data)
        if conn._control.bytes >= self.control_queue_bytes:
            self._refuse(
                SendQueueFullError(conn.conn_id, conn._control.bytes, self.control_queue_bytes)
            )
        self._counts[CONTROL_SENT] += 1
        return conn._push(&conn._control, KIND_MESSAGE, &header, data)

    cdef bytes _check_send(self, object payload, object ttl):
        """Return the payload as bytes, or raise what is wrong before the header."""
        cdef bytes data
        if self._closed is not None:
            raise self._closed
        data = payload if type(payload) is bytes else as_payload(payload)
        if ttl == 0:
            raise ValueError("ttl must be in 1..255, not 0")
        return data

    cdef int _refuse(self, error) except -1:
        self._counts[SENDS_REFUSED] += 1
        raise error

    # -- local delivery ----------------------------------------------------------------------------

    @property
    def local_pending(self):
        """Messages of this node to itself that wait for ``deliver_local``."""
        return len(self._local)

    cdef int _push_local(self, int frame_kind, Message message) except -1:
        if self._local_bytes >= self.local_queue_bytes:
            self._refuse(QueueFullError("local_queue_bytes", self.local_queue_bytes))
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
        self._counts[DROPPED_NO_SERVICE] += len(self._local)
        self._local.clear()
        self._local_bytes = 0

    def flush(self):
        """Let the sink drain what was asked for outside a hook."""
        self._sink.drain()

    cdef int c_flush(self) except -1:
        self._sink.drain()
        return 0

    # -- routing -----------------------------------------------------------------------------------

    cdef int _find_route(
        self, const header_t* header, uint32_t from_node, memo_t* memo, route_t* route
    ) except -1:
        """Answer where a message goes; asks the table only when the memo does not know."""
        cdef RouteTable table = self._table
        cdef uint32_t key
        if header.kind == ROUTE_DIRECT:
            route.action = ACTION_LOCAL
            return 0
        if table is None:
            return self._ask_router(header, route)
        key = header.to_service if header.kind == ROUTE_SERVICE else header.argument
        if memo.kind != header.kind or memo.key != key or memo.version != table._version:
            memo.kind = header.kind
            memo.key = key
            memo.version = table._version
            if header.kind == ROUTE_NODE:
                memo.route = table.c_path_to_node(key, from_node)
            elif header.kind == ROUTE_KEY:
                memo.route = table.c_path_to_key(key, from_node)
            else:
                memo.route = table.c_path_to_service(<uint8_t>key, from_node)
        route[0] = memo.route
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
        elif action == ACTION_NEXT and conn_id in self._connections:
            route.action = ACTION_NEXT
            route.conn = conn_id
            if isinstance(node_id, int) and 0 <= node_id <= MAX_U32:
                route.node = node_id
        return 0

    cdef PyObject* _next_hop(
        self,
        const route_t* route,
        uint32_t from_node,
        uint8_t ttl,
        uint32_t length,
        const run_t* run,
    ) except? NULL:
        """Return the link to relay over, borrowed, or count the drop and return NULL."""
        cdef PyObject* found
        cdef Connection hop
        cdef size_t waiting
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
                waiting = hop._queued()
                if run != NULL and run.bytes != 0 and run.hop == found:
                    waiting += run.bytes
                if length > hop.max_frame_bytes:
                    drop = DROPPED_TOO_BIG
                elif waiting < self.write_high_bytes:
                    return found
                else:
                    drop = DROPPED_RELAY_QUEUE_FULL
                    hop.relay_queue_full += 1
        self._counts[drop] += 1
        return NULL

    cdef int _relay(
        self,
        const route_t* route,
        uint32_t from_node,
        uint8_t* body,
        uint32_t length,
        run_t* run,
    ) except -1:
        """Relay or drop one frame: it joins the run, or ends it and begins another."""
        cdef uint8_t* frame = body - FRAME_HEADER_BYTES
        cdef size_t n = FRAME_HEADER_BYTES + length
        cdef PyObject* hop = self._next_hop(route, from_node, body[1], length, run)
        if hop == NULL:
            return 0
        body[1] -= 1
        if (
            run.bytes != 0
            and run.hop == hop
            and run.start + run.bytes == frame
            and run.bytes + n <= run.room
        ):
            run.bytes += n
            run.frames += 1
            return 0
        self._end_run(run)
        run.hop = hop
        run.start = frame
        run.bytes = n
        run.frames = 1
        run.room = queue_room(&(<Connection>hop)._data, n)
        return 0

    cdef int _end_run(self, run_t* run) except -1:
        """Queue the run, if there is one."""
        cdef Connection hop
        cdef size_t n = run.bytes
        if n == 0:
            return 0
        run.bytes = 0
        hop = <Connection>run.hop
        queue_append(&hop._data, &self._pool, run.start, n)
        hop.frames_sent += run.frames
        self._counts[MESSAGES_RELAYED] += run.frames
        return self.loop.c_mark_dirty(hop)

    # -- delivery ----------------------------------------------------------------------------------

    cdef int _deliver(self, int kind, Connection conn, Message message) except -1:
        """Hand one message or call to whoever it is for; then let the sink drain."""
        cdef uint8_t service = message.to_service
        cdef object target = None
        if kind == KIND_CALL:
            self._counts[MESSAGES_DELIVERED] += 1
            return self._call_hook(self._sink.on_call, conn, message)
        if conn is not None and conn._handlers is not None:
            target = conn._handlers.get(service)
        if target is None:
            target = self._behaviors[service]
        if (
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
        cdef PyObject* args[3]
        cdef PyObject* result
        args[1] = <PyObject*>agent
        args[2] = <PyObject*>message
        result = vectorcall(<PyObject*>hook, args + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL)
        if result != NULL:
            decref(result)
        else:
            self._on_hook_error(hook)
        if self._commands or self._local:
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


# -- ports -----------------------------------------------------------------------------------------


@cython.auto_pickle(False)
@cython.final
cdef class Port:
    """Sends in the name of one service, for agents."""

    def __init__(self, Switch switch not None, service_id, Connection conn=None):
        """Make a port."""
        self.service_id = service_id
        self._switch = switch
        self._conn = conn

    def send(
        self, rule, payload, *, to_service=None, stream_id=0, meta=0, ttl=DEFAULT_TTL_HOPS
    ):
        """Send where the rule says; raises like ``Switch.originate``."""
        own = self.service_id
        self._switch._originate_checked(
            KIND_MESSAGE, rule.kind, rule.argument, payload, own,
            own if to_service is None else to_service, stream_id, meta, ttl,
        )

    def send_to_node(
        self, node_id, payload, *, to_service=None, stream_id=0, meta=0, ttl=DEFAULT_TTL_HOPS
    ):
        """Send to the node with this id, over as many hops as it takes."""
        cdef long long number = plain(node_id, NO_NODE - 1)
        if number < 0:
            check_node_id(node_id)
        own = self.service_id
        self._switch._originate(
            KIND_MESSAGE, ROUTE_NODE, <uint32_t>number, payload, own,
            own if to_service is None else to_service, stream_id, meta, ttl,
        )

    def send_to_key(
        self, key, payload, *, to_service=None, stream_id=0, meta=0, ttl=DEFAULT_TTL_HOPS
    ):
        """Send to the node whose id is closest to the key, an int or a name for ``key_of``."""
        cdef long long number = plain(key, 0xFFFFFFFF)
        if number < 0:
            number = key_of(key) if isinstance(key, (str, bytes)) else check_key(key)
        own = self.service_id
        self._switch._originate(
            KIND_MESSAGE, ROUTE_KEY, <uint32_t>number, payload, own,
            own if to_service is None else to_service, stream_id, meta, ttl,
        )

    def send_to_service(
        self, service_id, payload, *, stream_id=0, meta=0, ttl=DEFAULT_TTL_HOPS
    ):
        """Send to a node that offers the service: this one, else the nearest."""
        self._switch._originate(
            KIND_MESSAGE, ROUTE_SERVICE, 0, payload, self.service_id, service_id, stream_id, meta,
            ttl,
        )

    def send_local(
        self, payload, *, to_service=None, stream_id=0, meta=0, ttl=DEFAULT_TTL_HOPS
    ):
        """Send to this node's own behavior; it is called after the running hook."""
        own = self.service_id
        self._switch._originate(
            KIND_MESSAGE, ROUTE_DIRECT, 0, payload, own,
            own if to_service is None else to_service, stream_id, meta, ttl,
        )

    def send_to_conn(
        self, conn_id, payload, *, to_service=None, stream_id=0, meta=0, ttl=DEFAULT_TTL_HOPS
    ):
        """Send one hop over exactly this link."""
        own = self.service_id
        self._switch._send_on(
            self._switch._connections.get(conn_id), payload, own,
            own if to_service is None else to_service, stream_id, meta, ttl,
        )

    def send_on_link(
        self, payload, *, to_service=None, stream_id=0, meta=0, ttl=DEFAULT_TTL_HOPS
    ):
        """Send one hop over the own link."""
        own = self.service_id
        self._switch._send_on(
            self._conn, payload, own, own if to_service is None else to_service, stream_id, meta,
            ttl,
        )

    def reply(self, Message message not None, payload):
        """Send back to the message's node and service, with its ``stream_id``."""
        if not message.c_has_from:
            raise NoRouteError("a sender that did not give its node id")
        self._switch._originate(
            KIND_MESSAGE, ROUTE_NODE, message.c_from_node, payload, self.service_id,
            message.from_service, message.stream_id, 0, DEFAULT_TTL_HOPS,
        )
