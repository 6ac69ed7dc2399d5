"""What the parent of the demo knows: everything its workers reported, in one place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import final

from netcore.stats import DROP_COUNTERS

from .demo_accounting import NodeCount
from .demo_records import Linked, Received, Report, Sent

__all__ = ["Ledger"]


@final
class Ledger:
    """Collects reports; answers what the story asks.

    Attributes:
        reports: The last one of each node.
        sent: Stamp -> message, of all nodes.
        received: Of all nodes.
        rerouted_us: When a node last reported other ways than before.
        links: (node, link event), in order.
        round_trips: (caller, hops) -> microseconds, since they were last cleared.
    """

    def __init__(self) -> None:
        self.reports: dict[int, Report] = {}
        self.sent: dict[tuple[int, int], Sent] = {}
        self.received: list[Received] = []
        self.rerouted_us = 0
        self.links: list[tuple[int, Linked]] = []
        self.round_trips: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self._missing: dict[tuple[int, int], Sent] = {}
        self._early: set[tuple[int, int]] = set()

    def take(self, node_id: int, report: Report) -> None:
        """Take a report in."""
        before = self.reports.get(node_id)
        if before is None or before.paths != report.paths:
            self.rerouted_us = report.at_us
        self.reports[node_id] = report
        for message in report.sent:
            stamp = (message.origin, message.number)
            self.sent[stamp] = message
            # A receiver's report may be read before that of the sender.
            if stamp in self._early:
                self._early.remove(stamp)
            else:
                self._missing[stamp] = message
        for arrival in report.received:
            self.received.append(arrival)
            stamp = (arrival.origin, arrival.number)
            if self._missing.pop(stamp, None) is None:
                self._early.add(stamp)
        for trip in report.round_trips:
            self.round_trips[node_id, trip.hops].append(trip.took_us)

    # -- messages ----------------------------------------------------------------------------------

    def missing(self, node_id: int | None = None) -> list[Sent]:
        """Return what was sent and has not arrived, all of it or what is from or for one node."""
        return [
            message
            for message in self._missing.values()
            if node_id is None or message.origin == node_id or node_id in message.to
        ]

    def last_hops(self, origin: int, node: int) -> int | None:
        """Return how many links the last message by node id went over; None: there was none."""
        for arrival in reversed(self.received):
            if (arrival.origin, arrival.node) == (origin, node) and arrival.hops is not None:
                message = self.sent.get((origin, arrival.number))
                if message is not None and message.how == "node":
                    return arrival.hops
        return None

    def longest_silence_us(self, origin: int, node: int, from_us: int, until_us: int) -> int:
        """Return the longest time between two arrivals of a flow, within these bounds."""
        times = sorted(
            arrival.at_us
            for arrival in self.received
            if (arrival.origin, arrival.node) == (origin, node)
            and from_us <= arrival.at_us <= until_us
        )
        return max((b - a for a, b in pairwise(times)), default=0)

    # -- routes ------------------------------------------------------------------------------------

    def path(self, origin: int, node: int) -> tuple[int, ...]:
        """Return the nodes from one to another, the latter included; empty: no way is known."""
        report = self.reports.get(origin)
        return () if report is None else report.paths.get(node, ())

    def flows_over(self, relay: int, members: Iterable[int]) -> list[tuple[int, int]]:
        """Return who sends to whom over a relay, the longest way first."""
        nodes = [node for node in members if node != relay]
        flows = [(a, b) for a in nodes for b in nodes if relay in self.path(a, b)]
        return sorted(flows, key=lambda flow: len(self.path(*flow)), reverse=True)

    def knows_all_ways(self, members: Iterable[int], without: int | None = None) -> bool:
        """Return whether every member knows a way to every other, not over one node."""
        nodes = [node for node in members if node != without]
        paths = [self.path(a, b) for a in nodes for b in nodes if a != b]
        return all(path and without not in path for path in paths)

    def links_now(self) -> set[tuple[int, int]]:
        """Return the pairs of nodes that both say they are linked, the lower id first."""
        return {
            (node, peer)
            for node, report in self.reports.items()
            for peer in report.peers
            if node < peer and peer in self.reports and node in self.reports[peer].peers
        }

    def links_closed(self, node_id: int, since_us: int) -> list[int]:
        """Return when the neighbours of a node lost their links to it."""
        return [
            event.at_us
            for _, event in self.links
            if event.peer == node_id and not event.up and event.at_us >= since_us
        ]

    # -- counters ----------------------------------------------------------------------------------

    def counts(self) -> list[NodeCount]:
        """Return the last counters of every node."""
        return [
            NodeCount(
                node_id=node,
                sent=report.stats["messages_sent"],
                delivered=report.stats["messages_delivered"],
                relayed=report.stats["messages_relayed"],
                dropped=sum(report.stats[name] for name in DROP_COUNTERS),
                refused=report.refused,
                hook_errors=report.stats["hook_errors"],
                answers_late=report.stats["answers_late"],
            )
            for node, report in sorted(self.reports.items())
        ]

    def drops(self) -> dict[tuple[int, str], int]:
        """Return the drops that happened, by node and the name of the counter."""
        return {
            (node, name): report.stats[name]
            for node, report in sorted(self.reports.items())
            for name in DROP_COUNTERS
            if report.stats[name]
        }

    def progress(self, members: Iterable[int]) -> tuple[int, int, int]:
        """Return what changes as long as something is under way: sent, received, open calls."""
        pending = sum(self.reports[node].stats["calls_pending"] for node in members)
        return len(self.sent), len(self.received), pending
