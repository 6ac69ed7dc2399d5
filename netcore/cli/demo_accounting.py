"""Do the demo's sums agree? A pure function over what the nodes counted and wrote down.

Facts first:

- Each node's counters must equal what its own code wrote down: ``messages_sent`` the messages it
  stamped, ``messages_delivered`` those that arrived. So a frame that netcore loses, doubles or
  counts twice shows, whichever it is.
- A message that was sent and arrived nowhere is *missing*. It was dropped by a living node, which
  counted it, or it was inside the killed one, or on its way there: lost with it. Hence
  sent = delivered + dropped + lost.
- Only the kill may cost messages: a missing one must have been sent in its moment, on a path over
  the killed node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from .demo_records import Received, Sent

__all__ = ["Kill", "NodeCount", "Verdict", "account"]

#: Problems of one kind that are spelled out; the rest is only counted.
MAX_EXAMPLES: Final = 3

Stamp = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCount:
    """The last counters of one node; of a killed one, those before it died.

    Attributes:
        node_id: The node.
        sent: ``messages_sent``.
        delivered: ``messages_delivered``.
        relayed: ``messages_relayed``.
        dropped: Sum of the ``dropped_*`` counters.
        refused: Sends that raised.
        hook_errors: Exceptions in the demo's own hooks.
        answers_late: Answers that came after the caller had given up.
    """

    node_id: int
    sent: int
    delivered: int
    relayed: int = 0
    dropped: int = 0
    refused: int = 0
    hook_errors: int = 0
    answers_late: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """Which node was killed, and the moment in which that may have cost messages.

    Attributes:
        node_id: The node.
        from_us: Messages sent earlier had arrived by the kill.
        until_us: Messages sent later found the other way.
    """

    node_id: int
    from_us: int
    until_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The sums, and everything that is wrong with them.

    Attributes:
        sent: By all nodes.
        delivered: At all nodes.
        dropped: By living nodes, counted.
        lost: With the killed node.
        missing: The messages that did not arrive: dropped and lost.
        problems: One sentence each; empty: all is well.
    """

    sent: int
    delivered: int
    dropped: int
    lost: int
    missing: tuple[Sent, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the sums agree and nothing was lost that should not have been."""
        return not self.problems


def account(
    counts: Sequence[NodeCount],
    sent: Iterable[Sent],
    received: Iterable[Received],
    kill: Kill | None,
) -> Verdict:
    """Compare what was counted with what was written down.

    Args:
        counts: Of every node, the killed one included.
        sent: What every node wrote down.
        received: Likewise.
        kill: None: no node was killed, so nothing may be missing.
    """
    by_stamp = {(s.origin, s.number): s for s in sent}
    arrivals = list(received)
    arrived = {(r.origin, r.number) for r in arrivals}
    missing = tuple(s for stamp, s in by_stamp.items() if stamp not in arrived)
    dropped = sum(count.dropped for count in counts)
    lost = len(missing) - dropped
    problems = [
        *_counter_problems(counts, by_stamp, arrivals),
        *_arrival_problems(by_stamp, arrivals),
        *_loss_problems(missing, kill),
    ]
    if lost < 0:
        problems.append(f"{dropped} drops were counted, but only {len(missing)} messages miss")
    if kill is None and lost > 0:
        problems.append(f"{lost} messages vanished without a counter")
    return Verdict(
        sent=sum(count.sent for count in counts),
        delivered=sum(count.delivered for count in counts),
        dropped=dropped,
        lost=lost,
        missing=missing,
        problems=tuple(problems),
    )


def _counter_problems(
    counts: Sequence[NodeCount], by_stamp: dict[Stamp, Sent], arrivals: Sequence[Received]
) -> list[str]:
    sent = Counter(origin for origin, _ in by_stamp)
    delivered = Counter(arrival.node for arrival in arrivals)
    problems = []
    for count in counts:
        node = count.node_id
        if count.sent != sent[node]:
            problems.append(f"node {node} counts {count.sent} sent, but wrote {sent[node]} down")
        if count.delivered != delivered[node]:
            problems.append(
                f"node {node} counts {count.delivered} delivered, but {delivered[node]} arrived"
            )
        if count.hook_errors:
            problems.append(f"node {node}: {count.hook_errors} hooks raised")
        if count.answers_late:
            problems.append(
                f"node {node}: {count.answers_late} answers came after the caller had given up"
            )
    strangers = (set(sent) | set(delivered)) - {count.node_id for count in counts}
    problems += [f"node {node} gave no counters" for node in sorted(strangers)]
    return problems


def _arrival_problems(by_stamp: dict[Stamp, Sent], arrivals: Sequence[Received]) -> list[str]:
    times = Counter((r.origin, r.number) for r in arrivals)
    doubled = [f"{_name(stamp)} arrived {n} times" for stamp, n in times.items() if n > 1]
    unknown, astray = [], []
    for arrival in arrivals:
        stamp = (arrival.origin, arrival.number)
        message = by_stamp.get(stamp)
        if message is None:
            unknown.append(f"{_name(stamp)} arrived at node {arrival.node}, but was never sent")
        elif arrival.node not in message.to:
            astray.append(f"{_name(stamp)} for {message.to} arrived at node {arrival.node}")
    return [*_some(doubled), *_some(unknown), *_some(astray)]


def _loss_problems(missing: Sequence[Sent], kill: Kill | None) -> list[str]:
    unexplained = [
        f"{_name((s.origin, s.number))} by {s.how} for {s.to} over {s.path} is missing: {why}"
        for s in missing
        if (why := _unexplained(s, kill))
    ]
    return _some(unexplained)


def _unexplained(message: Sent, kill: Kill | None) -> str:
    """Return why the kill does not explain that this message is missing; empty: it does."""
    if kill is None:
        return "no node was killed"
    if message.at_us < kill.from_us:
        return f"sent {(kill.from_us - message.at_us) / 1_000:.0f} ms too early for the kill"
    if message.at_us > kill.until_us:
        return f"sent {(message.at_us - kill.until_us) / 1_000:.0f} ms after routes had healed"
    if kill.node_id not in message.path:
        return f"its path did not lead over node {kill.node_id}"
    return ""


def _some(problems: Sequence[str]) -> list[str]:
    more = len(problems) - MAX_EXAMPLES
    return [*problems[:MAX_EXAMPLES], *([f"... and {more} more like that"] if more > 0 else [])]


def _name(stamp: Stamp) -> str:
    return f"message {stamp[0]}/{stamp[1]}"
