"""The call desk and its answer objects, as other kernels see them."""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from netcore._fast.callvalues cimport CallAnswer, RpcRequest
from netcore._fast.codec cimport header_t
from netcore._fast.loop cimport Loop
from netcore._fast.pending cimport pending_t
from netcore._fast.switch cimport Calls, Switch
from netcore._fast.timers cimport Timer

# Where an answer goes, and as what.
cdef struct caller_t:
    uint64_t call_id
    uint32_t node
    uint8_t from_service    # that was called, and answers
    uint8_t to_service      # that called


@cython.final
cdef class RpcAnswer:
    cdef object __weakref__
    cdef PyObject* _desk            # borrowed; NULL: nothing more can be sent
    cdef PyObject* _next            # open ones of the same desk
    cdef PyObject* _previous
    cdef caller_t _caller
    cdef bint _answered

    cdef int _give(self, const uint8_t* envelope, uint32_t n, bytes payload) except -1


@cython.final
cdef class CallDesk(Calls):
    cdef readonly uint64_t received
    cdef readonly uint64_t sent
    cdef readonly uint64_t failed
    cdef readonly uint64_t malformed
    cdef readonly uint64_t late
    cdef readonly uint64_t refused
    cdef readonly uint64_t busy
    cdef Loop _loop
    cdef object _rng
    cdef object _hooks
    cdef Switch _switch
    cdef object _closed                 # what calls raise, None while they are accepted
    cdef list _behaviors                # (hook, agent) or None
    cdef uint32_t _max_pending
    cdef uint32_t _max_open
    cdef pending_t _pending
    cdef list _on_done                  # by place of _pending
    cdef object _rule                   # of the last call, and what is in it
    cdef int _rule_kind
    cdef uint32_t _rule_argument
    cdef bytes _ids
    cdef Py_ssize_t _ids_at
    cdef Timer _timer
    cdef long long _timer_ms
    cdef PyObject* _open                # the first open answer object, borrowed
    cdef size_t _opened                 # how many there are
    cdef caller_t* _dropped             # whom to tell that their answer was let go
    cdef size_t _n_dropped
    cdef size_t _dropped_room
    cdef bint _drop_posted

    cdef uint64_t _draw_id(self) except? 0
    cdef int _look_at(self, object rule, header_t* header) except -1
    cdef int _enter(self, uint32_t place, const header_t* header, object on_done) except -1
    cdef object _remove(self, uint32_t place)
    cdef int _send_request(
        self,
        header_t* header,
        object from_service,
        object service_id,
        object payload,
        uint64_t call_id,
        long long timeout_ms,
    ) except -1
    cdef int _finish(self, object on_done, CallAnswer answer) except -1
    cdef int _on_raised(self, object hook) except -1
    cdef int _arm(self, long long due_ms) except -1

    cdef int _on_ok(self, const header_t* header, const uint8_t* data, size_t n) except -1
    cdef int _on_error(self, const header_t* header, const uint8_t* data, size_t n) except -1
    cdef uint32_t _awaited(self, const header_t* header, uint64_t call_id) noexcept
    cdef int _on_request(
        self, const header_t* header, bint verified, const uint8_t* data, size_t n
    ) except -1
    cdef int _run(self, tuple target, RpcRequest request, RpcAnswer answer) except -1

    cdef int _send_back(
        self, const caller_t* caller, const uint8_t* envelope, uint32_t n, bytes payload
    ) except -1
    cdef int _refuse(self, const caller_t* caller, int code, object text) except -1
    cdef int _let_go(self, const caller_t* caller) except -1
