"""The calls of a node that wait for their answer, by id and by deadline."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from .._typing import Final, NamedTuple, final
from ..errors import LocalError
from .callvalues import CallAnswer

__all__ = ["OnDone", "PendingCall", "PendingCalls"]

OnDone = Callable[[CallAnswer], object]

#: A heap with this many more items than twice the live ones is rebuilt (cheap, and rare).
_HEAP_SLACK: Final = 64


class PendingCall(NamedTuple):
    """One call that has not ended.

    Attributes:
        number: How many calls were started up to it.
        expected_node: The node that was asked; None: whoever answers.
        timeout_ms: What it was given.
        on_done: Who is told.
    """

    number: int
    expected_node: int | None
    timeout_ms: int
    on_done: OnDone


@final
class PendingCalls:
    """All of them. Each leaves exactly once: by its answer, its deadline, or its node's end.

    Every operation is O(log n), amortized; the order of what expires depends on the arguments only.
    """

    # The heap holds numbers, not calls: what a finished call refers to is free at once, although
    # its heap item goes only when it comes up, or when the heap is rebuilt.

    def __init__(self) -> None:
        self._calls: dict[int, PendingCall] = {}
        self._heap: list[tuple[int, int, int]] = []  # deadline, number, call id
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, call_id: int) -> bool:
        return call_id in self._calls

    def add(
        self,
        call_id: int,
        deadline_ms: int,
        timeout_ms: int,
        expected_node: int | None,
        on_done: OnDone,
    ) -> None:
        """Begin to wait.

        Raises:
            LocalError: ``call_id`` is in use.
        """
        if call_id in self._calls:
            raise LocalError(f"call id {call_id:#x} is in use")
        self._numbers += 1
        self._calls[call_id] = PendingCall(self._numbers, expected_node, timeout_ms, on_done)
        heapq.heappush(self._heap, (deadline_ms, self._numbers, call_id))

    def take(self, call_id: int, from_node: int | None) -> PendingCall | None:
        """Remove and return the call that an answer from this node ends; None if there is none."""
        call = self._calls.get(call_id)
        if call is None or call.expected_node not in (None, from_node):
            return None
        self.remove(call_id)
        return call

    def take_due(self, now_ms: int) -> PendingCall | None:
        """Remove and return the call with the earliest deadline, if that has come."""
        deadline_ms = self.next_deadline_ms()
        if deadline_ms is None or deadline_ms > now_ms:
            return None
        return self._calls.pop(heapq.heappop(self._heap)[2])

    def take_all(self) -> list[PendingCall]:
        """Remove and return all calls, in the order they were started."""
        calls = list(self._calls.values())
        self._calls.clear()
        self._heap.clear()
        return calls

    def remove(self, call_id: int) -> None:
        """Forget a call."""
        del self._calls[call_id]
        if len(self._heap) > 2 * len(self._calls) + _HEAP_SLACK:
            self._heap = [item for item in self._heap if self._is_live(item)]
            heapq.heapify(self._heap)

    def next_deadline_ms(self) -> int | None:
        """Return when the next call expires (not: in how long), None when none waits."""
        heap = self._heap
        while heap and not self._is_live(heap[0]):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def _is_live(self, item: tuple[int, int, int]) -> bool:
        call = self._calls.get(item[2])
        return call is not None and call.number == item[1]
