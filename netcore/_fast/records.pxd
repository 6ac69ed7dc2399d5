"""The layer between socket and frames at level *auth*, as other kernels see it."""

cimport cython
from libc.stdint cimport uint8_t, uint64_t

# The same names and values as in netcore/wire.py; tests/meta compares them.
cdef enum:
    FIRST_RESERVED_SERVICE = 240
    RECORD_LENGTH_BYTES = 3
    RECORD_TAG_BYTES = 16
    MAX_RECORD_BODY_BYTES = 32768

cdef enum:
    HASH_BLOCK_BYTES = 64       # of SHA-256
    BODY_ROOM_BYTES = 72        # in front of a body while its tag is made: a padded key, a sequence
    RECORD_ROOM_BYTES = 69      # BODY_ROOM_BYTES - RECORD_LENGTH_BYTES: in front of a record
    RECORD_EXTRA_BYTES = 19     # RECORD_LENGTH_BYTES + RECORD_TAG_BYTES
    MAX_RECORD_BYTES = 32787    # MAX_RECORD_BODY_BYTES + RECORD_EXTRA_BYTES
    SEAL_BYTES = 131072         # 4 * MAX_RECORD_BODY_BYTES: sealed at most before it is written
    SEALED_ROOM_BYTES = 131217  # RECORD_ROOM_BYTES + 4 * MAX_RECORD_BYTES


# A key as HMAC uses it.
cdef struct pads_t:
    uint8_t inner[HASH_BLOCK_BYTES]
    uint8_t outer[HASH_BLOCK_BYTES]


@cython.final
cdef class Records:
    cdef pads_t _seal_pads
    cdef pads_t _open_pads
    cdef uint64_t _sealed               # records
    cdef uint64_t _opened
    cdef int _error                     # ERROR_* of what came
    cdef Py_ssize_t _error_offset

    cdef uint8_t* tail                  # the start of an unfinished record
    cdef size_t tail_bytes

    cdef uint8_t* out                   # sealed records, NULL when all of them have left
    cdef size_t out_room
    cdef size_t out_start               # of what has not left yet
    cdef size_t out_end
    cdef size_t out_begun               # bytes of frames in it that end a frame begun before
    cdef uint8_t out_begun_kind         # of that frame; KIND_CONTROL for all of the control queue

    cdef object c_tag(self, const pads_t* pads, uint64_t sequence, uint8_t* body, size_t n)
    cdef int c_seal(self, uint8_t* body, size_t n) except -1
    cdef Py_ssize_t c_open(self, uint8_t* data, size_t n) except -1
    cdef bint _is_genuine(self, uint8_t* body, size_t n) except -1
    cdef int _keep_tail(self, const uint8_t* rest, size_t n) except -1

    cdef int start_out(self, uint8_t** spare, size_t begun, uint8_t kind) except -1
    cdef uint8_t* next_body(self) noexcept
    cdef int seal_next(self, size_t n) except -1
    cdef void shrink_out(self) noexcept
    cdef void end_out(self, uint8_t** spare) noexcept
    cdef uint8_t* _byte_of(self, size_t at) noexcept
    cdef uint64_t unsent(self, bint broadcasts) noexcept
