"""What happened, as plain tuples, and one hash over all of it."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator

from .._typing import Final, final

__all__ = ["Event", "Trace"]

#: (time in ms, kind, node, ...); docs/guide.md lists the kinds.
Event = tuple[int | str, ...]

BATCH: Final = 1_024


@final
class Trace:
    """The events of a network: a hash over all of them, the latest themselves, and who looks on.

    The same seed and the same operations give the same hash, on both backends.

    Args:
        keep: How many events are kept; older ones are in the hash only.
    """

    def __init__(self, keep: int = 10_000) -> None:
        self._kept: deque[Event] = deque(maxlen=keep)
        self._hash = hashlib.sha256()
        self._batch: list[Event] = []
        self._observers: list[Callable[[Event], object]] = []
        self._counted = 0

    def __len__(self) -> int:
        return self._counted + len(self._batch)

    def __iter__(self) -> Iterator[Event]:
        """Iterate over the events that are kept, oldest first."""
        self._digest()
        return iter(tuple(self._kept))

    def of(self, *kinds: str) -> list[Event]:
        """Return the kept events of these kinds."""
        return [event for event in self if event[1] in kinds]

    def add(self, event: Event) -> None:
        """Enter an event: ints and texts, nothing that differs from one process to the next."""
        self._batch.append(event)
        if self._observers:
            for observer in self._observers:
                observer(event)
        if len(self._batch) >= BATCH:
            self._digest()

    def watch(self, observer: Callable[[Event], object]) -> None:
        """Call ``observer(event)`` for every event from now on."""
        self._observers.append(observer)

    @property
    def hash(self) -> str:
        """The hash over all events so far, as 64 hexadecimal digits."""
        self._digest()
        return self._hash.hexdigest()

    def _digest(self) -> None:
        """Take in what waits; many at a time, which costs a third of doing so one by one."""
        if self._batch:
            # Without the brackets it does not matter where a batch ends.
            self._hash.update(repr(self._batch)[1:-1].encode() + b", ")
            self._kept.extend(self._batch)
            self._counted += len(self._batch)
            self._batch = []
