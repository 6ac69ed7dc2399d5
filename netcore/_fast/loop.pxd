"""One thread's event loop, as other kernels see it."""

from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t

from netcore._fast.syscalls cimport epoll_event
from netcore._fast.timers cimport Timer, TimerQueue

# As Loop.READ and Loop.WRITE.
cdef enum:
    READ = 1
    WRITE = 2

cdef enum:
    BATCH = 256             # events fetched by one epoll_wait

cdef struct slot_t:
    PyObject* source        # borrowed from Loop._sources, which holds it as long as this is set
    uint32_t generation     # one more with each registration of this fd
    int events              # READ | WRITE; 0: not in the poller


cdef class Loop


cdef class Source:
    cdef public int fd      # set and reset by the loop
    cdef int _fd            # the same, out of reach of Python
    cdef bint _dirty
    cdef Loop _loop         # where it is registered, None when it is not

    # What the loop calls. By default they call the methods of the same name without "c_".
    cdef int c_on_ready(self, int events) except -1
    cdef int c_flush(self) except -1
    # Between two hooks of a long turn: write without calling anybody; flush tells what comes of it.
    cdef void c_write_early(self) noexcept


cdef class Loop:
    cdef long long _now_ms
    cdef long long _early_ns        # when in this turn sources are next asked to write early
    cdef bint _in_turn
    cdef bint _leaving
    cdef bint _closed
    cdef bint _woken                # a byte of ours is in the pair
    cdef int _epoll                 # -1 with a selector of the caller's
    cdef int _timer_fd              # wakes a wait without end; -1 until there is need for it
    cdef long long _armed_ms        # when it does; -1: it does not
    cdef int _wake_fd               # the writing end; -1 when closed
    cdef int _wake_in_fd
    cdef object _selector
    cdef object _wake_in
    cdef object _wake_out
    cdef object _waker              # in simulated time, instead of all descriptors; else None
    cdef object _clock              # None: CLOCK_MONOTONIC
    cdef object _on_error
    cdef long long _busy_poll_us
    cdef slot_t* _slots             # by fd
    cdef size_t _n_slots
    cdef list _sources              # by fd: Source or None; keeps alive what _slots points to
    cdef Py_ssize_t _n_sources
    cdef list _dirty
    cdef object _posts
    # As in HookWatch, the pure twin of this part.
    cdef object _watched            # the hook being timed, None between blocks
    cdef PyObject* _last_hook       # which hook _block is about; compared, never used
    cdef int _block
    cdef int _block_left
    cdef int _hook_clock            # which of the system's clocks
    cdef long long _hook_since_ns
    cdef long long _slow_hook_ns    # 0: nothing is timed
    cdef object _on_slow
    cdef long long _max_posts
    cdef long long _posts_refused
    cdef long long _waits_failed
    cdef int _wait_failures         # in a row
    cdef TimerQueue _timers
    cdef int _n_ready               # of _ready, in this turn
    cdef epoll_event _ready[BATCH]

    # For the thread of the loop. mark_dirty is cheap when the source is dirty already.
    cdef int c_mark_dirty(self, Source source) except -1
    cdef Timer c_call_at(self, long long when_ms, object fn, tuple args)
    cdef int c_update_now(self) except -1
    # To be called now and then in what may take long.
    cdef void c_write_early(self) noexcept
    # Time user code; enter_hook below is the quick way to the first.
    cdef int c_begin_hook(self, object hook) except -1
    cdef int c_leave_hook(self) except -1
    # For any thread that holds the GIL.
    cdef void c_wake(self) noexcept

    cdef long long _clock_ms(self) except? -1
    cdef long long _hook_clock_ns(self) except? -1
    cdef bint _end_hooks(self, long long now_ns) except -1
    cdef int _check_open(self) except -1
    cdef int _check_real(self) except -1
    cdef int _control(self, int fd, int old, int new) except -1
    cdef int _control_selector(self, int fd, int old, int new) except -1
    cdef int _grow(self, int fd) except -1
    cdef int _drain(self, long long timeout_ms) except -1
    cdef long long _next_deadline(self) except -2
    cdef int _run_turn(self, long long timeout_ms) except -1
    cdef int _turn(self, long long timeout_ms) except -1
    cdef int _on_wait_failed(self, error, long long timeout_ms) except -1
    cdef int _sleep(self, int timeout_ms) noexcept nogil
    cdef list _wait(self, long long timeout_ms)
    cdef bint _arm(self) noexcept
    cdef bint _open_timer(self) noexcept
    cdef int _wait_epoll(self, int timeout_ms) except -1
    cdef list _select(self, long long timeout_ms)
    cdef list _wait_selector(self, long long timeout_ms)
    cdef int _serve_ready(self, list ready) except -1
    cdef int _serve(self, uint32_t fd, uint32_t generation, int mask) except -1
    cdef int _serve_timers(self) except -1
    cdef int _serve_posts(self, Py_ssize_t count) except -1
    cdef int _call(self, str where, object fn, tuple args) except -1
    cdef int _flush_dirty(self) except -1
    cdef int _flush_one(self, Source source) except -1


cdef inline int enter_hook(Loop loop, object hook) except -1:
    """Say that a hook is about to be called."""
    if loop._block_left != 0 and hook is loop._watched:
        loop._block_left -= 1
        return 0
    return 0 if loop._slow_hook_ns == 0 else loop.c_begin_hook(hook)


cdef inline int leave_hook(Loop loop) except -1:
    """Say that no hook is running any more."""
    return 0 if loop._watched is None else loop.c_leave_hook()
