"""How hard those who lost a hub come back to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

WINDOW_MS = 1_000
#: The last tenth is left out: a few long waits would make the mean small, and the peak no smaller.
SHARE = 0.9


def peak_over_mean(came_ms: Iterable[int]) -> float:
    """Return the busiest second over the mean one, of links counted from the hub's return on.

    The mean is that of the time until nine tenths of the links were back.
    """
    came = sorted(came_ms)
    came = came[: int(SHARE * len(came))]
    peak = max(Counter(at_ms // WINDOW_MS for at_ms in came).values())
    seconds = max(came[-1], WINDOW_MS) / WINDOW_MS
    return peak / (len(came) / seconds)
