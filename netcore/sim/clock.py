"""Virtual time: what is due next, and which nodes have something to do now."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from functools import partial

from .._typing import Final, Protocol, final
from ..errors import LocalError, NetcoreError

__all__ = ["SimulationError", "Turning", "VirtualTime"]

#: Turns of one node at one moment. More is a conversation over links without latency that never
#: lets time pass.
MAX_TURNS_A_MOMENT: Final = 100_000


class SimulationError(NetcoreError):
    """The simulated network did not do what was waited for, or something in it went wrong."""


class Turning(Protocol):
    """Something that gets turns; a node."""

    def turn(self) -> None:
        """Do what there is to do."""


@final
class VirtualTime:
    """A clock that jumps from one event to the next.

    Attributes:
        now_ms: The time of the whole network.
        read: Returns it; the clock of every node.
        ready: Whoever has something to do at this time, each once, in order of their waking.
        in_turn: Whether a node has its turn: whether user code may be running.
        running: Whether time passes.
    """

    __slots__ = ("_heap", "_number", "in_turn", "now_ms", "read", "ready", "running")

    def __init__(self) -> None:
        self.now_ms = 0
        # Not a method: kernels ask in every turn, and what Python has to call takes twice as long.
        self.read: Callable[[], int] = partial(getattr, self, "now_ms")
        self.ready: deque[Turning] = deque()
        self.in_turn = self.running = False
        self._heap: list[tuple[int, int, Callable[[], object]]] = []
        self._number = 0

    def call_at(self, when_ms: int, fn: Callable[[], object]) -> None:
        """Call ``fn()`` then; those of the same time in the order of these calls."""
        self._number += 1
        if when_ms < self.now_ms:
            when_ms = self.now_ms
        heapq.heappush(self._heap, (when_ms, self._number, fn))

    def run_until(self, end_ms: int) -> None:
        """Let time pass.

        Raises:
            SimulationError: The nodes talk without end while time stands still.
        """
        if self.running:
            raise LocalError("time passes already: this cannot wait for itself")
        self.running = True
        try:
            self._run_until(end_ms)
        finally:
            self.running = False

    def _run_until(self, end_ms: int) -> None:
        heap, ready, pop = self._heap, self.ready, heapq.heappop
        while True:
            if ready:
                self._serve_ready()
            if not heap or heap[0][0] > end_ms:
                break
            self.now_ms = now_ms = heap[0][0]
            pop(heap)[2]()
            while heap and heap[0][0] <= now_ms:
                pop(heap)[2]()
        self.now_ms = max(self.now_ms, end_ms)

    def _serve_ready(self) -> None:
        ready = self.ready
        left = MAX_TURNS_A_MOMENT
        self.in_turn = True
        try:
            while ready and left:
                left -= 1
                ready.popleft().turn()
        finally:
            self.in_turn = False
        if ready:
            raise SimulationError(
                f"no end of turns at {self.now_ms} ms: does somebody answer every answer over "
                "links without latency?"
            )

    def next_ms(self) -> int | None:
        """Return when something happens next; None: never."""
        if self.ready:
            return self.now_ms
        return self._heap[0][0] if self._heap else None
