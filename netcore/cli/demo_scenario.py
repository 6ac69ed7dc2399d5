"""The story of the demo: six nodes in a line, a shortcut, the death of a relay.

::

    1 --- 2 --- 3 --- 4 --- 5 --- 6
          +-----------------------+        the shortcut, dialled later

With the shortcut, nodes 2 to 6 form a ring. In a ring of odd length there is exactly one shortest
way between any two nodes, so as long as all links are equally fast everybody knows who uses which
relay, and any of 3, 4 and 5 can die without cutting anybody off.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, final

from .demo_accounting import Kill, NodeCount, Verdict, account
from .demo_cluster import Cluster
from .demo_director import Director
from .demo_ledger import Ledger
from .demo_records import now_us
from .demo_table import drop_reasons, hops_text, node_table, picture, round_trips, sums
from .screen import Screen

__all__ = ["Scenario", "Settings"]

NODES: Final = (1, 2, 3, 4, 5, 6)
FIRST: Final = NODES[0]
LAST: Final = NODES[-1]
SHORTCUT: Final = (2, 6)
#: Nodes that may die, the favourite first.
RELAYS: Final = (3, 4, 5)
ARCHIVES: Final = (FIRST, LAST)

#: Between two rounds of a node: a message to every other node, and one in each other way.
ROUND_MS: Final = 20
#: Between two messages of the flow that is watched when the relay dies.
STREAM_MS: Final = 2
#: How long before its death the silence of that flow is looked for.
STREAM_LEAD_US: Final = 50_000
#: A message is on its way for a few milliseconds; on a loaded machine for longer.
IN_FLIGHT_US: Final = 500_000
#: The relay dies when nobody has changed a route for this long.
CALM_ROUTES_US: Final = 300_000
#: After the traffic has ended, this many reports in a row must be the same.
QUIET_REPORTS: Final = 5
QUIET_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user may choose.

    Attributes:
        seconds: Of traffic; starting and ending come on top.
        seed: Of the choice of keys.
        backend: "fast", "pure" or None: the default.
        deadline_s: For everything.
        freeze: The relay hangs before it dies.
    """

    seconds: float = 10.0
    seed: int = 1
    backend: str | None = None
    deadline_s: float = 60.0
    freeze: bool = False


@final
class Scenario:
    """Tells the story once.

    Args:
        settings: What the user chose.
        screen: Where it is told.
        cluster: Its workers.
    """

    def __init__(self, settings: Settings, screen: Screen, cluster: Cluster) -> None:
        self._settings = settings
        self._screen = screen
        self._cluster = cluster
        self._ledger = Ledger()
        self._relay: int | None = None
        self._killed_us = 0
        self._watched: dict[tuple[int, int], tuple[int, ...]] = {}
        self._fork = (0, 0)  # the node before the relay, and whom it reaches over it
        self._director = Director(
            cluster, self._ledger, screen, settings.deadline_s, self._draw, self._status
        )

    def run(self) -> Verdict:
        """Tell it.

        Raises:
            DemoError: It cannot be told to its end.
        """
        self._start_nodes()
        self._make_line()
        self._run_line()
        self._add_shortcut()
        relay = self._choose_relay()
        self._retire(relay)
        kill = self._kill(relay)
        self._end_traffic()
        self._tell_gaps(kill)
        verdict = account(
            self._ledger.counts(), self._ledger.sent.values(), self._ledger.received, kill
        )
        self._conclude(verdict)
        return verdict

    # -- the parts ---------------------------------------------------------------------------------

    def _start_nodes(self) -> None:
        self._director.say(f"starting {len(NODES)} nodes, each a process of its own")
        secret = secrets.token_hex(32)  # over the pipe: a command line can be read by others
        for node in NODES:
            self._cluster.start(
                node,
                members=NODES,
                archives=ARCHIVES,
                secret=secret,
                seed=self._settings.seed,
                backend=self._settings.backend,
            )
        addrs = self._director.addrs
        self._director.wait("all nodes to listen", lambda: len(addrs) == len(NODES))

    def _make_line(self) -> None:
        line = list(pairwise(NODES))
        for link in line:
            self._dial(*link)
        links_s = self._director.wait("the links of the line", lambda: self._is_linked(line))
        routes_s = self._director.wait(
            "routes", lambda: self._ledger.knows_all_ways(NODES) and self._know_archive()
        )
        self._director.say(
            f"linked in a line; {1_000 * (links_s + routes_s):.0f} ms after the first dial "
            "every node has a way to every other"
        )

    def _run_line(self) -> None:
        self._director.say("traffic starts: by node id, by key, by service, locally, and calls")
        self._start_traffic(NODES)
        self._director.watch(self._settings.seconds * 0.3)
        hops = len(NODES) - 1
        self._director.wait("messages from end to end", lambda: self._end_to_end() == hops)
        self._tell_round_trips(f"{hops_text(hops)} from end to end")

    def _add_shortcut(self) -> None:
        a, b = SHORTCUT
        self._dial(a, b)
        took_s = self._director.wait("a shorter way", lambda: self._end_to_end() == 2)
        self._ledger.round_trips.clear()
        self._director.say(
            f"node {a} dialled node {b}; {1_000 * took_s:.0f} ms later messages from node {FIRST} "
            f"to node {LAST} take {hops_text(2)}"
        )
        self._director.watch(self._settings.seconds * 0.3)
        self._tell_round_trips("with the shortcut")

    def _choose_relay(self) -> int:
        """Return the node to kill: one that others need at the moment."""

        def in_use() -> list[int]:
            return [relay for relay in RELAYS if self._ledger.flows_over(relay, NODES)]

        self._director.wait("a relay in use", lambda: bool(in_use()))
        return in_use()[0]

    def _retire(self, relay: int) -> None:
        """Make a node relay only, so that nobody but itself has to know what it sent and got."""
        self._relay = relay
        self._start_traffic([node for node in NODES if node != relay])
        self._director.ask_all()
        self._director.wait(
            f"what is under way to and from node {relay}", lambda: not self._ledger.missing(relay)
        )
        self._director.wait("calm routes", lambda: self._is_calm(relay))
        self._director.ask_all()

    def _is_calm(self, relay: int) -> bool:
        is_calm = now_us() - self._ledger.rerouted_us > CALM_ROUTES_US
        return is_calm and bool(self._ledger.flows_over(relay, NODES))

    def _kill(self, relay: int) -> Kill:
        """Kill a node; wait until the others have found their ways around it."""
        neighbours = [link for link in self._ledger.links_now() if relay in link]
        self._watch_flows(relay)
        killed_us = self._killed_us = now_us()
        self._strike(relay)
        self._director.wait(
            "the other ways", lambda: self._ledger.knows_all_ways(NODES, without=relay)
        )
        healed_us = max(self._ledger.reports[node].at_us for node in self._cluster.living)
        self._cluster.kill(relay)

        def closed() -> list[int]:
            return self._ledger.links_closed(relay, killed_us)

        self._director.wait("its links to close", lambda: len(closed()) >= len(neighbours))
        self._director.say(
            f"{(healed_us - killed_us) / 1_000:.0f} ms later no node has a way over node {relay} "
            f"any more (its links closed after {(max(closed()) - killed_us) / 1_000:.1f} ms)"
        )
        self._explain("now")
        self._director.watch(self._settings.seconds * 0.3)
        return Kill(
            node_id=relay, from_us=killed_us - IN_FLIGHT_US, until_us=healed_us + IN_FLIGHT_US
        )

    def _watch_flows(self, relay: int) -> None:
        """Let two nodes that need the relay talk to each other without a pause."""
        flows = self._ledger.flows_over(relay, NODES)
        longest = next((flow for flow in flows if flow[::-1] in flows), flows[0])
        watched = [flow for flow in (longest, longest[::-1]) if flow in flows]
        self._watched = {flow: self._ledger.path(*flow) for flow in watched}
        for origin, to in watched:
            self._cluster.tell(origin, "stream", to=to, every_ms=STREAM_MS)
        self._director.watch(self._settings.seconds * 0.1)
        way = (longest[0], *self._watched[longest])
        self._fork = way[way.index(relay) - 1], longest[1]
        self._explain("before")

    def _strike(self, relay: int) -> None:
        if self._settings.freeze:
            self._cluster.freeze(relay)
            self._director.say(f"node {relay} hangs (SIGSTOP): its links stay open", "bad")
        else:
            self._cluster.kill(relay)
            self._director.say(f"node {relay} is killed (SIGKILL)", "bad")

    def _end_traffic(self) -> None:
        for node in self._cluster.living:
            self._cluster.tell(node, "stream", to=None, every_ms=STREAM_MS)
        self._start_traffic([])
        self._director.ask_all()
        same, before = 0, (0, 0, 0)
        while same < QUIET_REPORTS:
            self._director.watch(QUIET_S)
            self._director.ask_all()
            now = self._ledger.progress(self._cluster.living)
            same, before = (same + 1, now) if now == before and now[2] == 0 else (0, now)
        self._director.say("traffic has ended, nothing is under way any more")

    def _conclude(self, verdict: Verdict) -> None:
        self._screen.close()
        dead = self._cluster.dead
        self._screen.say()
        self._screen.say("\n".join(picture(NODES, self._ledger.links_now() - self._gone(), dead)))
        self._screen.say("\n".join(node_table(self._ledger.counts(), dead)))
        self._screen.say(f"  * until it was killed\n\n{sums(verdict, self._relay)}", "bold")
        if verdict.dropped:
            self._screen.say(f"dropped: {drop_reasons(self._ledger.drops())}")
        if verdict.ok:
            self._screen.say("the sums agree, and only the killed node cost messages", "good")
        for problem in verdict.problems:
            self._screen.say(f"WRONG: {problem}", "bad")

    # -- helpers -----------------------------------------------------------------------------------

    def _dial(self, node: int, to: int) -> None:
        self._cluster.tell(node, "dial", addr=self._director.addrs[to].addr)

    def _start_traffic(self, members: Sequence[int]) -> None:
        for node in self._cluster.living:
            targets = [n for n in members if n != node] if node in members else []
            self._cluster.tell(node, "traffic", targets=targets, every_ms=ROUND_MS)

    def _is_linked(self, links: Sequence[tuple[int, int]]) -> bool:
        return self._ledger.links_now().issuperset(links)

    def _know_archive(self) -> bool:
        return all(len(report.services) == 2 for report in self._ledger.reports.values())

    def _end_to_end(self) -> int | None:
        return self._ledger.last_hops(FIRST, LAST)

    def _gone(self) -> set[tuple[int, int]]:
        return {link for link in self._ledger.links_now() if self._cluster.dead & set(link)}

    # -- what is told ------------------------------------------------------------------------------

    def _draw(self) -> list[str]:
        if len(self._ledger.reports) < len(NODES):
            return []
        links = self._ledger.links_now() - self._gone()
        lines = [*picture(NODES, links, self._cluster.dead), ""]
        lines += node_table(self._ledger.counts(), self._cluster.dead)
        trips = round_trips(self._ledger.round_trips, FIRST)
        return ["", *lines, "", f"calls of node {FIRST}: {trips}"]

    def _status(self) -> str:
        counts: list[NodeCount] = self._ledger.counts()
        sent, delivered = (sum(getattr(c, name) for c in counts) for name in ("sent", "delivered"))
        return f"... {sent:,} messages sent, {delivered:,} delivered"

    def _tell_round_trips(self, where: str) -> None:
        trips = round_trips(self._ledger.round_trips, FIRST)
        self._director.say(f"{where}; calls of node {FIRST} took (median): {trips}")

    def _explain(self, when: str) -> None:
        """Show one choice: where the node before the relay sends, and why there."""
        node, to = self._fork
        lines = self._director.explain(node, to)
        self._director.say(f"{when}, as node {node} sees it: {lines[0] if lines else 'no way'}")
        for line in lines[1:]:
            self._screen.say(f"{'':9}{line}")

    def _tell_gaps(self, kill: Kill) -> None:
        for (origin, to), before in self._watched.items():
            begin_us = self._killed_us - STREAM_LEAD_US
            silence_us = self._ledger.longest_silence_us(origin, to, begin_us, kill.until_us)
            lost = [m for m in self._ledger.missing() if (m.origin, m.to) == (origin, (to,))]
            self._director.say(
                f"node {origin} to {to}: over {_way(before)}, then {silence_us / 1_000:.1f} ms of "
                f"silence and {len(lost)} lost, then over {_way(self._ledger.path(origin, to))}"
            )


def _way(path: Sequence[int]) -> str:
    return " ".join(map(str, path)) or "nothing"
