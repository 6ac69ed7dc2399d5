"""One thread's event loop: sources with a file descriptor, timers, posted functions.

Facts that this file relies on:

- The selector is asked once a turn and is level-triggered: an event that is not served is reported
  again. So a turn that ends with an exception loses nothing.
- Events already fetched still arrive for a source that an earlier event of the same batch removed,
  even when its fd number belongs to another source by then. Each registration is therefore an
  object of its own, and an event counts only while its registration is the current one.
- ``selectors`` refuses an empty set of events; a source that waits for nothing is not in the
  selector at all. That also keeps a hung-up socket nobody listens to from spinning.
- The other end of the wake-up pair may be given to ``signal.set_wakeup_fd``, which writes bytes
  that nobody announced: what arrives is read until nothing is left.
- The stdlib's ``select`` restarts after a signal once the handler has run (PEP 475). A handler
  that wants the turn to go on calls ``wake`` or ``post``.
- A wait may fail (memory, a sandbox that refuses the system call). That ends no node: the next
  turn waits again, after a moment, so that it does not spin. One that fails for good is told.
- ``append`` and ``popleft`` of a deque are atomic, a lock is not safe in a signal handler.
- A signal handler that raises may strike between any two bytecodes of the loop itself. So a dirty
  source leaves the queue after its flush, and is flushed once more rather than not at all.
"""

from __future__ import annotations

import contextlib
import errno
import operator
import os
import selectors
import socket
import time
from collections import deque

from netcore._pure.hookwatch import HookWatch
from netcore._pure.timers import Timer, TimerQueue
from netcore.errors import LocalError, QueueFullError

from .._typing import TYPE_CHECKING, Final
from ..logs import logger_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from netcore._pure.timers import Call

__all__ = ["Loop", "Source", "Timer"]

_logger = logger_of("netcore.loop")

_FLUSH_PASSES: Final = 64  # two sources that mark each other must not hold the turn for ever
_LONGEST_WAIT_MS: Final = 86_400_000  # selectors overflow beyond some weeks
_EARLY_NS: Final = 50_000  # a few times what a write and the wake-up of its reader cost
_EARLY_SOURCES: Final = 64  # more are not looked through several times a turn
_WAIT_RETRY_MS: Final = 10
_MAX_WAIT_FAILURES: Final = 100  # in a row
_FARTHEST_MS: Final = 1 << 62  # keeps times within 64 bits, as the compiled twin stores them


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _log_error(where: str, error: BaseException) -> None:
    _logger.error("exception in %s", where, exc_info=error)


def select(
    selector: selectors.BaseSelector, timeout_ms: int, busy_poll_us: int
) -> list[tuple[selectors.SelectorKey, int]]:
    """Wait for events; at first, if asked to, without sleeping. -1: as long as it takes."""
    if busy_poll_us and timeout_ms:
        start = time.monotonic_ns()
        spin_ns = busy_poll_us * 1_000
        if timeout_ms > 0:
            spin_ns = min(spin_ns, timeout_ms * 1_000_000)
        while (spent := time.monotonic_ns() - start) < spin_ns:
            events = selector.select(0)
            if events:
                return events
        if timeout_ms > 0:
            timeout_ms = max(0, timeout_ms - spent // 1_000_000)
    return selector.select(None if timeout_ms < 0 else timeout_ms / 1_000)


class Source:
    """Something with a file descriptor that a loop watches. Subclasses override the two hooks.

    Attributes:
        fd: What the loop watches for it, -1 when nothing. The loop sets and resets it.
    """

    # Not set by a constructor: a subclass that forgets to call it must still be a whole source.
    fd: int = -1
    _dirty: bool = False
    _entry: _Entry | None = None

    def on_ready(self, events: int) -> None:
        """Serve the fd.

        Args:
            events: ``Loop.READ``, ``Loop.WRITE`` or both; only what is being waited for. An error
                or a hang-up is reported as both.
        """

    def flush(self) -> None:
        """Write what was queued; called once after each turn in which it was marked dirty."""

    def _write_early(self) -> None:
        """Write before that, between two hooks of a long turn, and call nobody."""


class _CallbackSource(Source):
    def __init__(self, function: Callable[[int], None]) -> None:
        self._function = function

    def on_ready(self, events: int) -> None:
        self._function(events)


class _Entry:
    """One registration of a source: what the selector hands back with an event."""

    __slots__ = ("events", "fd", "loop", "source")

    def __init__(self, loop: Loop, source: Source, fd: int, events: int) -> None:
        self.loop = loop
        self.source = source
        self.fd = fd
        self.events = events


class Loop:
    """Calls sources when their fds are ready, timers when they are due, posts when they came.

    One turn is one `run_once`; `run` makes turns until `leave` is called. Everything but ``post``,
    ``wake`` and ``leave`` belongs to the thread that runs the loop. An ``Exception`` out of a hook
    goes to ``on_error``; ``KeyboardInterrupt`` and other ``BaseException`` leave `run_once`, and
    what was not served then is served next turn.
    """

    READ: Final = selectors.EVENT_READ
    WRITE: Final = selectors.EVENT_WRITE

    def __init__(
        self,
        selector: selectors.BaseSelector | None = None,
        *,
        clock: Callable[[], int] | None = None,
        on_error: Callable[[str, BaseException], None] | None = None,
        max_posts: int = 65_536,
        busy_poll_us: int = 0,
        wake: Callable[[], object] | None = None,
        slow_hook_ms: int = 0,
        on_slow: Callable[[object, int, int, int], object] | None = None,
    ) -> None:
        """Make a loop.

        Args:
            selector: What to wait with, not closed by this loop; by default the best of the system.
            clock: Returns milliseconds that never go back; by default those of CLOCK_MONOTONIC.
            on_error: Told about exceptions: "on_ready", "flush", "timer", "post" or "wait", and
                the exception. By default it is logged with its traceback as ``netcore.loop``.
            max_posts: Bound of the functions that wait in `post`. Threads that post at the very
                same moment may exceed it by one each.
            busy_poll_us: Before it sleeps, a wait asks for events over and over for so many
                microseconds. Without effect when there is a ``clock``: simulated time does not
                pass meanwhile.
            wake: For simulated time: the loop has no descriptors then, can watch none, and never
                waits. Where its ``fileno`` would become readable it calls this instead.
            slow_hook_ms: A hook that takes longer is slow. 0, or simulated time: none is.
            on_slow: Told of slow ones: the hook, milliseconds, how many calls in a row that were
                (see `enter_hook`), and the time.

        Raises:
            ValueError: ``max_posts`` is less than 1, or there is a ``wake`` without a ``clock`` or
                with a ``selector``.
        """
        max_posts = operator.index(max_posts)
        if max_posts < 1:
            raise ValueError(f"max_posts must be 1 or more, not {max_posts}")
        if wake is not None and (clock is None or selector is not None):
            raise ValueError("wake is for a loop that has a clock and no selector")
        self._clock = clock if clock is not None else _monotonic_ms
        self._on_error = on_error if on_error is not None else _log_error
        self._max_posts = max_posts
        self._busy_poll_us = operator.index(busy_poll_us) if clock is None else 0
        self._early_ns: int | None = None if clock is not None else 0  # in this turn, the next time
        self._entries: dict[int, _Entry] = {}
        self._timers = TimerQueue()
        self._posts: deque[Call] = deque()
        self._dirty: deque[Source] = deque()
        self._posts_refused = 0
        self._waits_failed = 0
        self._wait_failures = 0  # in a row
        self._in_turn = False
        self._leaving = False
        self._closed = False
        self._woken = False  # a byte of ours is, or is about to be, in the pair
        self._now_ms = self._clock()
        self._waker = wake
        limit_ms = operator.index(slow_hook_ms) if wake is None else 0
        clock_ns = time.monotonic_ns if clock is None else lambda: clock() * 1_000_000
        self._watch = HookWatch(limit_ms, clock_ns, on_slow)
        if wake is not None:
            return
        self._owns_selector = selector is None
        self._selector = selectors.DefaultSelector() if selector is None else selector
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector.register(self._wake_in, self.READ, self)

    # -- time --------------------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        """The loop's time: of the start of the turn, then of the end of its wait."""
        return self._now_ms

    def update_now(self) -> None:
        """Read the clock, so that `now_ms` is not from before a long callback."""
        self._now_ms = self._clock()

    def call_at(self, when_ms: int, fn: Callable[..., object], *args: object) -> Timer:
        """Call ``fn(*args)`` in the first turn whose time is not before ``when_ms``.

        Timers run in order of their time, those of the same time in order of creation. One that
        is made by a timer runs in a later turn.

        Raises:
            LocalError: The loop is closed.
        """
        self._check_open()
        when_ms = max(-_FARTHEST_MS, min(operator.index(when_ms), _FARTHEST_MS))
        return self._timers.push(when_ms, (fn, args))

    def next_deadline_ms(self) -> int | None:
        """Return how long to wait at most before the next turn.

        Returns:
            0 when work is pending, ms from now to the next timer, or None when there is none.
        """
        if self._posts or self._dirty or self._timers.due:
            return 0
        first_ms = self._timers.first_ms()
        return None if first_ms is None else max(0, first_ms - self._clock())

    # -- sources -----------------------------------------------------------------------------------

    def add(self, source: Source, fd: int, events: int) -> None:
        """Watch ``fd`` for ``source``.

        Args:
            source: Gets the events; the loop holds a reference until `remove`.
            fd: A file descriptor that nobody added yet.
            events: ``READ``, ``WRITE``, both, or 0 for nothing yet.

        Raises:
            ValueError: The source or the fd is registered already, or an argument is out of range.
            OSError: The fd is not open, or the system cannot watch it.
            LocalError: The loop is closed, or in simulated time.
        """
        self._check_open()
        self._check_real()
        fd = operator.index(fd)
        if fd < 0:
            raise ValueError(f"fd must be 0 or more, not {fd}")
        self._check_events(events)
        if source._entry is not None:
            raise ValueError(f"the source is registered already, with fd {source.fd}")
        if fd in self._entries or fd in (self._wake_in.fileno(), self._wake_out.fileno()):
            raise ValueError(f"fd {fd} is registered already")
        entry = _Entry(self, source, fd, events)
        os.fstat(fd)  # not every selector notices that an fd is closed
        if events:
            self._register(entry, events)
        self._entries[fd] = source._entry = entry
        source.fd = fd

    def modify(self, source: Source, events: int) -> None:
        """Wait for other events; an event fetched before and not waited for now is dropped.

        Raises:
            ValueError: The source is not registered here, or ``events`` is out of range.
        """
        entry = source._entry
        if entry is None or entry.loop is not self:
            raise ValueError("the source is not registered")
        self._check_events(events)
        if events == entry.events:
            return
        if not events:
            self._unregister(entry.fd)
        elif not entry.events:
            self._register(entry, events)
        else:
            self._selector.modify(entry.fd, events, entry)
        entry.events = events

    def remove(self, source: Source) -> None:
        """Stop watching; to be called before the fd is closed. Without effect when not watched."""
        entry = source._entry
        if entry is None or entry.loop is not self:
            return
        source._entry = None
        source.fd = -1
        del self._entries[entry.fd]
        if entry.events:
            self._unregister(entry.fd)

    def make_source(self, on_ready: Callable[[int], None]) -> Source:
        """Return a source of this backend whose ``on_ready`` calls the function."""
        return _CallbackSource(on_ready)

    def mark_dirty(self, source: Source) -> None:
        """Call the source's ``flush`` once, at the end of this turn or the start of the next.

        Outside a turn the loop's ``fileno`` becomes readable, so that a program that waits on it
        runs that turn. The source need not be registered.
        """
        if source._dirty or self._closed:
            return
        source._dirty = True
        self._dirty.append(source)
        if not self._in_turn:
            self.wake()

    def _check_open(self) -> None:
        if self._closed:
            raise LocalError("the loop is closed")

    def _check_real(self) -> None:
        if self._waker is not None:
            raise LocalError("a loop in simulated time has no file descriptors")

    def _check_events(self, events: int) -> None:
        if not 0 <= operator.index(events) <= self.READ | self.WRITE:
            raise ValueError(f"events must be in 0..3, not {events}")

    def _register(self, entry: _Entry, events: int) -> None:
        try:
            self._selector.register(entry.fd, events, entry)
        except KeyError:  # a selector that was passed in may watch it for somebody else
            raise ValueError(f"fd {entry.fd} is registered already") from None

    def _unregister(self, fd: int) -> None:
        # An fd that was closed first is forgotten by the system; selectors differ in what they say.
        with contextlib.suppress(KeyError, OSError, ValueError):
            self._selector.unregister(fd)

    # -- from other threads ------------------------------------------------------------------------

    def post(self, fn: Callable[..., object], *args: object) -> None:
        """Call ``fn(*args)`` in the next turn; may be called by any thread and signal handler.

        Posts that a turn's own callbacks make wait for the turn after it. After `close` nothing
        happens.

        Raises:
            QueueFullError: ``max_posts`` wait already; counted in ``posts_refused``.
        """
        if self._closed:
            return
        if len(self._posts) >= self._max_posts:
            self._posts_refused += 1
            raise QueueFullError("max_posts", self._max_posts)
        self._posts.append((fn, args))
        self.wake()

    def wake(self) -> None:
        """End the wait of the running turn, or of the next; for any thread and signal handler."""
        if self._woken:
            return
        # Set before the byte is sent and reset after it was read, see _drain: whoever finds it set
        # has queued his work before the loop looks at its queues.
        self._woken = True
        if self._waker is not None:
            if not self._closed:
                self._waker()
            return
        with contextlib.suppress(OSError):  # full: readable anyway; closed: nobody waits
            self._wake_out.send(b"\0")

    def _drain(self, timeout_ms: int) -> None:
        failure: OSError | None = None
        try:
            n = len(self._wake_in.recv(4096))
            if not n:
                failure = OSError(errno.EPIPE, os.strerror(errno.EPIPE))
        except OSError as error:
            n, failure = 0, error
        with contextlib.suppress(OSError):  # nothing left
            while n == 4096:
                n = len(self._wake_in.recv(4096))
        self._woken = False
        if failure is not None:
            # It stays readable: without a pause every turn would find it so.
            self._on_wait_failed(failure, timeout_ms)

    # -- how long hooks take -----------------------------------------------------------------------

    def enter_hook(self, hook: object) -> None:
        """Say that a hook is about to be called; it is timed until the next one, or `leave_hook`.

        Calls of the same hook that follow each other may be timed together.
        """
        self._watch.enter(hook)

    def leave_hook(self) -> None:
        """Say that no hook is running any more; at the latest the loop does."""
        self._watch.leave()

    # -- the turn ----------------------------------------------------------------------------------

    def run_once(self, timeout_ms: int | None) -> int:
        """Run one turn: flush, wait, serve fds, timers and posts, flush.

        Args:
            timeout_ms: Longest wait in ms, None for as long as it takes. Waits of more than a day
                end after a day.

        Returns:
            Number of sources, timers and posts served.

        Raises:
            RuntimeError: Called from inside a turn.
            LocalError: The loop is closed.
            OSError: The system has refused to wait a hundred times in a row.
        """
        self._check_open()
        if self._in_turn:
            raise RuntimeError("run_once was called from inside a turn of the same loop")
        if timeout_ms is not None:
            timeout_ms = operator.index(timeout_ms)
        return self._run_turn(timeout_ms)

    def run(self) -> None:
        """Run turns until `leave` is called or the loop is closed.

        Raises:
            RuntimeError: Called from inside a turn.
            LocalError: The loop is closed.
        """
        self._check_open()
        if self._in_turn:
            raise RuntimeError("run was called from inside a turn of the same loop")
        try:
            while not (self._leaving or self._closed):
                self._run_turn(None)
        finally:
            self._leaving = False

    def leave(self) -> None:
        """Make `run` return after its turn; for any thread and signal handler."""
        self._leaving = True
        self.wake()

    def _run_turn(self, timeout_ms: int | None) -> int:
        self._in_turn = True
        try:
            self._now_ms = self._clock()
            self._flush_dirty()
            ready = self._wait(timeout_ms)
            if self._waker is None:  # else there was no wait
                self._now_ms = self._clock()
            if self._early_ns is not None:
                self._early_ns = time.monotonic_ns() + _EARLY_NS
            posts = len(self._posts)
            served = self._serve_ready(ready)
            served += self._serve_timers()
            served += self._serve_posts(posts)
            self._flush_dirty()
            return served
        finally:
            self._in_turn = False
            if self._dirty or self._timers.due:
                self.wake()  # whoever waits on fileno() must see that there is work left

    def _wait(self, timeout_ms: int | None) -> list[tuple[_Entry, int]]:
        """Wait and return what is ready; the wake-up pair is drained here."""
        if self._closed:  # by a flush
            return []
        if self._waker is not None:
            self._woken = False
            return []
        deadline = self.next_deadline_ms()
        waits = [ms for ms in (timeout_ms, deadline) if ms is not None]
        timeout = max(0, min(*waits, _LONGEST_WAIT_MS)) if waits else -1
        ready: list[tuple[_Entry, int]] = []
        try:
            events = select(self._selector, timeout, self._busy_poll_us)
        except OSError as error:
            self._on_wait_failed(error, timeout)
            return ready
        self._wait_failures = 0
        for key, mask in events:
            if key.data is self:
                self._drain(timeout)
            elif isinstance(key.data, _Entry):
                ready.append((key.data, mask))
        return ready

    def _on_wait_failed(self, error: OSError, timeout_ms: int) -> None:
        """Let a moment pass before the next turn waits again; give up when it goes on so."""
        self._waits_failed += 1
        self._wait_failures += 1
        if self._wait_failures > _MAX_WAIT_FAILURES:
            raise error
        self._on_error("wait", error)
        pause_ms = _WAIT_RETRY_MS if timeout_ms < 0 else min(timeout_ms, _WAIT_RETRY_MS)
        time.sleep(pause_ms / 1_000)

    def _serve_ready(self, ready: list[tuple[_Entry, int]]) -> int:
        served = 0
        for entry, mask in ready:
            events = mask & entry.events
            if not events or self._entries.get(entry.fd) is not entry:
                continue
            served += 1
            self._write_early()
            try:
                entry.source.on_ready(events)
            except Exception as error:
                self._on_error("on_ready", error)
            finally:
                self._watch.leave()
        return served

    def _write_early(self) -> None:
        """Let out what waits for the end of a turn that takes long.

        Else a message would wait for all that comes behind it in the turn, and who is to answer it
        would wait as well. To be called now and then in what may take long.
        """
        if not 0 < len(self._dirty) <= _EARLY_SOURCES or self._early_ns is None:
            return
        now_ns = time.monotonic_ns()
        if now_ns >= self._early_ns:
            self._early_ns = now_ns + _EARLY_NS
            for source in self._dirty:
                source._write_early()

    def _serve_timers(self) -> int:
        timers, served = self._timers, 0
        for _ in range(timers.collect(self._now_ms)):
            if not timers.due:  # a timer closed the loop
                break
            call = timers.pop_due()
            if call is not None:
                served += 1
                self._call("timer", call)
        return served

    def _serve_posts(self, count: int) -> int:
        served = 0
        while served < count and self._posts:
            served += 1
            self._call("post", self._posts.popleft())
        return served

    def _call(self, where: str, call: Call) -> None:
        try:
            call[0](*call[1])
        except Exception as error:
            self._on_error(where, error)
        finally:
            self._watch.leave()

    def _flush_dirty(self) -> None:
        dirty = self._dirty
        for _ in range(_FLUSH_PASSES):
            if not dirty:
                return
            for _ in range(len(dirty)):
                source = dirty[0]
                source._dirty = False  # before the call: its own flush may mark it again
                try:
                    source.flush()
                except Exception as error:
                    self._on_error("flush", error)
                finally:
                    self._watch.leave()
                if not dirty:  # a flush closed the loop
                    return
                dirty.popleft()

    # -- the rest ----------------------------------------------------------------------------------

    @property
    def in_turn(self) -> bool:
        """Whether `run_once` is running."""
        return self._in_turn

    @property
    def posts_refused(self) -> int:
        """Number of posts beyond ``max_posts``."""
        return self._posts_refused

    @property
    def waits_failed(self) -> int:
        """Number of waits that the system refused."""
        return self._waits_failed

    @property
    def sources(self) -> int:
        """Number of registered sources."""
        return len(self._entries)

    @property
    def timers(self) -> int:
        """Number of active timers."""
        return self._timers.active

    @property
    def wakeup_fd(self) -> int:
        """The fd to give to ``signal.set_wakeup_fd``; -1 after `close` and in simulated time."""
        return self._wake_out.fileno() if self._waker is None else -1

    def fileno(self) -> int:
        """Return an fd that is readable when a turn would find something to do.

        Timers are not seen by it: wait no longer than `next_deadline_ms`.

        Raises:
            LocalError: There is none: the selector has no fd of its own, or the loop is closed or
                in simulated time.
        """
        self._check_open()
        self._check_real()
        fileno = getattr(self._selector, "fileno", None)
        if fileno is None:
            name = type(self._selector).__name__
            raise LocalError(f"{name} has no file descriptor: call run_once in time instead")
        return int(fileno())

    def close(self) -> None:
        """Remove every source, timer and post and close the loop's own fds. Idempotent."""
        if self._closed:
            return
        for entry in list(self._entries.values()):
            self.remove(entry.source)
        if self._waker is None:
            self._selector.unregister(self._wake_in)
        self.abandon()

    def abandon(self) -> None:
        """Close the loop's own fds and leave alone what they refer to: for the child of a fork.

        The kernel's list of watched fds is still the parent's; unregistering here would empty it.
        """
        if self._closed:
            return
        self._closed = True
        for entry in self._entries.values():
            entry.source._entry = None
            entry.source.fd = -1
        self._entries.clear()
        self._timers.clear()
        for source in self._dirty:
            source._dirty = False
        self._posts.clear()
        self._dirty.clear()
        if self._waker is not None:
            return
        if self._owns_selector:
            self._selector.close()
        self._wake_in.close()
        self._wake_out.close()
