"""The bytes of a link in C: send queues that know their frames, and the unfinished input.

Facts first:

- A queue is a list of pieces: chunks that frames are copied into, and references to bytes objects.
- The four bytes of a frame's header never straddle two pieces, and a frame that straddles them is
  a header in a chunk with its payload by reference. So the frames of a queue can be counted, and a
  partial write be traced to a frame, without a list of frames.
- Nothing here runs Python code: what is released is bytes objects and raw memory.
- ``pool.held`` is the sum over the queues of the pool of ``bytes - shared``, after each call.
- Chunks are pooled per switch. The pool is NULL when a link outlives its switch in a garbage
  collection; memory then goes back to Python at once.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from netcore._fast.codec cimport (
    ERROR_NONE,
    FRAME_HEADER_BYTES,
    MAX_FRAME_BYTES,
    MAX_HEADER_BYTES,
    c_decode_header,
    header_t,
    load_u32,
)
from netcore._fast.syscalls cimport iovec

cdef extern from "Python.h":
    void decref "Py_DECREF" (PyObject* held) noexcept
    void incref "Py_INCREF" (PyObject* held) noexcept
    PyObject* new_bytes "PyBytes_FromStringAndSize" (const char* data, Py_ssize_t n) except NULL
    char* bytes_start "PyBytes_AS_STRING" (PyObject* held) noexcept
    Py_ssize_t bytes_room "PyBytes_GET_SIZE" (PyObject* held) noexcept
    int resize_bytes "_PyBytes_Resize" (PyObject** held, Py_ssize_t n) except -1

# The same names and values as in netcore/wire.py; tests/meta compares them.
cdef enum:
    KIND_MESSAGE = 0x00
    KIND_CALL = 0x01
    KIND_BROADCAST = 0x02
    KIND_CONTROL = 0x08
    KIND_PING = 0x10
    KIND_PONG = 0x11
    KIND_CLOSE = 0x12
    KIND_EXTENSION = 0x80

cdef enum:
    CHUNK_BYTES = 65536             # a turn of a busy link fills a few; one fits into L2
    SMALL_CHUNK_BYTES = 448         # the first of a queue, for one PING; pymalloc takes up to 512
    POOL_CHUNKS = 64                # kept for reuse, of either size
    BY_REFERENCE_BYTES = 16384      # payloads from here on are not copied into a chunk
    MAX_PIECES = 64                 # handed to one sendmsg
    LARGE_FRAME_BYTES = 32768       # unfinished frames from here on get a bytes object of their own
    FIRST_LARGE_BYTES = 16384       # which starts with this, whatever length the frame claims
    NEXT_HEAD_BYTES = 4096          # received behind a large frame: enough to know the next one
    KEPT_TAIL_BYTES = 512           # room that an idle link keeps for its next unfinished frame
    HEAD_BYTES = 20                 # FRAME_HEADER_BYTES + MAX_HEADER_BYTES


cdef inline void copy_bytes(void* to, const void* data, size_t n) noexcept:
    """Copy n bytes; unlike memcpy from nowhere too, when n is 0."""
    if n != 0:
        memcpy(to, data, n)


# -- pieces and their pool -------------------------------------------------------------------------

cdef struct piece_t:
    piece_t* next
    PyObject* owner                 # the bytes object that data points into; NULL for a chunk
    uint8_t* data
    uint32_t start                  # of what has not left yet
    uint32_t end
    uint32_t room                   # end, for a reference: nothing can be appended to it

cdef struct pool_t:
    piece_t* small
    piece_t* large
    int smalls
    int larges
    size_t held                     # in all queues, but what is shared


cdef inline void pool_clear(pool_t* pool) noexcept:
    """Give all chunks of the pool back."""
    cdef piece_t* piece
    while pool.small != NULL:
        piece = pool.small
        pool.small = piece.next
        PyMem_Free(piece)
    while pool.large != NULL:
        piece = pool.large
        pool.large = piece.next
        PyMem_Free(piece)
    pool.smalls = pool.larges = 0


cdef inline piece_t* chunk_new(pool_t* pool, bint small) noexcept:
    """Return an empty chunk, NULL when there is no memory."""
    cdef uint32_t room = SMALL_CHUNK_BYTES if small else CHUNK_BYTES
    cdef piece_t* piece = pool.small if small else pool.large
    if piece == NULL:
        piece = <piece_t*>PyMem_Malloc(sizeof(piece_t) + room)
        if piece == NULL:
            return NULL
    elif small:
        pool.small = piece.next
        pool.smalls -= 1
    else:
        pool.large = piece.next
        pool.larges -= 1
    piece.next = NULL
    piece.owner = NULL
    piece.data = <uint8_t*>(piece + 1)
    piece.start = piece.end = 0
    piece.room = room
    return piece


cdef inline piece_t* reference_new(PyObject* owner, size_t n) noexcept:
    """Return a piece that is a bytes object of n bytes, NULL when there is no memory."""
    cdef piece_t* piece = <piece_t*>PyMem_Malloc(sizeof(piece_t))
    if piece != NULL:
        incref(owner)
        piece.next = NULL
        piece.owner = owner
        piece.data = <uint8_t*>bytes_start(owner)
        piece.start = 0
        piece.end = piece.room = <uint32_t>n
    return piece


cdef inline void piece_free(pool_t* pool, piece_t* piece) noexcept:
    """Give a piece back."""
    if piece.owner != NULL:
        decref(piece.owner)
        PyMem_Free(piece)
    elif pool == NULL:
        PyMem_Free(piece)
    elif piece.room == CHUNK_BYTES and pool.larges < POOL_CHUNKS:
        piece.next = pool.large
        pool.large = piece
        pool.larges += 1
    elif piece.room == SMALL_CHUNK_BYTES and pool.smalls < POOL_CHUNKS:
        piece.next = pool.small
        pool.small = piece
        pool.smalls += 1
    else:
        PyMem_Free(piece)


# -- queues ----------------------------------------------------------------------------------------

cdef struct queue_t:
    piece_t* head
    piece_t* tail
    size_t bytes                    # in all pieces
    size_t shared                   # of those, not held: other queues have the same objects
    uint32_t left                   # of the first frame when it has begun to leave, else 0
    uint8_t left_kind               # of that frame

cdef struct walk_t:
    piece_t* piece                  # NULL at the end of the queue
    uint32_t at


cdef inline void queue_link(queue_t* queue, piece_t* piece) noexcept:
    """Append a piece."""
    if queue.tail == NULL:
        queue.head = piece
    else:
        queue.tail.next = piece
    queue.tail = piece
    queue.bytes += piece.end - piece.start


cdef inline uint8_t* queue_reserve(queue_t* queue, pool_t* pool, uint32_t n) noexcept:
    """Return n <= CHUNK_BYTES contiguous bytes to fill at the end, NULL when there is no memory."""
    cdef piece_t* piece = queue.tail
    cdef bint small
    if piece == NULL or piece.room - piece.end < n:
        small = n <= SMALL_CHUNK_BYTES and (piece == NULL or piece.owner != NULL)
        piece = chunk_new(pool, small)
        if piece == NULL:
            return NULL
        queue_link(queue, piece)
    piece.end += n
    queue.bytes += n
    pool.held += n
    return piece.data + piece.end - n


cdef inline uint32_t frame_bytes(const uint8_t* frame) noexcept:
    """Return the size of a frame from its header."""
    return FRAME_HEADER_BYTES + (load_u32(frame) & MAX_FRAME_BYTES)


cdef inline uint64_t frames_behind(const uint8_t* frames, size_t n, size_t done) noexcept:
    """Return how many of the frames in n bytes end behind the first ``done`` ones."""
    cdef uint64_t found = 0
    cdef size_t end = 0
    while end < n:
        end += frame_bytes(frames + end)
        found += end > done
    return found


cdef inline int queue_append(
    queue_t* queue, pool_t* pool, const uint8_t* frames, size_t n
) except -1:
    """Append a copy of one frame of any size, or of several in at most CHUNK_BYTES."""
    cdef uint8_t* to
    cdef piece_t* piece
    cdef bytes copy
    if n <= CHUNK_BYTES:
        to = queue_reserve(queue, pool, <uint32_t>n)
        if to == NULL:
            raise MemoryError
        memcpy(to, frames, n)
        return 0
    copy = PyBytes_FromStringAndSize(<const char*>frames, <Py_ssize_t>n)
    piece = reference_new(<PyObject*>copy, n)
    if piece == NULL:
        raise MemoryError
    queue_link(queue, piece)
    pool.held += n
    return 0


cdef inline int queue_append_run(
    queue_t* queue, pool_t* pool, const uint8_t* frames, size_t n
) except -1:
    """Append a copy of frames that lie behind each other, as many to a chunk as fit."""
    cdef size_t end, room
    while n != 0:
        end = n
        room = queue.tail.room - queue.tail.end if queue.tail != NULL else 0
        if n > room:
            end = frame_bytes(frames)
            if end > room:
                room = CHUNK_BYTES
            while end < n and end + frame_bytes(frames + end) <= room:
                end += frame_bytes(frames + end)
        queue_append(queue, pool, frames, end)
        frames += end
        n -= end
    return 0


cdef inline int queue_append_rest(
    queue_t* queue, pool_t* pool, const uint8_t* frames, size_t n, size_t sent
) except -1:
    """Append to an empty queue frames of which the first ``sent`` bytes have left already."""
    cdef size_t at = 0
    cdef size_t end = 0
    while end < sent:
        at = end
        end += frame_bytes(frames + at)
    if end != sent:
        queue_append(queue, pool, frames + sent, end - sent)
        queue.left = <uint32_t>(end - sent)
        queue.left_kind = frames[at]
    return queue_append_run(queue, pool, frames + end, n - end)


cdef inline int queue_append_parts(
    queue_t* queue,
    pool_t* pool,
    const uint8_t* head,
    uint32_t n,
    PyObject* payload,
    size_t size,
    size_t shared,
) except -1:
    """Append one frame: a copy of its head, and its payload, a bytes object, by reference.

    ``shared`` bytes of the payload do not count as held.
    """
    cdef piece_t* piece = reference_new(payload, size)
    cdef uint8_t* to
    if piece == NULL:
        raise MemoryError
    to = queue_reserve(queue, pool, n)
    if to == NULL:
        piece_free(pool, piece)
        raise MemoryError
    memcpy(to, head, n)
    queue_link(queue, piece)
    queue.shared += shared
    pool.held += size - shared
    return 0


cdef inline void queue_clear(queue_t* queue, pool_t* pool) noexcept:
    """Forget everything."""
    cdef piece_t* piece
    if pool != NULL:
        pool.held -= queue.bytes - queue.shared
    queue.shared = 0
    while queue.head != NULL:
        piece = queue.head
        queue.head = piece.next
        piece_free(pool, piece)
    queue.tail = NULL
    queue.bytes = 0
    queue.left = 0


cdef inline void queue_release(queue_t* queue, pool_t* pool, size_t n) noexcept:
    """Count n bytes less: first of those that are shared."""
    cdef size_t shared = min(n, queue.shared)
    queue.bytes -= n
    queue.shared -= shared
    pool.held -= n - shared


cdef inline void queue_advance(queue_t* queue, pool_t* pool, size_t n) noexcept:
    """Remove n bytes, which are there, from the front."""
    cdef piece_t* piece
    cdef size_t there
    queue_release(queue, pool, n)
    while n != 0:
        piece = queue.head
        there = piece.end - piece.start
        if n < there:
            piece.start += <uint32_t>n
            return
        n -= there
        queue.head = piece.next
        if queue.head == NULL:
            queue.tail = NULL
        piece_free(pool, piece)


cdef inline void queue_consume(queue_t* queue, pool_t* pool, size_t n) noexcept:
    """Remove n bytes that have left; afterwards ``left`` is right again."""
    cdef size_t step
    cdef uint32_t at, end
    if n >= queue.bytes:
        queue_clear(queue, pool)
        return
    while n != 0:
        if queue.left == 0:
            # Whole frames of one piece at a time.
            at = queue.head.start
            end = queue.head.end
            if n < end - at:
                end = at + <uint32_t>n
            while at < end:
                step = frame_bytes(queue.head.data + at)
                if step > end - at:
                    break
                at += <uint32_t>step
            step = at - queue.head.start
            if step != 0:
                queue_advance(queue, pool, step)
                n -= step
                continue
            queue.left = frame_bytes(queue.head.data + queue.head.start)
            queue.left_kind = queue.head.data[queue.head.start]
        step = n if n < queue.left else queue.left
        queue_advance(queue, pool, step)
        queue.left -= <uint32_t>step
        n -= step


cdef inline piece_t* queue_cut(queue_t* queue, pool_t* pool) noexcept:
    """Return the last piece of the begun frame, which no other frame shares from now on.

    NULL when there is no memory, or nothing behind that frame.
    """
    cdef piece_t* before = NULL
    cdef piece_t* piece = queue.head
    cdef piece_t* rest
    cdef uint32_t n = queue.left
    if n == queue.bytes:
        return NULL
    while n > piece.end - piece.start:
        n -= piece.end - piece.start
        before = piece
        piece = piece.next
    if n == piece.end - piece.start:
        return piece
    rest = chunk_new(pool, n <= SMALL_CHUNK_BYTES)
    if rest == NULL:
        return NULL
    memcpy(rest.data, piece.data + piece.start, n)
    rest.end = n
    rest.next = piece
    piece.start += n
    if before == NULL:
        queue.head = rest
    else:
        before.next = rest
    return rest


cdef inline int queue_drop_oldest(queue_t* queue, pool_t* pool) noexcept:
    """Drop the oldest frame that has not begun to leave; return its kind.

    -1 when there is none, or it is the CLOSE with which the link ends.
    """
    cdef piece_t* before = NULL
    cdef piece_t* piece = queue.head
    cdef int kind
    cdef uint32_t n, there
    if queue.left != 0:
        before = queue_cut(queue, pool)
        piece = before.next if before != NULL else NULL
    if piece == NULL:
        return -1
    kind = piece.data[piece.start]
    if kind == KIND_CLOSE:
        return -1
    n = frame_bytes(piece.data + piece.start)
    if before == NULL:
        queue_advance(queue, pool, n)
        return kind
    queue_release(queue, pool, n)
    while n != 0:
        there = piece.end - piece.start
        if n < there:
            piece.start += n
            break
        n -= there
        before.next = piece.next
        if piece.next == NULL:
            queue.tail = before
        piece_free(pool, piece)
        piece = before.next
    return kind


cdef inline void walk_start(walk_t* walk, const queue_t* queue) noexcept:
    """Go to the first byte of the queue."""
    walk.piece = queue.head
    walk.at = queue.head.start if queue.head != NULL else 0


cdef inline void walk_over(walk_t* walk, size_t n) noexcept:
    """Step over n bytes."""
    cdef size_t there
    while walk.piece != NULL:
        there = walk.piece.end - walk.at
        if n < there:
            walk.at += <uint32_t>n
            return
        n -= there
        walk.piece = walk.piece.next
        walk.at = walk.piece.start if walk.piece != NULL else 0


cdef inline size_t queue_whole(const queue_t* queue, size_t size, size_t limit) noexcept:
    """Return how many bytes of frames follow the begun one until ``size`` reaches ``limit``."""
    cdef walk_t walk
    cdef size_t taken = 0
    cdef uint32_t step
    if size + queue.bytes - queue.left <= limit:
        return queue.bytes - queue.left
    walk_start(&walk, queue)
    walk_over(&walk, queue.left)
    while walk.piece != NULL and size + taken < limit:
        step = frame_bytes(walk.piece.data + walk.at)
        walk_over(&walk, step)
        taken += step
    return taken


cdef inline bint is_counted(uint8_t kind, bint broadcasts) noexcept:
    """Whether a data frame is a broadcast, or else a message or call."""
    return kind == KIND_BROADCAST if broadcasts else kind <= KIND_CALL


cdef inline uint64_t queue_unsent(const queue_t* queue, bint broadcasts) noexcept:
    """Return how many broadcasts, or else messages and calls, have not left whole."""
    cdef walk_t walk
    cdef uint64_t found = 0
    cdef const uint8_t* frame
    walk_start(&walk, queue)
    if queue.left != 0:
        found = is_counted(queue.left_kind, broadcasts)
        walk_over(&walk, queue.left)
    while walk.piece != NULL:
        frame = walk.piece.data + walk.at
        found += is_counted(frame[0], broadcasts)
        walk_over(&walk, frame_bytes(frame))
    return found


cdef inline int queue_gather(
    const queue_t* queue, size_t skip, size_t n, iovec* out, int room
) noexcept:
    """Describe n bytes behind the first ``skip`` ones; return how many entries were written."""
    cdef walk_t walk
    cdef int count = 0
    cdef size_t step
    walk_start(&walk, queue)
    walk_over(&walk, skip)
    while n != 0 and count < room and walk.piece != NULL:
        step = walk.piece.end - walk.at
        if step > n:
            step = n
        out[count].iov_base = walk.piece.data + walk.at
        out[count].iov_len = step
        count += 1
        n -= step
        walk_over(&walk, step)
    return count


cdef inline void queue_copy(const queue_t* queue, size_t skip, size_t n, uint8_t* to) noexcept:
    """Copy n bytes behind the first ``skip`` ones."""
    cdef iovec piece
    while n != 0 and queue_gather(queue, skip, n, &piece, 1) == 1:
        memcpy(to, piece.iov_base, piece.iov_len)
        to += piece.iov_len
        skip += piece.iov_len
        n -= piece.iov_len


# -- unfinished input ------------------------------------------------------------------------------

# What of the stream waits between two receives. An unfinished frame is in ``tail``, or, when it is
# long, in ``head`` (its header, and the message header of a routed one) and ``large``, a bytes
# object nobody else has yet, which grows with what arrives and becomes the payload: no claimed
# length alone makes room, but a large frame that did arrive vouches for the size of the next one.
# ``tail`` then holds what came behind it while the buffer of the switch was in use.
cdef struct inbox_t:
    uint8_t* tail
    size_t tail_bytes
    size_t tail_room
    PyObject* large                 # NULL: none
    uint32_t large_bytes            # of it, that have arrived
    uint32_t large_need             # its size in the end; afterwards that of the last one
    uint32_t head_bytes
    uint8_t head[HEAD_BYTES]


cdef inline void inbox_clear(inbox_t* inbox) noexcept:
    """Forget everything."""
    PyMem_Free(inbox.tail)
    inbox.tail = NULL
    inbox.tail_bytes = inbox.tail_room = 0
    if inbox.large != NULL:
        decref(inbox.large)
        inbox.large = NULL


cdef inline int inbox_reserve(inbox_t* inbox, size_t n) except -1:
    """Make room for n more bytes in the tail."""
    cdef size_t room = inbox.tail_bytes + n
    cdef void* tail
    if room > inbox.tail_room:
        tail = PyMem_Realloc(inbox.tail, room)
        if tail == NULL:
            raise MemoryError
        inbox.tail = <uint8_t*>tail
        inbox.tail_room = room
    return 0


cdef inline int inbox_append(inbox_t* inbox, const uint8_t* data, size_t n) except -1:
    """Put bytes behind the tail."""
    inbox_reserve(inbox, n)
    copy_bytes(inbox.tail + inbox.tail_bytes, data, n)
    inbox.tail_bytes += n
    return 0


cdef inline int inbox_prepend(inbox_t* inbox, const uint8_t* data, size_t n) except -1:
    """Put bytes in front of the tail, which is usually empty."""
    inbox_reserve(inbox, n)
    if inbox.tail_bytes != 0:
        memmove(inbox.tail + n, inbox.tail, inbox.tail_bytes)
    copy_bytes(inbox.tail, data, n)
    inbox.tail_bytes += n
    return 0


cdef inline void inbox_drop_tail(inbox_t* inbox) noexcept:
    """Forget the tail, whose bytes are elsewhere now."""
    inbox.tail_bytes = 0
    if inbox.tail_room > KEPT_TAIL_BYTES:
        PyMem_Free(inbox.tail)
        inbox.tail = NULL
        inbox.tail_room = 0


cdef inline int inbox_start_large(
    inbox_t* inbox, const uint8_t* data, uint32_t n, uint32_t total
) except -1:
    """Begin a frame of ``total`` bytes with its first n >= HEAD_BYTES."""
    cdef header_t header
    cdef uint32_t head = FRAME_HEADER_BYTES
    cdef uint32_t need
    cdef uint32_t room = max(<uint32_t>FIRST_LARGE_BYTES, inbox.large_need)
    if data[0] <= KIND_CALL:
        if c_decode_header(data + head, MAX_HEADER_BYTES, &header) == ERROR_NONE:
            head += header.size
    need = total - head
    n -= head
    inbox.large = new_bytes(NULL, min(need, max(room, 2 * n)))
    memcpy(inbox.head, data, head)
    memcpy(bytes_start(inbox.large), data + head, n)
    inbox.head_bytes = head
    inbox.large_bytes = n
    inbox.large_need = need
    return 0


cdef inline int inbox_grow_large(inbox_t* inbox, size_t n) except -1:
    """Make room for n more bytes of the large frame. When that fails the frame is lost."""
    cdef size_t room = <size_t>bytes_room(inbox.large)
    cdef size_t needed = inbox.large_bytes + n
    if needed > room:
        room = min(max(needed, 2 * room), <size_t>inbox.large_need)
        resize_bytes(&inbox.large, <Py_ssize_t>room)
    return 0


cdef inline size_t inbox_fill_large(inbox_t* inbox, const uint8_t* data, size_t n) except? 0:
    """Append to the large frame what of n > 0 bytes belongs to it; return how many those were."""
    cdef size_t step = min(n, <size_t>(inbox.large_need - inbox.large_bytes))
    inbox_grow_large(inbox, step)
    memcpy(bytes_start(inbox.large) + inbox.large_bytes, data, step)
    inbox.large_bytes += <uint32_t>step
    return step
