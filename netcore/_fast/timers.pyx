"""Timers of a loop: a binary heap in which cancelled timers wait for their turn to be forgotten."""

cimport cython

from collections import deque

__all__ = ["Timer"]

cdef enum:
    COMPACT_FROM = 64           # cancelled timers that are not worth a sweep


@cython.auto_pickle(False)
@cython.final
@cython.freelist(64)
cdef class Timer:
    """A function that a loop will call; made by ``Loop.call_at``."""

    @property
    def when_ms(self):
        """Loop time at which it is due."""
        return self._when_ms

    @property
    def active(self):
        """Whether it will still be called: neither cancelled nor called yet."""
        return self._function is not None

    def cancel(self):
        """Forget the function; without effect when the timer is not active."""
        if self._function is None:
            return
        self._function = self._args = None
        self._queue.active -= 1
        if self._in_heap:
            self._queue._cancelled += 1
            self._queue.forget_cancelled()


# Not heapq: comparing through Python costs more than all the rest, and would make timers orderable
# for users.

cdef inline bint is_before(Timer a, Timer b) noexcept:
    if a._when_ms != b._when_ms:
        return a._when_ms < b._when_ms
    return a._number < b._number


cdef int heap_push(list heap, Timer timer) except -1:
    cdef Py_ssize_t parent
    cdef Py_ssize_t at = len(heap)
    heap.append(timer)
    while at:
        parent = (at - 1) >> 1
        if not is_before(timer, <Timer>heap[parent]):
            break
        heap[at] = heap[parent]
        at = parent
    heap[at] = timer
    return 0


cdef Timer heap_pop(list heap):
    """Remove and return the earliest timer of a heap that has one."""
    cdef Timer last = heap.pop()
    cdef Timer first
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t child = 1
    cdef Py_ssize_t n = len(heap)
    if not n:
        return last
    first = <Timer>heap[0]
    while child < n:
        if child + 1 < n and is_before(<Timer>heap[child + 1], <Timer>heap[child]):
            child += 1
        if not is_before(<Timer>heap[child], last):
            break
        heap[at] = heap[child]
        at = child
        child = 2 * at + 1
    heap[at] = last
    return first


@cython.auto_pickle(False)
@cython.final
cdef class TimerQueue:
    """Timers by time, those of the same time by creation."""

    def __cinit__(self):
        self.due = deque()
        self._heap = []

    cdef Timer push(self, long long when_ms, object function, tuple args):
        cdef Timer timer = Timer.__new__(Timer)
        self._number += 1
        timer._when_ms = when_ms
        timer._number = self._number
        timer._function = function
        timer._args = args
        timer._queue = self
        timer._in_heap = True
        heap_push(self._heap, timer)
        self.active += 1
        return timer

    cdef Timer first(self):
        while self._heap and (<Timer>self._heap[0])._function is None:
            heap_pop(self._heap)
            self._cancelled -= 1
        return <Timer>self._heap[0] if self._heap else None

    cdef Py_ssize_t collect(self, long long now_ms) except -1:
        """Append to due what became due, and return the length of due.

        A timer that is made while the due ones run is thereby left for the next turn, however
        long ago its time was.
        """
        cdef Timer timer = self.first()
        while timer is not None and timer._when_ms <= now_ms:
            heap_pop(self._heap)
            timer._in_heap = False
            self.due.append(timer)
            timer = self.first()
        return len(self.due)

    cdef int forget_cancelled(self) except -1:
        """Sweep when most of the heap is cancelled."""
        cdef Timer timer
        cdef list heap = self._heap
        if self._cancelled > COMPACT_FROM and 2 * self._cancelled > len(heap):
            self._heap = []
            self._cancelled = 0
            for timer in heap:
                if timer._function is not None:
                    heap_push(self._heap, timer)
        return 0

    cdef int clear(self) except -1:
        """Cancel every timer."""
        cdef Timer timer
        for timer in self._heap + list(self.due):
            timer._function = timer._args = None
        self._heap = []
        self.due.clear()
        self.active = self._cancelled = 0
        return 0
