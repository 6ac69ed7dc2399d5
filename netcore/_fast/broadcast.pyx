"""Broadcasts: one message to every node that offers a service, copied from link to link."""

# Facts that this file relies on, besides those of the pure twin:
# - While copies are queued no Python code runs, so the links stay as they are, and the body stays
#   where it was received.
# - A window has a place in an array; buckets and lists name places, so the array may move.

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from netcore._fast.buffer cimport (
    BY_REFERENCE_BYTES,
    KIND_BROADCAST,
    queue_append_parts,
    queue_reserve,
)
from netcore._fast.codec cimport (
    ERROR_BAD_BODY,
    ERROR_NONE,
    ERROR_TRUNCATED,
    FRAME_HEADER_BYTES,
    HEADER_BYTES,
    MAX_HEADER_BYTES,
    ROUTE_SERVICE,
    ROUTE_SERVICES,
    c_decode_header,
    c_error_offset,
    header_t,
    load_u32,
    load_u64,
    new_message,
    raise_frame_error,
    store_u32,
    store_u64,
)
from netcore._fast.connection cimport (
    BROADCAST_COPIES,
    BROADCAST_COPIES_DROPPED,
    BROADCAST_ORIGINS_FORGOTTEN,
    BROADCASTS_DUPLICATE,
    BROADCASTS_RECEIVED,
    BROADCASTS_SENT,
    BROADCASTS_STALE,
    OPEN,
    POLICY_CLOSE,
    POLICY_ERROR,
    Connection,
    queued,
)
from netcore._fast.switch cimport HOOKS_BETWEEN, Broadcasts, Switch
from netcore._fast.table cimport NO_NODE

from netcore._fast.codec import encode_header
from netcore.errors import MessageTooBigError, QueueFullError
from netcore.route import check_level

__all__ = ["BroadcastDesk", "DuplicateFilter"]

# The same names and values as in netcore/wire.py; tests/meta compares them.
cdef enum:
    BROADCAST_HEADER_BYTES = 28
    BROADCAST_LEVEL_SHIFT = 24
    BROADCAST_GROUP = 3
    BROADCAST_WINDOW = 1024

cdef enum:
    BROADCAST_HEAD_BYTES = 32   # FRAME_HEADER_BYTES + BROADCAST_HEADER_BYTES
    FIRST_ROOM = 16             # windows
    NEW = 0                     # what a filter says
    DUPLICATE = 1
    STALE = 2

cdef uint32_t NOWHERE = 0xFFFFFFFF      # instead of a place

# What is known of one life of an origin.
cdef struct window_t:
    uint64_t epoch
    uint32_t origin
    uint32_t newest                     # sequence number
    uint32_t chained                    # the next place of the same bucket
    uint32_t before                     # heard of less recently
    uint32_t after                      # more recently
    uint8_t seen[128]                   # a bit for each number, modulo BROADCAST_WINDOW

# One broadcast, as its header says.
cdef struct broadcast_t:
    header_t header
    int level
    uint64_t epoch
    uint32_t sequence


cdef inline bint within(int level, uint32_t one, uint32_t other) noexcept:
    """Whether two nodes share the bytes of their ids that the level asks for."""
    return <uint64_t>(one ^ other) >> (32 - 8 * level) == 0


cdef inline int note(window_t* window, uint32_t sequence) noexcept:
    """Set the bit of a number, and say whether it was set."""
    cdef uint32_t at = sequence & (BROADCAST_WINDOW - 1)
    cdef uint8_t bit = <uint8_t>(1 << (at & 7))
    if window.seen[at >> 3] & bit:
        return DUPLICATE
    window.seen[at >> 3] |= bit
    return NEW


cdef int window_check(window_t* window, uint32_t sequence) noexcept:
    """Move the window up to a number if it is ahead of it; say what is known of the number."""
    cdef uint32_t ahead = sequence - window.newest
    cdef uint32_t step, at
    if ahead == 0 or ahead >= <uint32_t>1 << 31:
        return note(window, sequence) if 0 - ahead < BROADCAST_WINDOW else STALE
    if ahead >= BROADCAST_WINDOW:
        memset(window.seen, 0, sizeof(window.seen))
    else:
        for step in range(1, ahead + 1):
            at = window.newest + step  # goes round
            window.seen[(at & (BROADCAST_WINDOW - 1)) >> 3] &= <uint8_t>~(1 << (at & 7))
    window.newest = sequence
    return note(window, sequence)


@cython.auto_pickle(False)
@cython.final
cdef class DuplicateFilter:
    """Which broadcasts have been seen: a window of sequence numbers for each life of an origin."""

    cdef readonly uint64_t forgotten
    cdef uint32_t _max
    cdef uint32_t _count                # windows
    cdef uint32_t _room                 # for so many
    cdef uint32_t _oldest               # heard of least recently
    cdef uint32_t _newest
    cdef uint32_t _mask                 # buckets - 1
    cdef window_t* _windows
    cdef uint32_t* _buckets             # the first place of each

    def __cinit__(self, max_origins):
        """Make an empty filter."""
        self._max = max_origins
        if self._max == 0:
            raise ValueError("max_origins must be 1 or more, not 0")
        self._oldest = self._newest = NOWHERE

    def __dealloc__(self):
        PyMem_Free(self._windows)
        PyMem_Free(self._buckets)

    def __len__(self):
        return self._count

    def check(self, origin, epoch, sequence):
        """Note that a broadcast came."""
        return self.c_check(origin, epoch, sequence)

    cdef int c_check(self, uint32_t origin, uint64_t epoch, uint32_t sequence) except -1:
        cdef uint32_t place = self._find(origin, epoch)
        cdef window_t* window
        if place != NOWHERE:
            self._unlist(place)
            self._list(place)
            return window_check(&self._windows[place], sequence)
        if self._count == self._max:
            place = self._forget_oldest()
        else:
            if self._count == self._room:
                self._grow()
            place = self._count
            self._count += 1
        window = &self._windows[place]
        memset(window.seen, 0, sizeof(window.seen))
        window.origin = origin
        window.epoch = epoch
        window.newest = sequence
        self._chain(place)
        self._list(place)
        return note(window, sequence)

    cdef uint32_t* _bucket(self, uint32_t origin, uint64_t epoch) noexcept:
        cdef uint64_t hashed = (epoch ^ origin) * <uint64_t>0x9E3779B97F4A7C15
        return &self._buckets[<uint32_t>(hashed >> 32) & self._mask]

    cdef uint32_t _find(self, uint32_t origin, uint64_t epoch) noexcept:
        """Return the place of a window, NOWHERE without one."""
        cdef uint32_t place
        if self._count == 0:
            return NOWHERE
        place = self._bucket(origin, epoch)[0]
        while place != NOWHERE:
            if self._windows[place].origin == origin and self._windows[place].epoch == epoch:
                break
            place = self._windows[place].chained
        return place

    cdef void _chain(self, uint32_t place) noexcept:
        """Put a window into its bucket."""
        cdef window_t* window = &self._windows[place]
        cdef uint32_t* bucket = self._bucket(window.origin, window.epoch)
        window.chained = bucket[0]
        bucket[0] = place

    cdef void _list(self, uint32_t place) noexcept:
        """Append a window to the list of those heard of."""
        self._windows[place].before = self._newest
        self._windows[place].after = NOWHERE
        if self._newest == NOWHERE:
            self._oldest = place
        else:
            self._windows[self._newest].after = place
        self._newest = place

    cdef void _unlist(self, uint32_t place) noexcept:
        """Take a window out of that list."""
        cdef window_t* window = &self._windows[place]
        if window.before == NOWHERE:
            self._oldest = window.after
        else:
            self._windows[window.before].after = window.after
        if window.after == NOWHERE:
            self._newest = window.before
        else:
            self._windows[window.after].before = window.before

    cdef uint32_t _forget_oldest(self) noexcept:
        """Take the window out that was not heard of longest, and return its place."""
        cdef uint32_t place = self._oldest
        cdef window_t* window = &self._windows[place]
        cdef uint32_t* link = self._bucket(window.origin, window.epoch)
        while link[0] != place:
            link = &self._windows[link[0]].chained
        link[0] = window.chained
        self._unlist(place)
        self.forgotten += 1
        return place

    cdef int _grow(self) except -1:
        """Make room for more windows."""
        cdef uint32_t room = min(max(2 * self._room, <uint32_t>FIRST_ROOM), self._max)
        cdef uint32_t buckets = self._mask + 1
        cdef uint32_t place
        cdef void* grown
        while buckets < room:
            buckets *= 2
        grown = PyMem_Realloc(self._windows, room * sizeof(window_t))
        if grown == NULL:
            raise MemoryError
        self._windows = <window_t*>grown
        grown = PyMem_Malloc(buckets * sizeof(uint32_t))
        if grown == NULL:
            raise MemoryError
        PyMem_Free(self._buckets)
        self._buckets = <uint32_t*>grown
        self._mask = buckets - 1
        self._room = room
        memset(self._buckets, 0xFF, buckets * sizeof(uint32_t))
        for place in range(self._count):
            self._chain(place)
        return 0


cdef int decode(const uint8_t* body, size_t n, broadcast_t* out, Py_ssize_t* offset) noexcept:
    """Decode the header of a broadcast; return 0, or an ERROR_* and set where it is."""
    cdef int code = c_decode_header(body, n, &out.header)
    offset[0] = c_error_offset(code, n)
    if code != ERROR_NONE:
        return code
    if not out.header.has_from or out.header.kind != ROUTE_SERVICE:
        return ERROR_BAD_BODY
    offset[0] = HEADER_BYTES
    if out.header.from_node == NO_NODE:
        return ERROR_BAD_BODY
    offset[0] += 4
    out.level = out.header.argument >> BROADCAST_LEVEL_SHIFT
    if out.header.argument & ((1 << BROADCAST_LEVEL_SHIFT) - 1) or out.level > BROADCAST_GROUP:
        return ERROR_BAD_BODY
    offset[0] = n
    if n < BROADCAST_HEADER_BYTES:
        return ERROR_TRUNCATED
    out.epoch = load_u64(body + MAX_HEADER_BYTES)
    out.sequence = load_u32(body + MAX_HEADER_BYTES + 8)
    # From here on as a message shows it.
    out.header.kind = ROUTE_SERVICES
    out.header.argument = out.level
    return ERROR_NONE


@cython.auto_pickle(False)
@cython.final
cdef class BroadcastDesk(Broadcasts):
    """The broadcasts of one node: those it sends, and those that come."""

    cdef uint64_t _epoch
    cdef uint32_t _sequence
    cdef DuplicateFilter _filter
    cdef Switch _switch

    def __cinit__(self, epoch, max_origins):
        """Make a desk without a switch."""
        self._epoch = epoch
        self._filter = DuplicateFilter(max_origins)

    def bind(self, Switch switch not None):
        """Use this switch, and be its desk; once, before anything else."""
        self._switch = switch
        switch._broadcasts = self

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
        cdef Switch switch = self._switch
        cdef bytes data = switch._check_send(payload, ttl)
        cdef bytes head = encode_header(
            ROUTE_SERVICE,
            check_level(level) << BROADCAST_LEVEL_SHIFT,
            ttl,
            from_service,
            to_service,
            stream_id,
            meta,
            switch.node_id,
        )
        cdef Py_ssize_t size = BROADCAST_HEADER_BYTES + PyBytes_GET_SIZE(data)
        cdef uint8_t frame[BROADCAST_HEAD_BYTES]
        cdef broadcast_t cast
        cdef Py_ssize_t offset
        cdef bint is_offered
        memcpy(frame + FRAME_HEADER_BYTES, PyBytes_AS_STRING(head), MAX_HEADER_BYTES)
        store_u64(frame + FRAME_HEADER_BYTES + MAX_HEADER_BYTES, self._epoch)
        store_u32(frame + FRAME_HEADER_BYTES + MAX_HEADER_BYTES + 8, self._sequence)
        decode(frame + FRAME_HEADER_BYTES, BROADCAST_HEADER_BYTES, &cast, &offset)
        if size > switch.max_frame_bytes:
            switch._refuse(MessageTooBigError(size, switch.max_frame_bytes))
        is_offered = switch._behaviors[cast.header.to_service] is not None
        if is_offered and switch._local_bytes >= switch.local_queue_bytes:
            switch._refuse(QueueFullError("local_queue_bytes", switch.local_queue_bytes))
        self._check_room(&cast, size)
        self._sequence += 1
        switch._counts[BROADCASTS_SENT] += 1
        self._flood(
            &cast,
            NO_NODE,
            cast.header.ttl,
            frame,
            <const uint8_t*>PyBytes_AS_STRING(data),
            PyBytes_GET_SIZE(data),
            data,
        )
        if is_offered:
            switch._push_local(
                KIND_BROADCAST, new_message(data, &cast.header, switch.node_id, True)
            )
        return 0

    cdef int c_on_frame(self, Connection conn, const uint8_t* body, size_t n) except -1:
        """Pass a broadcast on and deliver it, unless it was here before."""
        cdef Switch switch = self._switch
        cdef broadcast_t cast
        cdef Py_ssize_t offset
        cdef int code = decode(body, n, &cast, &offset)
        if code != ERROR_NONE:
            raise_frame_error(code, offset)
        if not within(cast.level, cast.header.from_node, switch.node_id):
            raise_frame_error(ERROR_BAD_BODY, HEADER_BYTES + 4)
        if cast.header.from_node == switch.node_id:
            # It went round, or began in a former life of this node.
            switch._counts[BROADCASTS_DUPLICATE] += 1
            return 0
        try:
            code = self._filter.c_check(cast.header.from_node, cast.epoch, cast.sequence)
        except MemoryError:
            code = STALE  # whether it comes again could not be told
        switch._counts[BROADCAST_ORIGINS_FORGOTTEN] = self._filter.forgotten
        if code != NEW:
            switch._counts[BROADCASTS_DUPLICATE if code == DUPLICATE else BROADCASTS_STALE] += 1
            return 0
        switch._counts[BROADCASTS_RECEIVED] += 1
        return self._take_in(conn, &cast, body, n)

    cdef int _take_in(
        self, Connection conn, const broadcast_t* cast, const uint8_t* body, size_t n
    ) except -1:
        """Pass on a broadcast that is new, and deliver it."""
        cdef Switch switch = self._switch
        cdef uint8_t frame[BROADCAST_HEAD_BYTES]
        cdef const uint8_t* data = body + BROADCAST_HEADER_BYTES
        cdef bytes payload = None
        cdef bint is_offered = switch._behaviors[cast.header.to_service] is not None
        cdef uint8_t ttl = cast.header.ttl
        n -= BROADCAST_HEADER_BYTES
        if is_offered or n >= BY_REFERENCE_BYTES:
            payload = PyBytes_FromStringAndSize(<const char*>data, n)
        memcpy(frame + FRAME_HEADER_BYTES, body, BROADCAST_HEADER_BYTES)
        self._flood(
            cast, conn.remote_node_id, ttl - 1 if ttl > 0 else 0, frame, data, n, payload
        )
        if not is_offered:
            return 0
        switch._hooks += 1
        if switch._hooks % HOOKS_BETWEEN == 0:
            switch.loop.c_write_early()
        return switch._deliver(
            KIND_BROADCAST, conn, new_message(payload, &cast.header, conn.remote_node_id, False)
        )

    cdef Connection _next_link(
        self, Py_ssize_t* position, const broadcast_t* cast, uint32_t came_from
    ):
        """Return the next link that a broadcast goes out on, None behind the last."""
        cdef PyObject* found
        cdef Connection conn
        cdef uint32_t origin = cast.header.from_node
        while PyDict_Next(self._switch._connections, position, NULL, &found):
            conn = <Connection>found
            if (
                conn.state == OPEN
                and conn.remote_node_id != origin
                and conn.remote_node_id != came_from
                and within(cast.level, origin, conn.remote_node_id)
            ):
                return conn
        return None

    cdef int _check_room(self, const broadcast_t* cast, Py_ssize_t size) except -1:
        """Raise if there are links and none of them takes a body of this size."""
        cdef bint raises = self._switch._policy == POLICY_ERROR
        cdef Py_ssize_t position = 0
        cdef Connection refusing = None
        cdef Connection conn = self._next_link(&position, cast, NO_NODE)
        while conn is not None:
            if size <= <Py_ssize_t>conn.max_frame_bytes:
                if not raises or queued(conn) < self._switch.write_high_bytes:
                    return 0
                refusing = conn
            elif refusing is None:
                refusing = conn
            conn = self._next_link(&position, cast, NO_NODE)
        if refusing is None:
            return 0
        position = 0
        conn = self._next_link(&position, cast, NO_NODE)
        while conn is not None:  # whichever drains first tells
            conn._refused = conn._refused or size <= <Py_ssize_t>conn.max_frame_bytes
            conn = self._next_link(&position, cast, NO_NODE)
        refusing._takes(size)
        return 0

    cdef int _flood(
        self,
        const broadcast_t* cast,
        uint32_t came_from,
        uint8_t ttl,
        uint8_t* frame,
        const uint8_t* data,
        size_t n,
        bytes payload,
    ) except -1:
        """Queue a copy on each link that takes it.

        ``frame`` has the broadcast's header, behind room for that of the frame; ``payload`` holds
        the same n bytes as ``data``, and is needed for large ones only.
        """
        cdef Switch switch = self._switch
        cdef uint32_t size = BROADCAST_HEADER_BYTES + <uint32_t>n
        cdef size_t shared = self._shared_of(cast, came_from, n)
        cdef Py_ssize_t position = 0
        cdef Connection conn = self._next_link(&position, cast, came_from)
        store_u32(frame, <uint32_t>KIND_BROADCAST << 24 | size)
        frame[FRAME_HEADER_BYTES + 1] = ttl
        while conn is not None:
            switch._counts[BROADCAST_COPIES] += 1
            if ttl == 0 or size > conn.max_frame_bytes:
                switch._counts[BROADCAST_COPIES_DROPPED] += 1
            elif queued(conn) < switch.write_high_bytes:
                self._push(conn, frame, data, n, payload, shared)
            elif came_from != NO_NODE or switch._policy == POLICY_ERROR:
                switch._counts[BROADCAST_COPIES_DROPPED] += 1
                conn.relay_queue_full += 1
            elif conn._overflow():
                self._push(conn, frame, data, n, payload, shared)
            else:
                switch._counts[BROADCAST_COPIES_DROPPED] += 1
                conn.sends_dropped += switch._policy != POLICY_CLOSE
            conn = self._next_link(&position, cast, came_from)
        return 0

    cdef size_t _shared_of(
        self, const broadcast_t* cast, uint32_t came_from, size_t n
    ) except? 0:
        """Return how many of the n bytes of a payload are not held by each of its copies."""
        cdef Py_ssize_t position = 0
        cdef size_t links = 0
        if n < BY_REFERENCE_BYTES:
            return 0
        while self._next_link(&position, cast, came_from) is not None:
            links += 1
        return n - n // links if links != 0 else 0

    cdef int _push(
        self,
        Connection conn,
        const uint8_t* frame,
        const uint8_t* data,
        size_t n,
        bytes payload,
        size_t shared,
    ) except -1:
        """Append a copy to the queue of a link, or count it as dropped for want of memory."""
        cdef Switch switch = self._switch
        try:
            self._append(conn, frame, data, n, payload, shared)
        except MemoryError:  # the others may have room in their chunks
            switch._counts[BROADCAST_COPIES_DROPPED] += 1
        if not conn._dirty:
            switch.loop.c_mark_dirty(conn)
        if switch._pool.held > switch._held_limit:
            switch.c_shed()
        return 0

    cdef int _append(
        self,
        Connection conn,
        const uint8_t* frame,
        const uint8_t* data,
        size_t n,
        bytes payload,
        size_t shared,
    ) except -1:
        cdef Switch switch = self._switch
        cdef uint8_t* to
        if n < BY_REFERENCE_BYTES:
            to = queue_reserve(&conn._data, &switch._pool, BROADCAST_HEAD_BYTES + <uint32_t>n)
            if to == NULL:
                raise MemoryError
            memcpy(to, frame, BROADCAST_HEAD_BYTES)
            memcpy(to + BROADCAST_HEAD_BYTES, data, n)
        else:
            queue_append_parts(
                &conn._data,
                &switch._pool,
                frame,
                BROADCAST_HEAD_BYTES,
                <PyObject*>payload,
                n,
                shared,
            )
        conn.frames_sent += 1
        return 0
