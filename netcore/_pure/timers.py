"""Timers of a loop: a binary heap in which cancelled timers wait for their turn to be forgotten."""

from __future__ import annotations

import heapq
from collections import deque

from .._typing import TYPE_CHECKING, Any, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Call: TypeAlias = tuple[Callable[..., object], tuple[Any, ...]]

__all__ = ["Timer", "TimerQueue"]

_COMPACT_FROM: Final = 64  # cancelled timers that are not worth a sweep


@final
class Timer:
    """A function that a loop will call; made by ``Loop.call_at``."""

    __slots__ = ("_call", "_in_heap", "_queue", "_when_ms")

    _call: Call | None
    _in_heap: bool
    _queue: TimerQueue
    _when_ms: int

    @property
    def when_ms(self) -> int:
        """Loop time at which it is due."""
        return self._when_ms

    @property
    def active(self) -> bool:
        """Whether it will still be called: neither cancelled nor called yet."""
        return self._call is not None

    def cancel(self) -> None:
        """Forget the function; without effect when the timer is not active."""
        if self._call is not None:
            self._call = None
            self._queue.cancelled(self)


@final
class TimerQueue:
    """Timers by time, those of the same time by creation.

    Attributes:
        active: Number of active timers.
        due: Those that are due and not served yet, in order; cancelled ones among them.
    """

    __slots__ = ("_cancelled", "_heap", "_number", "active", "due")

    def __init__(self) -> None:
        self.active = 0
        self.due: deque[Timer] = deque()
        self._heap: list[tuple[int, int, Timer]] = []
        self._number = 0
        self._cancelled = 0  # in the heap

    def push(self, when_ms: int, call: Call) -> Timer:
        """Return a new timer."""
        timer = Timer()
        timer._queue = self
        timer._when_ms = when_ms
        timer._call = call
        timer._in_heap = True
        self._number += 1
        self.active += 1
        heapq.heappush(self._heap, (when_ms, self._number, timer))
        return timer

    def first_ms(self) -> int | None:
        """Return when the first active timer outside `due` is due, or None."""
        heap = self._heap
        while heap and not heap[0][2].active:
            heapq.heappop(heap)
            self._cancelled -= 1
        return heap[0][0] if heap else None

    def collect(self, now_ms: int) -> int:
        """Append to `due` what became due, and return the length of `due`.

        A timer that is made while the due ones run is thereby left for the next turn, however
        long ago its time was.
        """
        while (first_ms := self.first_ms()) is not None and first_ms <= now_ms:
            timer = heapq.heappop(self._heap)[2]
            timer._in_heap = False
            self.due.append(timer)
        return len(self.due)

    def pop_due(self) -> Call | None:
        """Remove the first timer of `due`; return its function, None when it was cancelled."""
        timer = self.due.popleft()
        call = timer._call
        if call is not None:
            timer._call = None
            self.active -= 1
        return call

    def cancelled(self, timer: Timer) -> None:
        """Count a timer that was active; sweep when most of the heap is cancelled."""
        self.active -= 1
        if not timer._in_heap:
            return
        self._cancelled += 1
        if self._cancelled > _COMPACT_FROM and 2 * self._cancelled > len(self._heap):
            self._heap = [item for item in self._heap if item[2].active]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def clear(self) -> None:
        """Cancel every timer."""
        for timer in [item[2] for item in self._heap] + list(self.due):
            timer._call = None
        self._heap = []
        self.due.clear()
        self.active = self._cancelled = 0
