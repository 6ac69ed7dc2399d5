"""HookWatch: how long user code takes, and which of it takes too long.

Facts that this file relies on:

- A look at the clock for each message would cost some percent of the message. Calls of the same
  hook that follow each other are therefore timed together, 16 at most, as long as they are quick: a
  hook is timed alone at first, then twice as many of its calls at a time, and alone again once one
  of these blocks took a sixteenth of the limit.
- So a hook that takes long is found the first time, and its name is always right; what a block of
  several calls says is what they took together.
- A block lasts until another hook is entered or ``leave`` is called. The loop calls it whenever it
  gets control back, so that no wait counts.
"""

from __future__ import annotations

from .._typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HookWatch"]

_LONGEST_BLOCK: Final = 16  # calls; also: a block that takes the limit / 16 is a slow one


@final
class HookWatch:
    """Times the hooks of one loop.

    Args:
        limit_ms: A hook that takes longer is told of; 0: nothing is timed.
        clock_ns: Returns nanoseconds that never go back.
        on_slow: Called with the hook, what it took in ms, how many calls of it that were, and the
            time in ms, by the same clock.
    """

    __slots__ = (
        "_block", "_last", "_left", "_limit_ns", "_now_ns", "_on_slow", "_since_ns", "watched",
    )  # fmt: skip

    def __init__(
        self,
        limit_ms: int,
        clock_ns: Callable[[], int],
        on_slow: Callable[[object, int, int, int], object] | None,
    ) -> None:
        self._limit_ns = 0 if on_slow is None else limit_ms * 1_000_000
        self._now_ns = clock_ns
        self._on_slow = on_slow
        self._since_ns = 0
        self._block = 1  # calls that are timed together
        self._left = 0  # of these, without the ones that were made
        self._last = 0  # id() of the hook that _block is about
        #: The hook being timed, None between blocks.
        self.watched: object = None

    def enter(self, hook: object) -> None:
        """A hook is about to be called."""
        if self._left and hook is self.watched:
            self._left -= 1
        elif self._limit_ns:
            self._begin(hook)

    def leave(self) -> None:
        """No hook is running any more."""
        if self.watched is not None:
            self._end(self._now_ns())

    def _begin(self, hook: object) -> None:
        now_ns = self._now_ns()
        if self.watched is not None and self._end(now_ns):
            now_ns = self._now_ns()
        if id(hook) != self._last:
            self._last = id(hook)
            self._block = 1
        self.watched = hook
        self._left = self._block - 1
        self._since_ns = now_ns

    def _end(self, now_ns: int) -> bool:
        """End the block; return whether it had to be told of."""
        hook, self.watched = self.watched, None
        calls, self._left = self._block - self._left, 0
        took_ns = now_ns - self._since_ns
        if took_ns * _LONGEST_BLOCK >= self._limit_ns:
            self._block = 1
        elif calls == self._block < _LONGEST_BLOCK:
            self._block *= 2
        if took_ns <= self._limit_ns or self._on_slow is None:
            return False
        self._on_slow(hook, took_ns // 1_000_000, calls, now_ns // 1_000_000)
        return True
