"""What a node has to do with its process: signals and fork."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ._typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Forkable", "HeldInterrupt", "forget_fork", "stop_on_signals", "watch_fork"]


@contextmanager
def stop_on_signals(stop: Callable[[], None], wakeup_fd: int) -> Iterator[None]:
    """Handle SIGINT and SIGTERM by ``stop()`` meanwhile; in other threads than the main one, not.

    Args:
        stop: Called by the signal handler, so it must not wait.
        wakeup_fd: Written to by the interpreter when a signal comes, so that a signal between the
            last look and the wait does not go unnoticed until something else happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    import signal  # not before: it makes enumerations of everything that it knows

    def on_signal(signum: int, frame: FrameType | None) -> None:
        stop()

    numbers = (signal.SIGINT, signal.SIGTERM)
    # Where ours is not in place, SIGINT raises KeyboardInterrupt, between any two steps. So its
    # handler is the first to come and the last to go: in between nothing is left half done. A
    # descriptor left behind would get the bytes of later signals, whoever it belongs to by then.
    old = {}
    for number in numbers:
        old[number] = signal.signal(number, on_signal)
    old_fd = signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(old_fd)
        for number in reversed(numbers):
            handler = old[number]
            # None: it was not installed by Python, and cannot be put back by it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class HeldInterrupt:
    """Holds SIGINT back while something is done that must not stay half done; a context manager.

    A KeyboardInterrupt comes between any two steps. Held back, its handler is called at the end;
    unless what was done has raised something itself. In other threads than the main one, and where
    no handler is set, nothing is held.

    Attributes:
        came: There was one: hurry. The next one is not held back.
    """

    __slots__ = ("_handler", "_wake", "came")

    def __init__(self, wake: Callable[[], object]) -> None:
        """Prepare.

        Args:
            wake: Called by the signal handler, to end a wait.
        """
        self.came = False
        self._wake = wake
        self._handler: Callable[[int, FrameType | None], object] | None = None

    def __enter__(self) -> HeldInterrupt:
        if threading.current_thread() is threading.main_thread():
            import signal

            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):
                self._handler = handler
                signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if self._handler is not None:
            import signal

            signal.signal(signal.SIGINT, self._handler)
            if self.came and exc_type is None:
                self._handler(signal.SIGINT, None)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.came and self._handler is not None:
            self._handler(signum, frame)
        self.came = True
        self._wake()


class Forkable(Protocol):
    """Something that a fork copies and only the parent may go on using."""

    def _abandon(self) -> None:
        """Close what was copied, without a byte to anybody."""


_watched: weakref.WeakSet[Forkable] = weakref.WeakSet()


def watch_fork(thing: Forkable) -> None:
    """Call ``thing._abandon()`` in every child of this process, as long as it exists."""
    _watched.add(thing)


def forget_fork(thing: Forkable) -> None:
    """Do not, any more."""
    _watched.discard(thing)


def _after_fork_in_child() -> None:
    for thing in list(_watched):
        thing._abandon()
    _watched.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
