"""One link: its stream, its send queues, its unfinished input, and how it ends."""

# Facts that this file relies on, besides those of the pure twin:
# - One receive buffer per switch: an unfinished frame is copied out of it, and back before the next
#   receive; a large one gets a bytes object that is received into. Hooks may run while the buffer
#   is in use, but none of them can lead back here: _busy turns what they bring into bytes kept for
#   later.
# - An exception out of Python code leaves `position` behind the frame that caused it; what lies
#   behind is kept and parsed by a timer.

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from netcore._fast.buffer cimport (
    BY_REFERENCE_BYTES,
    HEAD_BYTES,
    KIND_BROADCAST,
    KIND_CALL,
    KIND_CLOSE,
    KIND_CONTROL,
    KIND_EXTENSION,
    KIND_PING,
    KIND_PONG,
    LARGE_FRAME_BYTES,
    MAX_PIECES,
    NEXT_HEAD_BYTES,
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
    queue_append_parts,
    queue_clear,
    queue_consume,
    queue_copy,
    queue_drop_oldest,
    queue_gather,
    queue_reserve,
    queue_t,
    queue_unsent,
    queue_whole,
)
from netcore._fast.codec cimport (
    ERROR_BAD_BODY,
    ERROR_BAD_KIND,
    ERROR_NONE,
    ERROR_TOO_BIG,
    ERROR_TRUNCATED,
    FRAME_HEADER_BYTES,
    MAX_FRAME_BYTES,
    c_decode_header,
    c_encode_header,
    c_error_offset,
    header_t,
    load_u32,
    raise_frame_error,
    store_u32,
)
from netcore._fast.loop cimport READ, WRITE, Loop, Source
from netcore._fast.records cimport (
    MAX_RECORD_BODY_BYTES,
    RECORD_EXTRA_BYTES,
    RECORD_ROOM_BYTES,
    SEAL_BYTES,
    Records,
)
from netcore._fast.syscalls cimport (
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    SHUT_WR,
    close,
    iovec,
    msghdr,
    recv,
    recvmsg,
    send,
    sendmsg,
    shutdown,
    ssize_t,
)

import os

from netcore.errors import FrameError, MessageTooBigError, SendQueueFullError

__all__ = ["Connection"]

cdef object strerror = os.strerror
cdef tuple ENDED = (CLOSE_LOST, "the stream ended")  # the reason, as long as nobody gave one


cdef bytes close_body(object code, object text):
    """Return the body of a CLOSE frame."""
    reason = text.encode()[:MAX_REASON_BYTES].decode("utf-8", "ignore").encode()
    return code.to_bytes(2, "big") + reason


cdef inline bint would_block(int error) noexcept:
    return error == EAGAIN or error == EINTR  # EWOULDBLOCK is EAGAIN on Linux


@cython.auto_pickle(False)
cdef class Hub(Source):
    """What links need of their switch; ``Switch`` is the only one."""

    def __cinit__(self, *_, **__):
        if type(self) is Hub:
            raise TypeError("Hub is made by its subclass only")

    def __dealloc__(self):
        pool_clear(&self._pool)
        PyMem_Free(self._buffer)
        PyMem_Free(self._spare_out)

    cdef uint8_t* _shared_buffer(self) except NULL:
        """Return the receive buffer, made when first needed."""
        if self._buffer == NULL:
            self._buffer = <uint8_t*>PyMem_Malloc(self._buffer_bytes)
            if self._buffer == NULL:
                raise MemoryError
        return self._buffer

    cdef int _refuse(self, object error) except -1:
        self._counts[SENDS_REFUSED] += 1
        raise error

    cdef int c_shed(self) except -1:
        raise NotImplementedError

    cdef int c_parse(
        self, Connection conn, uint8_t* data, size_t n, size_t* position
    ) except -1:
        raise NotImplementedError

    cdef int c_on_large(
        self, Connection conn, int kind, const header_t* header, bytes payload
    ) except -1:
        raise NotImplementedError

    cdef int c_on_broadcast(self, Connection conn, const uint8_t* body, size_t n) except -1:
        raise NotImplementedError

    cdef int c_forget(self, Connection conn) except -1:
        raise NotImplementedError


cdef int _descriptor_of(object sock) except? -1:
    """Take the descriptor of a socket, whatever is none is a TypeError."""
    try:
        detach = sock.detach
    except AttributeError:
        raise TypeError(f"sock must be a socket, not {type(sock).__name__}") from None
    return detach()


@cython.auto_pickle(False)
@cython.final
cdef class Connection(Source):
    """One link: a stream, its two send queues, its unfinished input, its handlers."""

    # __cinit__, as in all kernel classes that C code relies on: there is none without arguments,
    # and it does not run twice.
    def __cinit__(
        self,
        Hub switch not None,
        conn_id,
        remote_node_id,
        sock,
        channel,
        records,
        max_frame_bytes,
    ):
        """Make a link; ``Switch.add_connection`` does."""
        self._sock_fd = -1
        self._switch = switch
        self.conn_id = conn_id
        self.remote_node_id = remote_node_id
        self.max_frame_bytes = max_frame_bytes
        self.state = OPEN
        self.last_received_ms = self.last_sent_ms = switch.loop._now_ms
        self._channel = channel
        self._records = records
        self._unsent = b""
        self._close_reason = ENDED
        self._portion_kib = READ_CHUNK_KIB
        self._handlers = ()
        # Last: nothing may fail once the descriptor is ours.
        self._sock_fd = -1 if sock is None else _descriptor_of(sock)

    def __dealloc__(self):
        if self._portion_kib != 0:  # else the constructor did not come to run, and 0 is stdin
            self._close_fd()
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
        cdef dict handlers = dict(zip(self._handlers[::2], self._handlers[1::2]))
        if hook is None:
            handlers.pop(service_id, None)
        else:
            handlers[service_id] = (hook, agent)
            self._handled |= <uint64_t>1 << (service_id & 63)
        # Not kept as a dict: that costs more than all the rest of an idle link's handler.
        self._handlers = tuple([part for item in handlers.items() for part in item])

    cdef object _find_handler(self, uint8_t service):
        """Return (hook, agent) of the handler of a service, None without one."""
        cdef Py_ssize_t at
        cdef tuple handlers = self._handlers
        for at in range(0, PyTuple_GET_SIZE(handlers), 2):
            if <uint8_t>handlers[at] == service:
                return handlers[at + 1]
        return None

    @property
    def queued_bytes(self):
        """Bytes of data that wait to be sent."""
        return queued(self)

    @property
    def control_queued_bytes(self):
        """Bytes of control frames that wait to be sent."""
        return self._control.bytes

    def send_control(self, int kind, bytes body not None):
        """Queue a control frame; a full control queue ends the link."""
        cdef Hub switch = self._switch
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
        self._switch.loop.c_mark_dirty(self)  # first: it must end whatever is raised here
        self._leave_open()

    def abandon(self):
        """Close the stream's descriptor and nothing else: for the child after a fork."""
        self.state = CLOSED
        self._close_fd()

    cdef void _close_fd(self) noexcept:
        if self._sock_fd >= 0:
            close(self._sock_fd)
            self._sock_fd = -1

    # -- sending -----------------------------------------------------------------------------------

    cdef bint _takes(self, Py_ssize_t size) except -1:
        """Return whether a message or call of this node is to be queued."""
        cdef Hub switch = self._switch
        cdef size_t waiting = queued(self)
        if size > <Py_ssize_t>self.max_frame_bytes:
            switch._refuse(MessageTooBigError(size, self.max_frame_bytes))
        if waiting < switch.write_high_bytes:
            return True
        if switch._policy == POLICY_ERROR:
            self.sends_refused += 1
            self._refused = True
            switch._refuse(SendQueueFullError(self.conn_id, waiting, switch.write_high_bytes))
        if self._overflow():
            return True
        switch._counts[MESSAGES_SENT] += 1
        if switch._policy == POLICY_CLOSE:
            switch._counts[DROPPED_LINK_CLOSED] += 1
        else:
            switch._counts[DROPPED_SEND_QUEUE_FULL] += 1
            self.sends_dropped += 1
        return False

    cdef bint _overflow(self) except -1:
        """Apply the policy to a full queue; return whether there is room for a frame now."""
        cdef Hub switch = self._switch
        cdef int kind
        self._refused = True
        if switch._policy == POLICY_CLOSE:
            self._give_up(QUEUE_OVERFLOWS, CLOSE_QUEUE_FULL, "send queue full")
        elif switch._policy == POLICY_DROP_OLDEST:
            while queued(self) >= switch.write_high_bytes:
                kind = queue_drop_oldest(&self._data, &switch._pool)
                if kind < 0:
                    return False
                switch._counts[
                    BROADCAST_COPIES_DROPPED if kind == KIND_BROADCAST else DROPPED_SEND_QUEUE_FULL
                ] += 1
                self.sends_dropped += 1
            return True
        return False

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
            queue_append_parts(
                queue, &self._switch._pool, head, head_bytes, <PyObject*>payload, n, 0
            )
        self.frames_sent += 1
        if not self._dirty:
            self._switch.loop.c_mark_dirty(self)
        if self._switch._pool.held > self._switch._held_limit:
            self._switch.c_shed()
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
            # While it is watched for room, trying to write would be a system call a turn.
            blocked = self._blocked and self._registered & WRITE or self._write_all()
        except OSError as exc:
            return self._lose(f"write failed: {exc.strerror or exc}")
        self._watch((0 if self._eof_in else READ) | (WRITE if blocked else 0))
        if self._refused and queued(self) <= self._switch.write_low_bytes:
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
        if self._records is None and self._sock_fd >= 0:
            return self._write_pieces()
        while True:
            if PyBytes_GET_SIZE(self._unsent) != 0:
                sent = self._write(self._unsent)
                self._unsent = self._unsent[sent:]
                if PyBytes_GET_SIZE(self._unsent) != 0:
                    return 1
            if self._records is not None:
                return self._write_records()
            if self._is_empty():
                return 0
            chunk = self._peek()
            sent = self._write(chunk)
            self._consume(sent)
            if sent < PyBytes_GET_SIZE(chunk):
                return 1

    cdef int _write_records(self) except -1:
        """Do so at level auth: a few records at a time."""
        cdef Records records = self._records
        cdef size_t left
        cdef size_t sent
        while True:
            left = records.out_end - records.out_start
            sent = self._send(records.out + records.out_start, left)
            records.out_start += sent
            self._switch._pool.held -= sent
            self._blocked = records.out_start < records.out_end
            if self._blocked:
                records.shrink_out()
                return 1
            if self._is_empty():
                records.end_out(&self._switch._spare_out)
                return 0
            self._seal()

    cdef int _seal(self) except -1:
        """Move up to SEAL_BYTES from the queues into records; all before have left."""
        cdef Records records = self._records
        cdef bint is_data = self._data.left != 0
        cdef size_t begun = self._data.left if is_data else self._control.left
        cdef size_t left = min(<size_t>SEAL_BYTES, self._data.bytes + self._control.bytes)
        cdef size_t step
        records.end_out(&self._switch._spare_out)
        records.start_out(
            &self._switch._spare_out, begun, self._data.left_kind if is_data else KIND_CONTROL
        )
        try:
            while left != 0:
                step = min(left, <size_t>MAX_RECORD_BODY_BYTES)
                self._take(step, records.next_body())
                records.seal_next(step)
                self._switch._pool.held += step + RECORD_EXTRA_BYTES
                left -= step
        except MemoryError:  # what was taken is lost, and so is the stream
            self.fail(CLOSE_LOST, "no memory for a record")
            raise
        return 0

    cdef void _take(self, size_t n, uint8_t* to) noexcept:
        """Remove the n bytes that come first, and put them where they belong."""
        cdef size_t begun = min(n, <size_t>self._data.left)
        cdef size_t control = min(n - begun, self._control.bytes)
        queue_copy(&self._data, 0, begun, to)
        queue_copy(&self._control, 0, control, to + begun)
        queue_copy(&self._data, begun, n - begun - control, to + begun + control)
        self._consume(n)

    cdef int _write_pieces(self) except -1:
        """Do so without copying: several pieces of the queues with one system call."""
        cdef size_t total, words
        cdef ssize_t sent
        while True:
            words = PyBytes_GET_SIZE(self._unsent)
            if words == 0 and self._is_empty():
                return 0
            sent = self._write_gathered(&total)
            if sent < 0:
                self._check_errno()
                sent = 0
            self._count_sent(sent)
            if words != 0:
                words = min(words, <size_t>sent)
                self._unsent = self._unsent[words:]
            self._consume(sent - words)
            self._blocked = <size_t>sent < total
            if self._blocked:
                return 1

    cdef ssize_t _write_gathered(self, size_t* total) noexcept:
        """Offer the socket what comes first; return what it took, or -1 and errno."""
        cdef iovec pieces[MAX_PIECES]
        cdef msghdr message
        cdef int i, count
        # What is left of the handshake, the frame that has begun, control frames, data.
        pieces[0].iov_base = PyBytes_AS_STRING(self._unsent)
        pieces[0].iov_len = PyBytes_GET_SIZE(self._unsent)
        count = pieces[0].iov_len != 0
        count += queue_gather(&self._data, 0, self._data.left, pieces + count, MAX_PIECES - count)
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
        total[0] = 0
        for i in range(count):
            total[0] += pieces[i].iov_len
        if count == 1:  # which is cheaper
            return send(self._sock_fd, pieces[0].iov_base, total[0], MSG_DONTWAIT | MSG_NOSIGNAL)
        memset(&message, 0, sizeof(message))
        message.msg_iov = pieces
        message.msg_iovlen = count
        return sendmsg(self._sock_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)

    cdef bint _may_write(self) noexcept:
        """Whether bytes may leave between two flushes: only if that can change nothing else."""
        return (
            self._sock_fd >= 0
            and not self._blocked
            and self._records is None
            and self._started
            and self._failure is None
            and PyBytes_GET_SIZE(self._unsent) == 0
        )

    cdef void c_write_early(self) noexcept:
        cdef size_t total
        cdef ssize_t sent
        if self._is_empty() or not self._may_write():
            return
        sent = self._write_gathered(&total)
        if sent > 0:
            self._count_sent(sent)
            self._consume(sent)
            self._blocked = <size_t>sent < total

    cdef size_t c_write_past(self, const uint8_t* frames, size_t n) noexcept:
        """Write frames past the queues when these are empty; return how many bytes have left.

        Whatever goes wrong is met again, and told, by the flush of what is left.
        """
        cdef ssize_t sent
        if not self._is_empty() or not self._may_write():
            return 0
        sent = send(self._sock_fd, frames, n, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0:
            return 0
        self._blocked = <size_t>sent < n
        self._count_sent(sent)
        return sent

    cdef Py_ssize_t _write(self, bytes data) except -1:
        cdef Py_ssize_t sent
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
        if self._sock_fd >= 0:
            return self._send(<const uint8_t*>PyBytes_AS_STRING(data), n)
        try:
            sent = self._channel.write(data)
        except (BlockingIOError, InterruptedError):
            return 0
        if not 0 <= sent <= n:
            raise ValueError(f"the channel took {sent} of {n} bytes")
        self._count_sent(sent)
        return sent

    cdef Py_ssize_t _send(self, const uint8_t* data, size_t n) except -1:
        cdef ssize_t sent
        if n == 0:
            return 0
        if self._sock_fd < 0:
            return self._write(PyBytes_FromStringAndSize(<const char*>data, n))
        sent = send(self._sock_fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0:
            self._check_errno()
            return 0
        self._count_sent(sent)
        return sent

    cdef int _check_errno(self) except -1:
        """Raise what errno says, unless it is "later"."""
        cdef int error = errno
        if not would_block(error):
            raise OSError(error, strerror(error))
        return 0

    cdef void _count_sent(self, size_t n) noexcept:
        cdef size_t words = min(n, self._uncounted)
        if n != 0:
            self.last_sent_ms = self._switch.loop._now_ms
        self._uncounted -= words
        self.bytes_sent += n - words
        self._switch._counts[BYTES_SENT] += n - words

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
        if self._failure is not None:
            # Its end was interrupted. What can be read, an error say, stays so: end it now.
            return self._switch.loop.c_mark_dirty(self)
        if events & READ and not self._eof_in and self.state != CLOSED:
            self._receive()
        if events & WRITE:
            self._blocked = False
            self._switch.loop.c_mark_dirty(self)
        return 0

    cdef int _receive(self) except -1:
        """Receive once, and into a large frame until the budget of the turn is used up."""
        cdef uint64_t end = self.bytes_received + self._switch.read_budget_bytes
        while (
            self.bytes_received < end
            and self._receive_some(<size_t>(end - self.bytes_received))
            and self._failure is None
            and self.state != CLOSED
        ):
            pass
        return 0

    cdef int _receive_some(self, size_t budget) except -1:
        """Receive once and handle what came; return whether there may be more."""
        cdef Hub switch = self._switch
        cdef size_t kept = 0
        cdef uint8_t* buffer
        cdef ssize_t n
        cdef uint32_t hooks = switch._hooks
        if switch._busy:  # inside a hook; the fd stays ready
            return 0
        buffer = switch._shared_buffer()
        if self._records is not None:
            return self._receive_records(buffer)
        if self._inbox.large != NULL:
            return self._receive_large(buffer, budget)
        kept = self._inbox.tail_bytes
        if kept > switch._buffer_bytes - switch.read_budget_bytes:
            return self._feed(NULL, 0)  # whole frames, which an exception left there
        copy_bytes(buffer, self._inbox.tail, kept)
        budget = min(budget, <size_t>self._portion_kib << 10)
        n = recv(self._sock_fd, buffer + kept, budget, MSG_DONTWAIT)
        if n <= 0:
            return self._receive_nothing(n)
        if self._failure is not None:
            return 0
        self._count_received(n)
        inbox_drop_tail(&self._inbox)
        self._handle_input(buffer, kept + n)
        self._adapt(n, switch._hooks - hooks)
        # Many small frames cost more time than their bytes say: others first. The rest of the
        # budget is for a large one, which costs nothing but its copy.
        return <size_t>n == budget and self._inbox.large != NULL

    cdef void _adapt(self, size_t n, uint32_t hooks) noexcept:
        """Ask for what holds about as many messages as a turn has time for; n bytes held so many.

        It is messages that take time. A relay looks at frames, and copies what it reads. While
        other links bring little, and so wait for an answer, the one that brings much takes less
        at a time: a turn costs it a few microseconds, and each of the others waits for all of it.
        """
        cdef Hub switch = self._switch
        cdef uint32_t most = HOOKS_PER_READ
        cdef size_t fits
        if hooks > HOOKS_IN_COMPANY:
            switch._heavy = <const void*>self
        if switch._heavy != <const void*>self:
            if n < LITTLE_BYTES:
                switch._company = COMPANY_READS
        elif switch._company != 0:
            switch._company -= 1
            most = HOOKS_IN_COMPANY
        if hooks > most:
            fits = n * most // hooks >> 10
            self._portion_kib = <uint8_t>max(fits, <size_t>LEAST_PORTION_KIB)
        elif hooks < most // 2:
            self._portion_kib = <uint8_t>min(2 * self._portion_kib, READ_CHUNK_KIB)

    cdef int _receive_records(self, uint8_t* buffer) except -1:
        """Receive behind the unfinished frame and the unfinished record, and open in place."""
        cdef Hub switch = self._switch
        cdef Records records = self._records
        cdef size_t kept = self._inbox.tail_bytes
        cdef size_t waiting = records.tail_bytes
        cdef uint8_t* start = buffer + RECORD_ROOM_BYTES + kept
        cdef size_t portion = min(switch.read_budget_bytes, <size_t>self._portion_kib << 10)
        cdef uint32_t hooks = switch._hooks
        cdef ssize_t n, received
        if kept > LARGE_FRAME_BYTES + HEAD_BYTES:
            return self._feed(NULL, 0)
        n = received = recv(self._sock_fd, start + waiting, portion, MSG_DONTWAIT)
        if n <= 0:
            return self._receive_nothing(n)
        if self._failure is not None:
            return 0
        self._count_received(n)
        copy_bytes(start, records.tail, waiting)
        switch._busy = True
        try:
            n = records.c_open(start, waiting + n)
        except MemoryError:
            self._lack_memory()
            raise
        finally:
            switch._busy = False
        copy_bytes(start - kept, self._inbox.tail, kept)
        inbox_drop_tail(&self._inbox)
        self._handle_input(start - kept, kept + n)
        self._adapt(received, switch._hooks - hooks)
        return 0

    cdef int _receive_large(self, uint8_t* buffer, size_t budget) except -1:
        """Receive into the large frame, and what goes beyond its room into the shared buffer.

        When it has all its room that is the start of the next frame, and only the start: if that
        one is as large, its bytes are not copied either.
        """
        cdef iovec pieces[2]
        cdef msghdr message
        cdef size_t room, behind
        cdef ssize_t n
        self._grow_large()
        room = bytes_room(self._inbox.large) - self._inbox.large_bytes
        pieces[0].iov_base = bytes_start(self._inbox.large) + self._inbox.large_bytes
        pieces[0].iov_len = min(room, budget)
        pieces[1].iov_base = buffer
        behind = budget - pieces[0].iov_len
        if self._inbox.large_bytes + room == self._inbox.large_need:
            behind = min(behind, <size_t>NEXT_HEAD_BYTES)
        pieces[1].iov_len = behind
        budget = pieces[0].iov_len + behind
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
        self._handle_input(buffer, behind)
        return <size_t>n == budget

    cdef int _grow_large(self) except -1:
        """Make room for at least one more byte of the large frame."""
        try:
            inbox_grow_large(&self._inbox, 1)
        except MemoryError:
            self._lack_memory()
            raise

    cdef int _lack_memory(self) except -1:
        """Give up: bytes of the stream have come and cannot be kept."""
        self.fail(CLOSE_LOST, "no memory for a frame")
        return 0

    cdef int _keep(self, const uint8_t* data, size_t n, bint behind) except -1:
        """Put bytes in front of the tail, or behind it."""
        try:
            if behind:
                inbox_append(&self._inbox, data, n)
            else:
                inbox_prepend(&self._inbox, data, n)
        except MemoryError:
            self._lack_memory()
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
            try:
                chunk = self._records.open(chunk)
            except MemoryError:
                self._lack_memory()
                raise
        self._feed(<const uint8_t*>PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk))

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
        cdef Hub switch = self._switch
        cdef size_t kept = self._inbox.tail_bytes
        cdef uint8_t* buffer
        cdef uint8_t* own = NULL
        if switch._busy:
            self._keep(data, n, True)
            return self._resume_soon()
        try:
            if kept + n <= switch._buffer_bytes:
                buffer = switch._shared_buffer()
            else:
                buffer = own = <uint8_t*>PyMem_Malloc(kept + n)
                if own == NULL:
                    raise MemoryError
        except MemoryError:
            self._lack_memory()
            raise
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
                self._switch.c_parse(self, data, n, &position)
                self._stop_at(data + position, n - position, &position)
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
                self._keep(data + position, n - position, False)
        if self._records is not None and self._records._error != ERROR_NONE:
            if self._failure is None:
                self._protocol_error(str(self._records.error))
        if self._eof_in:
            self._end_input()
        return 0

    cdef int _stop_at(self, const uint8_t* rest, size_t n, size_t* position) except -1:
        """Look at the unfinished rest: it may be too big, or large enough for room of its own."""
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
        cdef bytes payload
        cdef int kind = self._inbox.head[0]
        if self._failure is not None or self.state == CLOSED:
            return 0
        if self._inbox.large_bytes < self._inbox.large_need and n != 0:
            try:
                position[0] += inbox_fill_large(&self._inbox, data, n)
            except MemoryError:
                self._lack_memory()
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
        cdef header_t header
        cdef const uint8_t* start = self._inbox.head + FRAME_HEADER_BYTES
        cdef size_t n = self._inbox.head_bytes - FRAME_HEADER_BYTES
        cdef int code
        if n == 0:  # a header that cannot be decoded was left where it is
            start = <const uint8_t*>PyBytes_AS_STRING(payload)
            n = PyBytes_GET_SIZE(payload)
        code = c_decode_header(start, n, &header)
        if code != ERROR_NONE:
            raise_frame_error(code, c_error_offset(code, n))
        return self._switch.c_on_large(self, kind, &header, payload)

    cdef int _on_other(self, int kind, const uint8_t* body, size_t n) except -1:
        """Handle a frame that is neither message nor call."""
        cdef Hub switch = self._switch
        if kind == KIND_PING or kind == KIND_PONG:
            switch._counts[CONTROL_RECEIVED] += 1
            switch._sink.on_control(self, kind, PyBytes_FromStringAndSize(<const char*>body, n))
        elif kind == KIND_CLOSE:
            switch._counts[CONTROL_RECEIVED] += 1
            self._on_close_frame(body, n)
        elif kind == KIND_BROADCAST:
            switch.c_on_broadcast(self, body, n)
        elif kind >= KIND_EXTENSION:
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
        cdef Hub switch = self._switch
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
            if self._sock_fd >= 0:
                shutdown(self._sock_fd, SHUT_WR)  # if it fails, the neighbour was faster
            else:
                self._shutdown_channel()
        if self._eof_in:
            self._finish(self._close_reason)
        return 0

    cdef int _shutdown_channel(self) except -1:
        try:
            self._channel.shutdown()
        except OSError:
            pass  # the neighbour was faster; its end of stream tells
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

    cdef int _give_up(self, int counter, int code, str text) except -1:
        """Drop and count what waits, now; the link ends in ``flush``. Calls no hook."""
        if self._failure is None:
            self._failure = (code, text)
            self._switch._counts[counter] += 1
        if not self._starts_whole():
            self._eof_out = True  # the rest of a frame is gone: nothing can follow
        self._drop_waiting()
        return self._switch.loop.c_mark_dirty(self)

    cdef size_t _held_bytes(self) noexcept:
        """What waits and counts for the bound of the switch."""
        cdef size_t n = self._data.bytes - self._data.shared + self._control.bytes
        if self._records is not None:
            n += self._records.out_end - self._records.out_start
        return n

    cdef int _drop_waiting(self) except -1:
        cdef Hub switch = self._switch
        switch._counts[DROPPED_LINK_CLOSED] += queue_unsent(&self._data, False)
        switch._counts[BROADCAST_COPIES_DROPPED] += queue_unsent(&self._data, True)
        if self._records is not None:
            switch._counts[DROPPED_LINK_CLOSED] += self._records.unsent(False)
            switch._counts[BROADCAST_COPIES_DROPPED] += self._records.unsent(True)
            switch._pool.held -= self._records.out_end - self._records.out_start
            self._records.end_out(&switch._spare_out)
        queue_clear(&self._data, &switch._pool)
        queue_clear(&self._control, &switch._pool)
        self._unsent = b""
        return 0

    cdef int _fail_now(self) except -1:
        code, text = self._failure
        try:
            self._leave_open()
            if not self._eof_out and code != CLOSE_LOST and self._starts_whole():
                self._say_why(code, text)
        finally:
            self._finish(self._failure)
        return 0

    cdef bint _starts_whole(self) noexcept:
        """Whether no frame has left in part."""
        return (
            PyBytes_GET_SIZE(self._unsent) == 0
            and self._data.left == 0
            and self._control.left == 0
            and (self._records is None or self._records.out_start == self._records.out_end)
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
        cdef Hub switch = self._switch
        self.state = CLOSED
        self._drop_waiting()
        inbox_clear(&self._inbox)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._watch(0)
        if self._sock_fd >= 0:
            self._close_fd()
        else:
            self._channel.close()
        self._channel = self._records = None  # a channel refers back to its target
        switch.c_forget(self)
        try:
            switch._sink.on_closed(self, reason[0], reason[1])
        finally:
            self._handlers = ()
            self._handled = 0
            self.owner = None
        return 0

    cdef int _watch(self, int events) except -1:
        cdef Loop loop
        if self._sock_fd < 0 or events == self._registered:
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
