"""OperationLog: what was done to a simulated network, to be done again."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence

from .._typing import TYPE_CHECKING, Any, Final
from ..errors import LocalError
from .fabric import Fabric
from .view import View

if TYPE_CHECKING:
    from .nodes import Behaviors

__all__ = ["Operation", "OperationLog"]

#: [time in ms, name, arguments]
Operation = Sequence[Any]

_PLAYED: Final = frozenset(
    [
        "add_node",
        "link",
        "kill",
        "stop",
        "restart",
        "freeze",
        "thaw",
        "cut",
        "cut_one_way",
        "heal",
        "reset",
        "do",
    ]
)


class OperationLog(View):
    """A network that writes down what is done to it.

    Attributes:
        operations: As ``[time in ms, name, arguments]``: plain values, fit for JSON.
        actions: What ``do`` can do, by name: functions that get the network and arguments.
    """

    def __init__(self, fabric: Fabric) -> None:
        super().__init__(fabric)
        self.operations: list[list[Any]] = []
        self.actions: dict[str, Callable[..., object]] = {}
        self._closed = False
        self._scheduled: list[tuple[int, int, Callable[[], object]]] = []
        self._number = 0

    def run(self, ms: int) -> None:
        """Let so much time pass."""
        self._check()
        if not isinstance(ms, int) or ms < 0:
            raise LocalError(f"ms must be an int of 0 or more, not {ms!r}")
        self._pass(self._time.now_ms + ms)

    def call_at(self, when_ms: int, fn: Callable[[], object]) -> None:
        """Call ``fn()`` at that time, when the nodes have done what they do then."""
        self._check()
        self._number += 1
        heapq.heappush(self._scheduled, (when_ms, self._number, fn))

    def _pass(self, end_ms: int) -> None:
        """Let time pass until then, and call what was scheduled."""
        while self._scheduled and self._scheduled[0][0] <= end_ms:
            when_ms, _, fn = heapq.heappop(self._scheduled)
            self._time.run_until(max(when_ms, self._time.now_ms))
            fn()
        self._time.run_until(max(end_ms, self._time.now_ms))

    def _next_ms(self) -> int | None:
        """Return when something happens next; None: never."""
        next_ms = self._time.next_ms()
        if not self._scheduled:
            return next_ms
        return self._scheduled[0][0] if next_ms is None else min(next_ms, self._scheduled[0][0])

    def do(self, action: str, **args: Any) -> None:
        """Do something of your own, one of ``actions``, and write it down like a fault.

        Args:
            action: Its name.
            args: Plain values.
        """
        if action not in self.actions:
            raise LocalError(f"there is no action {action!r}: enter it in Network.actions")
        self._enter("do", action=action, **args)
        self.actions[action](self, **args)

    def play(
        self,
        operations: Iterable[Operation],
        *,
        behaviors: Behaviors = (),
        skip_invalid: bool = False,
    ) -> None:
        """Do operations at their times, from a log or made by ``random_faults``.

        Args:
            operations: As ``operations`` has them, in order of their time.
            behaviors: For the nodes that they add.
            skip_invalid: Leave out what cannot be done, such as killing a dead node: for logs of
                which something was taken out.

        Raises:
            LocalError: An operation is unknown, or cannot be done.
        """
        for when_ms, name, args in operations:
            if name not in _PLAYED:
                raise LocalError(f"there is no operation {name!r}")
            if when_ms > self.now_ms:
                self.run(when_ms - self.now_ms)
            if name == "add_node":
                args = {**args, "behaviors": behaviors}
            try:
                getattr(self, name)(**args)
            except LocalError:
                if not skip_invalid:
                    raise

    def _check(self) -> None:
        if self._closed:
            raise LocalError("the network is closed")

    def _enter(self, name: str, **args: Any) -> None:
        """Write an operation down."""
        self._check()
        if self._time.in_turn:
            raise LocalError(f"{name}() inside a hook: use call_at() to do it between two turns")
        # Between two operations of one moment time may have been given, or not: it is now, so that
        # the log, which does not tell, is enough to do the same again.
        self._time.run_until(self._time.now_ms)
        self.operations.append([self._time.now_ms, name, args])
        said = " ".join(f"{key}={value!r}" for key, value in args.items())
        self.trace.add((self._time.now_ms, "operation", name, said))
