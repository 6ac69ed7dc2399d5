"""Figures from stamps: gaps, percentiles. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

__all__ = ["count_missing", "first_after", "gaps", "longest_gap_ms", "percentile"]

NS_PER_MS: Final = 1_000_000


def gaps(
    stamps: Sequence[int], since_ns: int, until_ns: int, shortest_ms: float
) -> list[tuple[float, float]]:
    """Return the times without an arrival within a window: (begin, length) in ms.

    A gap counts whole when it ends in the window, also when it began before; the time from the last
    arrival to the end of the window is one too.

    Args:
        stamps: Of arrivals, ascending.
        since_ns: Begin of the window, from which the begins are counted; negative is before.
        until_ns: Its end.
        shortest_ms: Shorter ones are left out.
    """
    inside = [stamp for stamp in stamps if stamp <= until_ns]
    found = [
        ((a - since_ns) / NS_PER_MS, (b - a) / NS_PER_MS)
        for a, b in zip(inside, [*inside[1:], until_ns], strict=False)
        if b > since_ns
    ]
    return [(begin, length) for begin, length in found if length >= shortest_ms]


def longest_gap_ms(stamps: Sequence[int], since_ns: int, until_ns: int) -> float:
    """Return the longest of them; the whole window when nothing ever came."""
    lengths = [length for _, length in gaps(stamps, since_ns, until_ns, 0.0)]
    return max(lengths, default=(until_ns - since_ns) / NS_PER_MS)


def first_after(stamps: Sequence[int], since_ns: int) -> int | None:
    """Return the first arrival after a moment; None: there was none."""
    return next((stamp for stamp in stamps if stamp > since_ns), None)


def count_missing(numbers: Sequence[int], first: int, until: int) -> tuple[int, int]:
    """Return how many of the messages from ``first`` on did not come, and how many came again."""
    came = [number for number in numbers if first <= number < until]
    different = len(set(came))
    return until - first - different, len(came) - different


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that this share of the values does not exceed.

    Raises:
        ValueError: There are none.
    """
    if not values:
        raise ValueError("no values, no percentile")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
