"""Losses: which hops were named lost lately, and by whom.

Facts first:

- A *loss* says that a node no longer hands over to one of its neighbours: the hop ``(far, near)``
  and a serial. Only ``near`` makes it; everybody else passes it on.
- The serial is the clock of ``near``, in ms, so it grows with every loss of the hop, also over a
  restart of the process. Nobody compares it with a clock of his own: it tells a newer loss from one
  that is known, and so each loss passes each node once.
- A loss is *active* for ``DOUBT_MS``: that long others may take to hear of it. It is *known* for
  ``KNOWN_MS``: whoever announces a way over the hop in that time says first that he knows.
- Who makes up losses, or makes them up in numbers, is slowed down: ``Allowance``.
"""

from __future__ import annotations

from collections.abc import Iterator

from .. import wire
from .._typing import Final, final
from ..choices import Hop

__all__ = ["DOUBT_MS", "MAX_LOSSES", "Allowance", "Losses"]

MAX_LOSSES: Final = 128  # known at a time; they fit into one message
DOUBT_MS: Final = 1_000
KNOWN_MS: Final = 10_000
#: A node names a hop of its own at most this often; a link that flaps faster is told as changes.
OWN_INTERVAL_MS: Final = 200
#: So many losses are passed on for a neighbour at once, and afterwards one per interval.
LOSS_BURST: Final = 128
LOSS_INTERVAL_MS: Final = 50


@final
class Allowance:
    """How many losses of one neighbour still count."""

    __slots__ = ("_full_ms",)

    def __init__(self) -> None:
        self._full_ms = 0  # when it will be whole again

    def take(self, now_ms: int) -> bool:
        """Use one up; return False when there is none."""
        full_ms = max(self._full_ms, now_ms) + LOSS_INTERVAL_MS
        if full_ms - now_ms > LOSS_BURST * LOSS_INTERVAL_MS:
            return False
        self._full_ms = full_ms
        return True


@final
class Losses:
    """The losses of the last seconds, the newest one of each hop."""

    __slots__ = ("_active", "_known")

    def __init__(self) -> None:
        self._known: dict[Hop, tuple[int, int]] = {}  # hop -> serial, when heard; oldest first
        self._active: dict[Hop, int] = {}  # hop -> when heard; oldest first

    def __len__(self) -> int:
        return len(self._known)

    def name(self, hop: Hop, now_ms: int) -> bool:
        """Make a loss of an own hop; return False when the last one is too young."""
        known = self._known.get(hop)
        if known is not None and now_ms - known[1] < OWN_INTERVAL_MS:
            return False
        serial = now_ms & wire.MAX_U32
        if known is not None and not self.is_news(hop, serial):
            serial = known[0] + 1 & wire.MAX_U32  # somebody has made one up
        self._keep(hop, serial, now_ms)
        return True

    def is_news(self, hop: Hop, serial: int) -> bool:
        """Return whether a loss is newer than what is known of the hop."""
        known = self._known.get(hop)
        return known is None or 0 < (serial - known[0] & wire.MAX_U32) < 1 << 31

    def hear(self, hop: Hop, serial: int, now_ms: int) -> list[Hop]:
        """Know a loss that somebody else has made; return the hops that are active no longer."""
        self._keep(hop, serial, now_ms)
        self._active.pop(hop, None)
        self._active[hop] = now_ms
        ended = [old for old in self._active if old not in self._known]
        for old in ended:
            del self._active[old]
        return ended

    def serial_of(self, hop: Hop) -> int | None:
        """Return the serial of the newest loss of a hop, None when none is known."""
        known = self._known.get(hop)
        return None if known is None else known[0]

    def active_of(self, near: int) -> list[Hop]:
        """Return the active hops that a node makes."""
        return [hop for hop in self._active if hop[1] == near]

    def end(self, now_ms: int) -> Iterator[Hop]:
        """Forget what is old; yield the hops that are active no longer."""
        for hop, heard_ms in list(self._active.items()):
            if now_ms - heard_ms < DOUBT_MS:
                break
            del self._active[hop]
            yield hop
        for hop, (_, heard_ms) in list(self._known.items()):
            if now_ms - heard_ms < KNOWN_MS:
                break
            del self._known[hop]

    def wait_ms(self, now_ms: int) -> int | None:
        """Return when the next one is active no longer; None: there is none."""
        for heard_ms in self._active.values():
            return max(0, heard_ms + DOUBT_MS - now_ms)
        return None

    def _keep(self, hop: Hop, serial: int, now_ms: int) -> None:
        self._known.pop(hop, None)
        while len(self._known) >= MAX_LOSSES:
            del self._known[next(iter(self._known))]
        self._known[hop] = serial, now_ms
