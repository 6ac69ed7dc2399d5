"""How a node ends its links: politely, but not for ever."""

from __future__ import annotations

import time

from . import wire
from ._typing import TYPE_CHECKING, Final
from .wiring import milliseconds

if TYPE_CHECKING:
    from ._backend import kernels
    from .host import Host
    from .plane import Plane
    from .process import HeldInterrupt

__all__ = ["say_goodbye"]

#: Turns of the loop that are made at most when time is not real.
MAX_VIRTUAL_TURNS: Final = 1_000
#: An interrupt wakes the loop; but not when it comes just before the wait.
LOOK_MS: Final = 50


def say_goodbye(
    plane: Plane,
    host: Host,
    loop: kernels.Loop,
    timeout_s: float,
    *,
    held: HeldInterrupt,
    virtual: bool,
) -> None:
    """Accept nothing more, end every link, and wait until the neighbours have what was queued.

    Args:
        plane: Of the node.
        host: Likewise.
        loop: Likewise.
        timeout_s: Afterwards the links are ended all the same.
        held: Once it has come there is no waiting.
        virtual: Time does not pass by itself.
    """
    try:
        host.stop_accepting()
        for link in plane.links:
            link.conn.close(wire.CLOSE_SHUTDOWN, "the node is going away")
        _await_neighbours(plane, loop, timeout_s, held, virtual=virtual)
    except BaseException as exc:  # of a second Ctrl-C: every link gets its hooks
        plane.hold_interrupt(exc)
        host.stop_accepting()  # what it had not come to yet
    for link in plane.links:
        link.conn.fail(wire.CLOSE_LOST, "the neighbour did not finish closing in time")
    loop.run_once(0)


def _await_neighbours(
    plane: Plane, loop: kernels.Loop, timeout_s: float, held: HeldInterrupt, *, virtual: bool
) -> None:
    deadline = time.monotonic() + timeout_s
    turns = 0
    while len(plane.links) and not (virtual and turns >= MAX_VIRTUAL_TURNS):
        left = 0 if held.came else deadline - time.monotonic()
        if left <= 0 and turns:  # one turn in any case: it writes what can be written
            break
        loop.run_once(0 if virtual else min(milliseconds(left), LOOK_MS))
        turns += 1
