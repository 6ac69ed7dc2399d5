"""The layer between socket and frames at level *auth*: records are sealed and opened in place."""

# Facts that this file relies on, besides those of the pure twin:
# - HMAC(key, text) = H(key ^ opad | H(key ^ ipad | text)), by RFC 2104, where a key of at most one
#   block is filled up with zeros. Two calls of hashlib.sha256 cost less than half of hmac.digest.
# - The inner hash wants ``key ^ ipad | sequence | body`` in one piece. So the 72 bytes in front of
#   a body, whatever they belong to, are overwritten for that time and put back.
# - hashlib gives up the GIL for large bodies. Nobody else may use the memory meanwhile: what is
#   sealed belongs to this object, and who opens holds the buffer of the switch (Hub._busy).

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from netcore._fast.buffer cimport copy_bytes, frame_bytes, is_counted
from netcore._fast.codec cimport (
    ERROR_BAD_BODY,
    ERROR_BAD_TAG,
    ERROR_NONE,
    ERROR_TOO_BIG,
    FRAME_HEADER_BYTES,
    ROUTE_MASK,
    store_u64,
)

from netcore import wire
from netcore.errors import FrameError

__all__ = ["Records"]

cdef extern from "Python.h":
    int PyBUF_READ

cdef enum:
    TO_SERVICE_AT = 7           # where a frame with a message header has it
    DIGEST_BYTES = 32           # of SHA-256

cdef object sha256 = None       # imported by the first link that needs it
cdef object compare_digest = None


cdef int import_hashing() except -1:
    global sha256, compare_digest
    if sha256 is None:
        import hashlib
        import hmac
        compare_digest = hmac.compare_digest
        sha256 = hashlib.sha256
    return 0


cdef int fill_pads(pads_t* pads, object key) except -1:
    cdef bytes data = bytes(memoryview(key))
    cdef int i
    if PyBytes_GET_SIZE(data) > HASH_BLOCK_BYTES:
        data = sha256(data).digest()
    memset(pads, 0, sizeof(pads_t))
    memcpy(pads.inner, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    for i in range(HASH_BLOCK_BYTES):
        pads.outer[i] = pads.inner[i] ^ 0x5C
        pads.inner[i] ^= 0x36
    return 0


@cython.auto_pickle(False)
@cython.final
cdef class Records:
    """Both directions of one link: ``seal`` what goes out, ``open`` what came in."""

    def __cinit__(self, seal_key, open_key):
        """Start both sequences at 0."""
        import_hashing()
        fill_pads(&self._seal_pads, seal_key)
        fill_pads(&self._open_pads, open_key)

    def __dealloc__(self):
        PyMem_Free(self.tail)
        PyMem_Free(self.out)

    # -- a few bytes, with copies ------------------------------------------------------------------

    def seal(self, data):
        """Return ``data`` as records, ready to send. Nothing in, nothing out."""
        cdef bytes frames = bytes(memoryview(data))
        cdef size_t n = PyBytes_GET_SIZE(frames)
        cdef size_t records = (n + MAX_RECORD_BODY_BYTES - 1) // MAX_RECORD_BODY_BYTES
        cdef size_t size = n + records * RECORD_EXTRA_BYTES
        cdef size_t done = 0
        cdef size_t step
        cdef uint8_t* room = <uint8_t*>PyMem_Malloc(RECORD_ROOM_BYTES + size)
        cdef uint8_t* body = room + BODY_ROOM_BYTES
        if room == NULL:
            raise MemoryError
        try:
            while done < n:
                step = min(n - done, <size_t>MAX_RECORD_BODY_BYTES)
                memcpy(body, PyBytes_AS_STRING(frames) + done, step)
                self.c_seal(body, step)
                body += step + RECORD_EXTRA_BYTES
                done += step
            return PyBytes_FromStringAndSize(<char*>room + RECORD_ROOM_BYTES, <Py_ssize_t>size)
        finally:
            PyMem_Free(room)

    def open(self, data):
        """Return what the records completed by ``data`` hold; the start of another one is kept."""
        cdef bytes sealed = bytes(memoryview(data))
        cdef size_t n = PyBytes_GET_SIZE(sealed)
        cdef uint8_t* room = <uint8_t*>PyMem_Malloc(RECORD_ROOM_BYTES + self.tail_bytes + n)
        cdef uint8_t* start = room + RECORD_ROOM_BYTES
        if room == NULL:
            raise MemoryError
        try:
            copy_bytes(start, self.tail, self.tail_bytes)
            copy_bytes(start + self.tail_bytes, PyBytes_AS_STRING(sealed), n)
            n = self.c_open(start, self.tail_bytes + n)
            return PyBytes_FromStringAndSize(<char*>start, <Py_ssize_t>n)
        finally:
            PyMem_Free(room)

    @property
    def error(self):
        """What is wrong with what came, None while nothing is."""
        if self._error == ERROR_NONE:
            return None
        return FrameError(wire.FRAME_ERRORS[self._error - 1], self._error_offset)

    @property
    def buffered(self):
        """Bytes of an unfinished record; never more than one record's worth."""
        return self.tail_bytes

    def __repr__(self):
        return f"<Records sealed={self._sealed} opened={self._opened}>"

    # -- in place ----------------------------------------------------------------------------------

    cdef object c_tag(self, const pads_t* pads, uint64_t sequence, uint8_t* body, size_t n):
        """Return the tag of n bytes that have BODY_ROOM_BYTES in front of them."""
        cdef uint8_t outer[HASH_BLOCK_BYTES + DIGEST_BYTES]
        cdef uint8_t there[BODY_ROOM_BYTES]
        cdef uint8_t* start = body - BODY_ROOM_BYTES
        cdef bytes inner
        memcpy(there, start, BODY_ROOM_BYTES)
        memcpy(start, pads.inner, HASH_BLOCK_BYTES)
        store_u64(start + HASH_BLOCK_BYTES, sequence)
        try:
            inner = sha256(
                PyMemoryView_FromMemory(<char*>start, BODY_ROOM_BYTES + n, PyBUF_READ)
            ).digest()
        finally:
            memcpy(start, there, BODY_ROOM_BYTES)
        memcpy(outer, pads.outer, HASH_BLOCK_BYTES)
        memcpy(outer + HASH_BLOCK_BYTES, PyBytes_AS_STRING(inner), DIGEST_BYTES)
        inner = sha256(PyBytes_FromStringAndSize(<char*>outer, sizeof(outer))).digest()
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(inner), RECORD_TAG_BYTES)

    cdef int c_seal(self, uint8_t* body, size_t n) except -1:
        """Write length and tag around a body of at most MAX_RECORD_BODY_BYTES."""
        cdef bytes tag = self.c_tag(&self._seal_pads, self._sealed, body, n)
        cdef uint8_t* head = body - RECORD_LENGTH_BYTES
        self._sealed += 1
        head[0] = <uint8_t>(n >> 16)
        head[1] = <uint8_t>(n >> 8)
        head[2] = <uint8_t>n
        memcpy(body + n, PyBytes_AS_STRING(tag), RECORD_TAG_BYTES)
        return 0

    cdef Py_ssize_t c_open(self, uint8_t* data, size_t n) except -1:
        """Verify the records in n bytes, ``tail`` included; move their bodies to the front.

        RECORD_ROOM_BYTES in front of ``data`` must be there. Return how many bytes the bodies have.
        """
        cdef size_t at = 0
        cdef size_t opened = 0
        cdef size_t length
        cdef uint8_t* head
        cdef uint8_t* body
        while self._error == ERROR_NONE and n - at >= <size_t>RECORD_LENGTH_BYTES:
            head = data + at
            body = head + RECORD_LENGTH_BYTES
            length = <size_t>head[0] << 16 | <size_t>head[1] << 8 | head[2]
            if length > MAX_RECORD_BODY_BYTES:
                self._error = ERROR_TOO_BIG
            elif length == 0:
                self._error = ERROR_BAD_BODY
            elif n - at < length + RECORD_EXTRA_BYTES:
                break
            elif not self._is_genuine(body, length):
                self._error = ERROR_BAD_TAG
                self._error_offset = <Py_ssize_t>(RECORD_LENGTH_BYTES + length)
            else:
                memmove(data + opened, body, length)
                opened += length
                at += length + RECORD_EXTRA_BYTES
        self._keep_tail(data + at, n - at if self._error == ERROR_NONE else 0)
        return <Py_ssize_t>opened

    cdef bint _is_genuine(self, uint8_t* body, size_t n) except -1:
        cdef bytes tag = PyBytes_FromStringAndSize(<char*>body + n, RECORD_TAG_BYTES)
        if not compare_digest(tag, self.c_tag(&self._open_pads, self._opened, body, n)):
            return False
        self._opened += 1
        return True

    cdef int _keep_tail(self, const uint8_t* rest, size_t n) except -1:
        cdef void* tail = self.tail
        if n > self.tail_bytes:
            tail = PyMem_Realloc(tail, n)
            if tail == NULL:
                raise MemoryError
        elif n == 0:
            PyMem_Free(tail)
            tail = NULL
        self.tail = <uint8_t*>tail
        self.tail_bytes = n
        copy_bytes(tail, rest, n)
        return 0

    # -- what waits to be sent ---------------------------------------------------------------------

    cdef int start_out(self, uint8_t** spare, size_t begun, uint8_t kind) except -1:
        """Begin with SEAL_BYTES of frames, in the spare buffer if there is one.

        The first ``begun`` bytes end a frame of this kind that has begun to leave; KIND_CONTROL
        stands for whatever was in the control queue.
        """
        self.out = spare[0]
        spare[0] = NULL
        if self.out == NULL:
            self.out = <uint8_t*>PyMem_Malloc(SEALED_ROOM_BYTES)
        if self.out == NULL:
            raise MemoryError
        self.out_room = SEALED_ROOM_BYTES
        self.out_start = self.out_end = RECORD_ROOM_BYTES
        self.out_begun = begun
        self.out_begun_kind = kind
        return 0

    cdef uint8_t* next_body(self) noexcept:
        """Return where the next body belongs; there is room for MAX_RECORD_BODY_BYTES."""
        return self.out + self.out_end + RECORD_LENGTH_BYTES

    cdef int seal_next(self, size_t n) except -1:
        """Seal the n bytes that were put there."""
        self.c_seal(self.next_body(), n)
        self.out_end += n + RECORD_EXTRA_BYTES
        return 0

    cdef void shrink_out(self) noexcept:
        """Give back most of a buffer that has little in it: this may take long."""
        cdef void* smaller
        if self.out_end < self.out_room // 2:
            smaller = PyMem_Realloc(self.out, self.out_end)
            if smaller != NULL:
                self.out = <uint8_t*>smaller
                self.out_room = self.out_end

    cdef void end_out(self, uint8_t** spare) noexcept:
        """Forget what was sealed; the buffer becomes the spare one if there is none."""
        if spare[0] == NULL and self.out_room == SEALED_ROOM_BYTES:
            spare[0] = self.out
        else:
            PyMem_Free(self.out)
        self.out = NULL
        self.out_room = self.out_start = self.out_end = 0

    cdef uint8_t* _byte_of(self, size_t at) noexcept:
        """Return where byte ``at`` of the sealed frames is."""
        cdef size_t records = at // MAX_RECORD_BODY_BYTES
        return self.out + BODY_ROOM_BYTES + at + records * RECORD_EXTRA_BYTES

    cdef uint64_t unsent(self, bint broadcasts) noexcept:
        """Return how many broadcasts, or else messages and calls, have not left whole."""
        cdef uint8_t head[TO_SERVICE_AT + 1]
        cdef uint64_t found = 0
        cdef size_t sealed = self.out_end - min(self.out_end, <size_t>RECORD_ROOM_BYTES)
        cdef size_t records = (sealed + MAX_RECORD_BYTES - 1) // MAX_RECORD_BYTES
        cdef size_t n = sealed - records * RECORD_EXTRA_BYTES
        cdef size_t left
        cdef int i
        cdef size_t at = self.out_begun
        if n == 0:
            return 0
        left = (self.out_start - RECORD_ROOM_BYTES) // MAX_RECORD_BYTES * MAX_RECORD_BODY_BYTES
        found += is_counted(self.out_begun_kind, broadcasts) and left < at <= n
        while at + <size_t>TO_SERVICE_AT < n:  # no message is shorter
            for i in range(TO_SERVICE_AT + 1):
                head[i] = self._byte_of(at + i)[0]
            at += frame_bytes(head)
            if left < at <= n and is_counted(head[0], broadcasts):
                # Not one that is control traffic: direct, and for a reserved service.
                found += (
                    (head[FRAME_HEADER_BYTES] & ROUTE_MASK) != 0
                    or head[TO_SERVICE_AT] < FIRST_RESERVED_SERVICE
                )
        return found
