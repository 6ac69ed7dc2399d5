"""One thread's event loop: sources with a file descriptor, timers, posted functions."""

# Facts that this file relies on, besides those of the pure twin:
# - an fd is deregistered when its *last* reference closes, so a source is removed before its fd is
#   closed;
# - events already fetched by epoll_wait still arrive for a source removed by an earlier event of
#   the same batch, so `data` carries (generation << 32 | fd) and a stale generation is skipped;
#   a pointer in `data` would dangle;
# - epoll_wait rounds its timeout up, never down: a timer is late rather than early;
# - epoll_wait is not restarted after a signal, and a signal that comes before it sleeps does not
#   end the sleep: handlers run before and after; `signal.set_wakeup_fd(loop.wakeup_fd)` closes the
#   gap in between.

cimport cython
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.number cimport PyNumber_Index
from cpython.ref cimport PyObject
from libc.errno cimport EEXIST, EINTR, EPIPE, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from netcore._fast.syscalls cimport (
    CLOCK_MONOTONIC,
    CLOCK_MONOTONIC_COARSE,
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLLIN,
    EPOLLOUT,
    F_GETFD,
    TFD_CLOEXEC,
    TFD_NONBLOCK,
    TFD_TIMER_ABSTIME,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    clock_gettime,
    close,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    epoll_wait,
    fcntl,
    itimerspec,
    read,
    recv,
    send,
    ssize_t,
    timerfd_create,
    timerfd_settime,
    timespec,
    usleep,
)
from netcore._fast.timers cimport Timer, TimerQueue

import os
from collections import deque

from netcore.errors import LocalError, QueueFullError
from netcore.logs import logger_of

__all__ = ["Loop", "Source", "Timer"]

globals()["Timer"] = Timer  # a name that is cimported is not seen from Python

cdef enum:
    FLUSH_PASSES = 64           # two sources that mark each other must not hold the turn for ever
    LONGEST_WAIT_MS = 86400000  # selectors overflow beyond some weeks
    FIRST_SLOTS = 64
    EARLY_NS = 50000            # a few times what a write and the wake-up of its reader cost
    LONGEST_BLOCK = 16          # calls timed together; also: the limit / 16 is a slow block
    COARSE_MS = 20              # limits from here on need no better clock than one of 1 to 10 ms
    EARLY_SOURCES = 64          # more are not looked through several times a turn
    WAIT_RETRY_MS = 10
    MAX_WAIT_FAILURES = 100     # in a row

cdef uint64_t WAKE = 0xFFFFFFFFFFFFFFFF  # `data` of the wake-up pair; no fd is that large
cdef uint64_t TIMER = 0xFFFFFFFFFFFFFFFE  # and of the timer's
cdef object logger = logger_of("netcore.loop")


def _log_error(where, error):
    logger.error("exception in %s", where, exc_info=error)


cdef long long to_int64(object value) except? -1:
    """Return an int, or what can stand for one, clamped to +-2**62."""
    cdef long long farthest = <long long>1 << 62
    cdef int overflow = 0
    cdef long long number = PyLong_AsLongLongAndOverflow(PyNumber_Index(value), &overflow)
    if overflow:
        return farthest if overflow > 0 else -farthest
    return max(-farthest, min(number, farthest))


cdef inline long long monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <long long>now.tv_sec * 1000000000 + now.tv_nsec


cdef int checked_events(object events) except -1:
    cdef long long bits = to_int64(events)
    if not 0 <= bits <= (READ | WRITE):
        raise ValueError(f"events must be in 0..3, not {events}")
    return <int>bits


@cython.auto_pickle(False)
cdef class Source:
    """Something with a file descriptor that a loop watches. Subclasses override the two hooks."""

    def __cinit__(self):
        self.fd = self._fd = -1

    def on_ready(self, events):
        """Serve the fd."""

    def flush(self):
        """Write what was queued; called once after each turn in which it was marked dirty."""

    cdef int c_on_ready(self, int events) except -1:
        self.on_ready(events)
        return 0

    cdef int c_flush(self) except -1:
        self.flush()
        return 0

    cdef void c_write_early(self) noexcept:
        pass


@cython.auto_pickle(False)
@cython.final
cdef class _CallbackSource(Source):
    cdef object _function

    def on_ready(self, events):
        self._function(events)

    cdef int c_on_ready(self, int events) except -1:
        self._function(events)
        return 0


@cython.auto_pickle(False)
cdef class Loop:
    """Calls sources when their fds are ready, timers when they are due, posts when they came."""

    READ = 1
    WRITE = 2

    def __cinit__(self):
        self._closed = True  # until __init__ is done
        self._epoll = self._wake_fd = self._wake_in_fd = self._timer_fd = -1
        self._armed_ms = -1

    def __init__(
        self, selector=None, *, clock=None, on_error=None, max_posts=65_536, busy_poll_us=0,
        wake=None, slow_hook_ms=0, on_slow=None,
    ):
        """Make a loop."""
        if self._sources is not None:
            raise TypeError("the loop is initialised already")
        self._max_posts = to_int64(max_posts)
        if self._max_posts < 1:
            raise ValueError(f"max_posts must be 1 or more, not {max_posts}")
        if wake is not None and (clock is None or selector is not None):
            raise ValueError("wake is for a loop that has a clock and no selector")
        self._busy_poll_us = 0 if clock is not None else to_int64(busy_poll_us)
        self._clock = clock
        self._on_error = on_error if on_error is not None else _log_error
        self._sources = []
        self._dirty = []
        self._posts = deque()
        self._timers = TimerQueue()
        self.c_update_now()
        self._waker = wake
        if wake is None and on_slow is not None:
            self._slow_hook_ns = to_int64(slow_hook_ms) * 1000000
        self._on_slow = on_slow
        self._block = 1
        # A fifth of what the other costs.
        coarse = self._slow_hook_ns >= COARSE_MS * 1000000
        self._hook_clock = CLOCK_MONOTONIC_COARSE if coarse else CLOCK_MONOTONIC
        if wake is not None:
            self._closed = False
            return
        import socket  # not before the first loop: it costs as much as a third of netcore

        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._wake_in_fd = self._wake_in.fileno()
        self._wake_fd = self._wake_out.fileno()
        self._selector = selector
        if selector is None:
            self._epoll = epoll_create1(EPOLL_CLOEXEC)
            if self._epoll < 0:
                PyErr_SetFromErrno(OSError)
            self._control(self._wake_in_fd, 0, READ)
        else:
            selector.register(self._wake_in, READ, self)
        self._closed = False

    def __dealloc__(self):
        if self._timer_fd >= 0:
            close(self._timer_fd)
        if self._epoll >= 0:
            close(self._epoll)
        PyMem_Free(self._slots)

    # -- time --------------------------------------------------------------------------------------

    @property
    def now_ms(self):
        """The loop's time: of the start of the turn, then of the end of its wait."""
        return self._now_ms

    def update_now(self):
        """Read the clock, so that `now_ms` is not from before a long callback."""
        self.c_update_now()

    def call_at(self, when_ms, fn, *args):
        """Call ``fn(*args)`` in the first turn whose time is not before ``when_ms``."""
        return self.c_call_at(to_int64(when_ms), fn, args)

    def next_deadline_ms(self):
        """Return how long to wait at most before the next turn."""
        cdef long long deadline = -1 if self._sources is None else self._next_deadline()
        return None if deadline < 0 else deadline

    cdef int c_update_now(self) except -1:
        cdef long long now_ns
        if self._clock is not None:
            self._now_ms = self._clock()
            return 0
        now_ns = monotonic_ns()
        self._now_ms = now_ns // 1000000
        self._early_ns = now_ns + EARLY_NS
        return 0

    cdef long long _clock_ms(self) except? -1:
        return self._clock() if self._clock is not None else monotonic_ns() // 1000000

    cdef void c_write_early(self) noexcept:
        """Let out what waits for the end of a turn that takes long.

        Else a message would wait for all that comes behind it in the turn, and who is to answer it
        would wait as well.
        """
        cdef long long now_ns
        cdef Py_ssize_t n = len(self._dirty)
        cdef Py_ssize_t at
        if not 0 < n <= <Py_ssize_t>EARLY_SOURCES or self._clock is not None:
            return
        now_ns = monotonic_ns()
        if now_ns < self._early_ns:
            return
        self._early_ns = now_ns + EARLY_NS
        for at in range(n):
            (<Source>self._dirty[at]).c_write_early()

    cdef Timer c_call_at(self, long long when_ms, object fn, tuple args):
        self._check_open()
        return self._timers.push(when_ms, fn, args)

    cdef long long _next_deadline(self) except -2:
        """Return ms, or -1 for none."""
        cdef Timer timer
        if self._posts or self._dirty or self._timers.due:
            return 0
        timer = self._timers.first()
        return -1 if timer is None else max(0, timer._when_ms - self._clock_ms())

    # -- sources -----------------------------------------------------------------------------------

    def add(self, Source source not None, fd, events):
        """Watch ``fd`` for ``source``."""
        cdef int number
        cdef int bits
        self._check_open()
        self._check_real()
        number = PyNumber_Index(fd)
        if number < 0:
            raise ValueError(f"fd must be 0 or more, not {number}")
        bits = checked_events(events)
        if source._loop is not None:
            raise ValueError(f"the source is registered already, with fd {source.fd}")
        if (
            (<size_t>number < self._n_slots and self._slots[number].source != NULL)
            or number in (self._wake_in_fd, self._wake_fd, self._timer_fd)
        ):
            raise ValueError(f"fd {number} is registered already")
        if fcntl(number, F_GETFD) < 0:  # before memory is set aside because of a large number
            PyErr_SetFromErrno(OSError)
        self._grow(number)
        self._slots[number].generation += 1
        self._control(number, 0, bits)
        self._sources[number] = source
        self._n_sources += 1
        self._slots[number].source = <PyObject*>source
        self._slots[number].events = bits
        source.fd = source._fd = number
        source._loop = self

    def modify(self, Source source not None, events):
        """Wait for other events; an event fetched before and not waited for now is dropped."""
        cdef int bits
        cdef int fd = source._fd
        if source._loop is not self:
            raise ValueError("the source is not registered")
        bits = checked_events(events)
        if bits != self._slots[fd].events:
            self._control(fd, self._slots[fd].events, bits)
            self._slots[fd].events = bits

    def remove(self, Source source not None):
        """Stop watching; to be called before the fd is closed. Without effect when not watched."""
        cdef int fd = source._fd
        cdef int events
        if source._loop is not self:
            return
        events = self._slots[fd].events
        self._slots[fd].source = NULL
        self._slots[fd].events = 0
        source.fd = source._fd = -1
        source._loop = None
        self._sources[fd] = None
        self._n_sources -= 1
        self._control(fd, events, 0)

    def make_source(self, on_ready):
        """Return a source of this backend whose ``on_ready`` calls the function."""
        cdef _CallbackSource source = _CallbackSource.__new__(_CallbackSource)
        source._function = on_ready
        return source

    def mark_dirty(self, Source source not None):
        """Call the source's ``flush`` once, at the end of this turn or the start of the next."""
        self.c_mark_dirty(source)

    cdef int c_mark_dirty(self, Source source) except -1:
        if source._dirty or self._closed:
            return 0
        self._dirty.append(source)
        source._dirty = True
        if not self._in_turn:
            self.c_wake()
        return 0

    cdef int _check_open(self) except -1:
        if self._closed:
            raise LocalError("the loop is closed")
        return 0

    cdef int _check_real(self) except -1:
        if self._waker is not None:
            raise LocalError("a loop in simulated time has no file descriptors")
        return 0

    cdef int _grow(self, int fd) except -1:
        """Make room for the slot of an fd."""
        cdef size_t size = self._n_slots if self._n_slots else FIRST_SLOTS
        cdef slot_t* slots
        if <size_t>fd < self._n_slots:
            return 0
        while size <= <size_t>fd:
            size *= 2
        slots = <slot_t*>PyMem_Realloc(self._slots, size * sizeof(slot_t))
        if slots == NULL:
            raise MemoryError
        memset(slots + self._n_slots, 0, (size - self._n_slots) * sizeof(slot_t))
        self._slots = slots
        self._sources.extend([None] * (size - self._n_slots))
        self._n_slots = size
        return 0

    cdef int _control(self, int fd, int old, int new) except -1:
        """Tell the poller that the interest in an fd changed; an fd closed meanwhile is fine."""
        cdef epoll_event event
        cdef int operation
        if old == new:
            return 0
        if self._selector is not None:
            return self._control_selector(fd, old, new)
        operation = EPOLL_CTL_ADD if not old else EPOLL_CTL_MOD if new else EPOLL_CTL_DEL
        event.events = (EPOLLIN if new & READ else 0) | (EPOLLOUT if new & WRITE else 0)
        if fd == self._wake_in_fd:
            event.data.u64 = WAKE
        else:
            event.data.u64 = <uint64_t>self._slots[fd].generation << 32 | <uint32_t>fd
        if epoll_ctl(self._epoll, operation, fd, &event) == 0 or operation == EPOLL_CTL_DEL:
            return 0
        if operation == EPOLL_CTL_ADD and errno == EEXIST:
            raise ValueError(f"fd {fd} is registered already")
        PyErr_SetFromErrno(OSError)

    cdef int _control_selector(self, int fd, int old, int new) except -1:
        data = (self, fd, self._slots[fd].generation)
        if not new:
            try:
                self._selector.unregister(fd)
            except (KeyError, OSError, ValueError):
                pass  # selectors differ in what they say about an fd that was closed first
        elif old:
            self._selector.modify(fd, new, data)
        else:
            try:
                self._selector.register(fd, new, data)
            except KeyError:  # watched for somebody else
                raise ValueError(f"fd {fd} is registered already") from None
        return 0

    # -- from other threads ------------------------------------------------------------------------

    def post(self, fn, *args):
        """Call ``fn(*args)`` in the next turn; may be called by any thread and signal handler."""
        if self._closed:
            return
        if len(self._posts) >= self._max_posts:
            self._posts_refused += 1
            raise QueueFullError("max_posts", self._max_posts)
        self._posts.append((fn, args))
        self.c_wake()

    def wake(self):
        """End the wait of the running turn, or of the next; for any thread and signal handler."""
        self.c_wake()

    cdef void c_wake(self) noexcept:
        if self._waker is not None:
            if not self._woken and not self._closed:
                self._woken = True
                self._waker()
            return
        if self._woken or self._wake_fd < 0:
            return
        # Whoever finds it set has queued his work before the loop looks at its queues: _drain
        # resets it first.
        self._woken = True
        send(self._wake_fd, b"\0", 1, MSG_DONTWAIT | MSG_NOSIGNAL)

    cdef int _drain(self, long long timeout_ms) except -1:
        cdef char bytes_of_no_interest[4096]
        cdef ssize_t n = recv(self._wake_in_fd, bytes_of_no_interest, 4096, MSG_DONTWAIT)
        cdef int error = errno if n < 0 else EPIPE
        cdef bint failed = n <= 0
        while n == 4096:
            n = recv(self._wake_in_fd, bytes_of_no_interest, 4096, MSG_DONTWAIT)
        self._woken = False
        if failed:
            # It stays readable: without a pause every turn would find it so.
            self._on_wait_failed(OSError(error, os.strerror(error)), timeout_ms)
        return 0

    # -- how long hooks take -----------------------------------------------------------------------

    def enter_hook(self, hook):
        """Say that a hook is about to be called; timed until the next, or `leave_hook`."""
        enter_hook(self, hook)

    def leave_hook(self):
        """Say that no hook is running any more; at the latest the loop does."""
        leave_hook(self)

    cdef int c_begin_hook(self, object hook) except -1:
        cdef long long now_ns = self._hook_clock_ns()
        if self._watched is not None and self._end_hooks(now_ns):
            now_ns = self._hook_clock_ns()
        if <PyObject*>hook != self._last_hook:
            self._last_hook = <PyObject*>hook
            self._block = 1
        self._watched = hook
        self._block_left = self._block - 1
        self._hook_since_ns = now_ns
        return 0

    cdef int c_leave_hook(self) except -1:
        self._end_hooks(self._hook_clock_ns())
        return 0

    cdef bint _end_hooks(self, long long now_ns) except -1:
        """End the block; return whether it had to be told of."""
        cdef object hook = self._watched
        cdef int calls = self._block - self._block_left
        cdef long long took_ns = now_ns - self._hook_since_ns
        self._watched = None
        self._block_left = 0
        if took_ns * LONGEST_BLOCK >= self._slow_hook_ns:
            self._block = 1
        elif calls == self._block and calls < LONGEST_BLOCK:
            self._block *= 2
        if took_ns <= self._slow_hook_ns:
            return False
        self._on_slow(hook, took_ns // 1000000, calls, now_ns // 1000000)
        return True

    cdef long long _hook_clock_ns(self) except? -1:
        cdef timespec now
        if self._clock is not None:
            return <long long>self._clock() * 1000000
        clock_gettime(self._hook_clock, &now)
        return <long long>now.tv_sec * 1000000000 + now.tv_nsec

    # -- the turn ----------------------------------------------------------------------------------

    def run_once(self, timeout_ms):
        """Run one turn: flush, wait, serve fds, timers and posts, flush."""
        cdef long long timeout = -1
        self._check_open()
        if self._in_turn:
            raise RuntimeError("run_once was called from inside a turn of the same loop")
        if timeout_ms is not None:
            timeout = max(0, to_int64(timeout_ms))
        return self._run_turn(timeout)

    def run(self):
        """Run turns until `leave` is called or the loop is closed."""
        self._check_open()
        if self._in_turn:
            raise RuntimeError("run was called from inside a turn of the same loop")
        self._open_timer()  # now, and not at some wait: descriptors are counted
        try:
            while not self._leaving and not self._closed:
                self._run_turn(-1)
        finally:
            self._leaving = False

    def leave(self):
        """Make `run` return after its turn; for any thread and signal handler."""
        self._leaving = True
        self.c_wake()

    cdef int _run_turn(self, long long timeout_ms) except -1:
        self._in_turn = True
        try:
            return self._turn(timeout_ms)
        finally:
            self._in_turn = False
            if self._dirty or self._timers.due:
                self.c_wake()  # whoever waits on fileno() must see that there is work left

    cdef int _turn(self, long long timeout_ms) except -1:
        cdef list ready
        cdef Py_ssize_t posts
        cdef int served
        self.c_update_now()
        self._flush_dirty()
        ready = self._wait(timeout_ms)
        if self._waker is None:  # else there was no wait
            self.c_update_now()
        posts = len(self._posts)
        served = self._serve_ready(ready)
        served += self._serve_timers()
        served += self._serve_posts(posts)
        self._flush_dirty()
        return served

    cdef list _wait(self, long long timeout_ms):
        """Wait; with a selector return what is ready, else None: it is in _ready."""
        cdef long long deadline
        self._n_ready = 0
        if self._closed:  # by a flush
            return None
        if self._waker is not None:
            self._woken = False
            return None
        deadline = self._next_deadline()
        if deadline > 0 and timeout_ms < 0 and self._arm():
            deadline = -1
        if deadline >= 0 and (timeout_ms < 0 or deadline < timeout_ms):
            timeout_ms = deadline
        timeout_ms = min(timeout_ms, LONGEST_WAIT_MS)
        if self._selector is not None:
            return self._wait_selector(timeout_ms)
        self._n_ready = self._wait_epoll(<int>timeout_ms)
        return None

    cdef bint _arm(self) noexcept:
        """Have the first timer end the coming wait; return whether it will.

        A wait with a timeout programs the clock each time, which costs more than the rest of a
        turn; here it is done once, and again when another timer is the first.
        """
        cdef itimerspec when
        cdef long long when_ms = self._timers.first()._when_ms
        if 0 <= self._armed_ms <= when_ms:
            return True
        if not self._open_timer():
            return False
        memset(&when, 0, sizeof(when))
        when.it_value.tv_sec = when_ms // 1000
        when.it_value.tv_nsec = when_ms % 1000 * 1000000
        if timerfd_settime(self._timer_fd, TFD_TIMER_ABSTIME, &when, NULL) < 0:
            return False
        self._armed_ms = when_ms
        return True

    cdef bint _open_timer(self) noexcept:
        """Have a timer descriptor; False without one, for want of descriptors, say."""
        cdef epoll_event event
        if self._timer_fd >= 0:
            return True
        if self._selector is not None or self._clock is not None:
            return False
        self._timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)
        event.events = EPOLLIN
        event.data.u64 = TIMER
        if epoll_ctl(self._epoll, EPOLL_CTL_ADD, self._timer_fd, &event) < 0:
            if self._timer_fd >= 0:
                close(self._timer_fd)
            self._timer_fd = -1
            return False
        return True

    cdef int _wait_epoll(self, int timeout_ms) except -1:
        cdef int i
        cdef int n = 0
        cdef int error = 0
        cdef uint64_t expired
        PyErr_CheckSignals()
        if self._closed:  # by a signal handler
            return 0
        if timeout_ms == 0:
            n = epoll_wait(self._epoll, self._ready, BATCH, 0)
            error = errno
        else:
            with nogil:
                n = self._sleep(timeout_ms)
                error = errno
        if n < 0:
            if error != EINTR:
                self._on_wait_failed(OSError(error, os.strerror(error)), timeout_ms)
                return 0
            PyErr_CheckSignals()
            if self._closed:
                return 0
        self._wait_failures = 0
        for i in range(n):
            if self._ready[i].data.u64 == WAKE:
                self._drain(timeout_ms)
            elif self._ready[i].data.u64 == TIMER:
                read(self._timer_fd, &expired, sizeof(expired))
                self._armed_ms = -1
        return max(n, 0)

    cdef int _on_wait_failed(self, error, long long timeout_ms) except -1:
        """Let a moment pass before the next turn waits again; give up when it goes on so."""
        cdef int pause_ms = WAIT_RETRY_MS
        self._waits_failed += 1
        self._wait_failures += 1
        if self._wait_failures > MAX_WAIT_FAILURES:
            raise error
        self._on_error("wait", error)
        if timeout_ms >= 0:
            pause_ms = <int>min(timeout_ms, pause_ms)
        with nogil:
            usleep(1000 * pause_ms)
        return 0

    cdef int _sleep(self, int timeout_ms) noexcept nogil:
        """Wait for events; at first, if asked to, without giving up the core."""
        cdef long long now, start, end
        cdef int n
        if self._busy_poll_us == 0:
            return epoll_wait(self._epoll, self._ready, BATCH, timeout_ms)
        start = monotonic_ns() // 1000
        end = start + self._busy_poll_us
        if timeout_ms >= 0:
            end = min(end, start + <long long>timeout_ms * 1000)
        while True:
            n = epoll_wait(self._epoll, self._ready, BATCH, 0)
            if n != 0:
                return n
            now = monotonic_ns() // 1000
            if now >= end:
                break
        if timeout_ms >= 0:
            timeout_ms = max(0, timeout_ms - <int>((now - start) // 1000))
        return epoll_wait(self._epoll, self._ready, BATCH, timeout_ms)

    cdef list _select(self, long long timeout_ms):
        """Do the same with a selector of the caller's."""
        cdef long long now, start, end
        cdef list events
        if self._busy_poll_us != 0 and timeout_ms != 0:
            now = start = monotonic_ns() // 1000
            end = start + self._busy_poll_us
            if timeout_ms > 0:
                end = min(end, start + timeout_ms * 1000)
            while now < end:
                events = self._selector.select(0)
                if events:
                    return events
                now = monotonic_ns() // 1000
            if timeout_ms > 0:
                timeout_ms = max(0, timeout_ms - (now - start) // 1000)
        return self._selector.select(None if timeout_ms < 0 else timeout_ms / 1000.0)

    cdef list _wait_selector(self, long long timeout_ms):
        cdef list ready = []
        cdef list events
        try:
            events = self._select(timeout_ms)
        except OSError as error:
            self._on_wait_failed(error, timeout_ms)
            return ready
        self._wait_failures = 0
        for key, mask in events:
            data = key.data
            if data is self:
                self._drain(timeout_ms)
            elif type(data) is tuple and len(data) == 3 and data[0] is self:
                ready.append((data[1], data[2], mask))
        return ready

    cdef int _serve_ready(self, list ready) except -1:
        cdef int i, mask
        cdef int served = 0
        cdef uint64_t data
        cdef uint32_t events
        if ready is not None:
            for fd, generation, mask in ready:
                self.c_write_early()
                served += self._serve(fd, generation, mask)
            return served
        for i in range(self._n_ready):
            data = self._ready[i].data.u64
            if data < TIMER:
                events = self._ready[i].events
                # As the stdlib has it: an error or a hang-up is both.
                mask = (READ if events & ~<uint32_t>EPOLLOUT else 0)
                mask |= (WRITE if events & ~<uint32_t>EPOLLIN else 0)
                self.c_write_early()
                served += self._serve(<uint32_t>data, <uint32_t>(data >> 32), mask)
        return served

    cdef int _serve(self, uint32_t fd, uint32_t generation, int mask) except -1:
        """Serve one event unless it is stale; return the number of sources served."""
        cdef Source source
        if fd >= self._n_slots or self._slots[fd].source == NULL:
            return 0
        mask &= self._slots[fd].events
        if self._slots[fd].generation != generation or not mask:
            return 0
        source = <Source>self._slots[fd].source  # a reference of our own: it may remove itself
        try:
            source.c_on_ready(mask)
        except Exception as error:
            self._on_error("on_ready", error)
        finally:
            leave_hook(self)
        return 1

    cdef int _serve_timers(self) except -1:
        cdef Timer timer
        cdef int served = 0
        for _ in range(self._timers.collect(self._now_ms)):
            if not self._timers.due:  # a timer closed the loop
                break
            timer = self._timers.due.popleft()
            function, args = timer._function, timer._args
            if function is not None:
                timer._function = timer._args = None
                self._timers.active -= 1
                served += 1
                self._call("timer", function, args)
        return served

    cdef int _serve_posts(self, Py_ssize_t count) except -1:
        cdef int served = 0
        while served < count and self._posts:
            function, args = self._posts.popleft()
            served += 1
            self._call("post", function, args)
        return served

    cdef int _call(self, str where, object fn, tuple args) except -1:
        try:
            fn(*args)
        except Exception as error:
            self._on_error(where, error)
        finally:
            leave_hook(self)
        return 0

    cdef int _flush_dirty(self) except -1:
        cdef list dirty = self._dirty
        cdef Py_ssize_t at, end
        for _ in range(FLUSH_PASSES):
            at = 0
            end = len(dirty)
            if not end:
                break
            try:
                # Sources that get dirty meanwhile are appended. close() empties the list.
                while at < end and not self._closed:
                    self._flush_one(<Source>dirty[at])
                    at += 1
            finally:
                del dirty[:at]  # without one whose flush was interrupted
        return 0

    cdef int _flush_one(self, Source source) except -1:
        source._dirty = False  # before the call: its own flush may mark it again
        try:
            source.c_flush()
        except Exception as error:
            self._on_error("flush", error)
        finally:
            leave_hook(self)
        return 0

    # -- the rest ----------------------------------------------------------------------------------

    @property
    def in_turn(self):
        """Whether `run_once` is running."""
        return self._in_turn

    @property
    def posts_refused(self):
        """Number of posts beyond ``max_posts``."""
        return self._posts_refused

    @property
    def waits_failed(self):
        """Number of waits that the system refused."""
        return self._waits_failed

    @property
    def sources(self):
        """Number of registered sources."""
        return self._n_sources

    @property
    def timers(self):
        """Number of active timers."""
        return self._timers.active

    @property
    def wakeup_fd(self):
        """The fd to give to ``signal.set_wakeup_fd``; -1 after `close`."""
        return self._wake_fd

    def fileno(self):
        """Return an fd that is readable when a turn would find something to do."""
        self._check_open()
        self._check_real()
        if self._selector is None:
            return self._epoll
        fileno = getattr(self._selector, "fileno", None)
        if fileno is None:
            name = type(self._selector).__name__
            raise LocalError(f"{name} has no file descriptor: call run_once in time instead")
        return fileno()

    def close(self):
        """Remove every source, timer and post and close the loop's own fds. Idempotent."""
        cdef Source source
        if self._closed:
            return
        for source in list(self._sources):
            if source is not None:
                self.remove(source)
        if self._selector is not None:
            self._selector.unregister(self._wake_in)
        self.abandon()

    def abandon(self):
        """Close the loop's own fds and leave alone what they refer to: for the child of a fork."""
        cdef Source source
        if self._closed:
            return
        self._closed = True
        for source in filter(None, self._sources):
            self._slots[source._fd].source = NULL
            self._slots[source._fd].events = 0
            source.fd = source._fd = -1
            source._loop = None
        self._sources = [None] * len(self._sources)
        self._n_sources = 0
        self._timers.clear()
        for source in self._dirty:
            source._dirty = False
        self._dirty.clear()
        self._posts.clear()
        if self._waker is not None:
            return
        if self._selector is None:
            close(self._epoll)
        if self._timer_fd >= 0:
            close(self._timer_fd)
        self._epoll = self._wake_fd = self._wake_in_fd = self._timer_fd = -1
        self._wake_in.close()
        self._wake_out.close()
