"""Timers of a loop, as other kernels see them."""

cimport cython
from libc.stdint cimport uint64_t


cdef class TimerQueue


@cython.final
cdef class Timer:
    cdef long long _when_ms
    cdef uint64_t _number           # of creation: decides between equal times
    cdef object _function           # None when not active
    cdef tuple _args
    cdef TimerQueue _queue
    cdef bint _in_heap


@cython.final
cdef class TimerQueue:
    cdef Py_ssize_t active          # number of active timers
    cdef object due                 # deque of those due and not served yet; cancelled ones too
    cdef list _heap                 # a list, so that the garbage collector sees what it holds
    cdef Py_ssize_t _cancelled      # in the heap
    cdef uint64_t _number

    cdef Timer push(self, long long when_ms, object function, tuple args)
    cdef Timer first(self)          # the first active timer outside due, or None
    cdef Py_ssize_t collect(self, long long now_ms) except -1
    cdef int forget_cancelled(self) except -1
    cdef int clear(self) except -1
