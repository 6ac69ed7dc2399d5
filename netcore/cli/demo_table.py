"""What the demo shows, as lines of text: pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Final

from .demo_accounting import NodeCount, Verdict

__all__ = ["drop_reasons", "hops_text", "node_table", "picture", "round_trips", "sums"]

_COLUMNS: Final = ("sent", "delivered", "relayed", "dropped", "refused")
_STEP: Final = 6  # columns from one node to the next


def picture(
    members: Sequence[int], links: Collection[tuple[int, int]], dead: Collection[int] = ()
) -> list[str]:
    """Draw the nodes in a line, and the links that skip nodes below it.

    Args:
        members: Nodes with ids of one digit, in the order of the line.
        links: Pairs, the node that comes first in the line first.
        dead: Nodes that are crossed out.
    """
    at = {node: number * _STEP for number, node in enumerate(members)}
    line = ""
    for node, following in zip(members, [*members[1:], None], strict=True):
        line += "x" if node in dead else str(node)
        line += " --- " if (node, following) in links else "     "
    lines = [line.rstrip()]
    for a, b in sorted(links):
        if at[b] - at[a] > _STEP:
            lines.append(" " * at[a] + "+" + "-" * (at[b] - at[a] - 1) + "+")
    return lines


def node_table(counts: Sequence[NodeCount], dead: Collection[int] = ()) -> list[str]:
    """Return a line per node and their sum; dead nodes are marked with a star."""
    lines = ["node " + "".join(f"{name:>11}" for name in _COLUMNS)]
    rows = [[getattr(count, name) for name in _COLUMNS] for count in counts]
    for count, row in zip(counts, rows, strict=True):
        name = f"{count.node_id}*" if count.node_id in dead else f"{count.node_id} "
        lines.append(f"{name:>5}" + _cells(row))
    totals = [sum(column) for column in zip(*rows, strict=True)]
    return [*lines, "all  " + _cells(totals)]


def _cells(numbers: Sequence[int]) -> str:
    return "".join(f"{number:>11,}" for number in numbers)


def round_trips(samples: Mapping[tuple[int, int], Sequence[int]], caller: int) -> str:
    """Return the median round trip of a node's calls, by the number of hops.

    Args:
        samples: (caller, hops) -> microseconds.
        caller: Whose.
    """
    parts = [
        f"{hops_text(hops)} {median(took_us) / 1_000:.2f} ms"
        for (node, hops), took_us in sorted(samples.items())
        if node == caller and took_us
    ]
    return ", ".join(parts) or "none yet"


def hops_text(hops: int) -> str:
    """Return "1 hop", "2 hops"."""
    return f"{hops} hop" if hops == 1 else f"{hops} hops"


def drop_reasons(drops: Mapping[tuple[int, str], int]) -> str:
    """Return how many were dropped where and why.

    Args:
        drops: (node, name of the counter) -> number.
    """
    return ", ".join(
        f"{number} {name.removeprefix('dropped_').replace('_', ' ')} at node {node}"
        for (node, name), number in drops.items()
    )


def sums(verdict: Verdict, killed: int | None) -> str:
    """Return the equation that the demo is about."""
    text = f"sent {verdict.sent:,} = delivered {verdict.delivered:,} + dropped {verdict.dropped:,}"
    return text if killed is None else f"{text} + lost with node {killed}: {verdict.lost:,}"
