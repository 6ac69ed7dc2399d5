"""A network of LayeredRouters without links, services or time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from netcore import wire
from netcore.route import Metric
from netcore.routing import LayeredRouter

#: node -> neighbour -> latency of the link as that node measures it
Links = dict[int, dict[int, int]]


@dataclass
class RouterNet:
    """Routers joined by links; conn ids are made from the two node ids."""

    links: Links
    new_router: Callable[[int], LayeredRouter] = LayeredRouter
    routers: dict[int, LayeredRouter] = field(init=False)

    def __post_init__(self) -> None:
        self.routers = {node: self.new_router(node) for node in self.links}
        for node, neighbours in self.links.items():
            for neighbour, latency_ms in neighbours.items():
                metric = Metric(latency_ms, (neighbour,))
                self.routers[node].set_direct(conn_of(node, neighbour), neighbour, metric)

    def settle(self, rnd: Random, rounds: int = 200) -> None:
        """Carry syncs around, in random order, until nobody has anything new to say."""
        for router in self.routers.values():
            router.take_changes()
        pairs = [(a, b) for a in self.links for b in self.links[a]]
        for _ in range(rounds):
            rnd.shuffle(pairs)
            for sender, receiver in pairs:
                self.tell(sender, receiver)
            changes = [router.take_changes() for router in self.routers.values()]
            if not any(changes):
                return
        raise AssertionError("the tables do not settle")

    def tell(self, sender: int, receiver: int) -> None:
        """Carry one sync over one link, checking split horizon."""
        sync = self.routers[sender].create_sync(receiver)
        for _, metric in sync.places():
            assert receiver not in metric.hops
            assert sender not in metric.hops
        link = Metric(self.links[receiver][sender], (sender,))
        self.routers[receiver].apply_sync(conn_of(receiver, sender), sender, link, sync)

    def cut(self, a: int, b: int) -> None:
        """Take a link away; only its two ends know yet."""
        for node, other in ((a, b), (b, a)):
            del self.links[node][other]
            self.routers[node].del_direct(conn_of(node, other))

    def walk(self, start: int, ask: str, argument: int) -> tuple[str, list[int]]:
        """Follow the tables as a frame would; return how it ends and the nodes it visits."""
        visited, came_from = [start], wire.NO_NODE
        while len(visited) <= 4 * len(self.routers):
            table = self.routers[visited[-1]].table
            action, conn, node = getattr(table, ask)(argument, came_from)
            if action == wire.ACTION_LOCAL:
                return "local", visited
            if action == wire.ACTION_REJECT:
                return "reject", visited
            if node == came_from:
                return "returned", visited
            assert conn == conn_of(visited[-1], node)
            came_from = visited[-1]
            visited.append(node)
        return "loop", visited

    def scores(self, source: Iterable[int]) -> dict[int, int]:
        """Return the lowest score from each node to the nearest of these, by Dijkstra."""
        # A hop costs what the node that makes it has measured, so the search runs backwards.
        best: dict[int, int] = {}
        heap = [(0, node) for node in source]
        while heap:
            score, node = heapq.heappop(heap)
            if node in best:
                continue
            best[node] = score
            for other, neighbours in self.links.items():
                if node in neighbours and other not in best:
                    heapq.heappush(heap, (score + neighbours[node] + wire.HOP_COST_MS, other))
        return best


def conn_of(node: int, neighbour: int) -> int:
    return (node << 32 | neighbour) + 1


def random_links(rnd: Random, nodes: list[int], extra: int) -> Links:
    """Return a random connected graph, its latencies measured differently by the two ends."""
    links: Links = {node: {} for node in nodes}

    def join(a: int, b: int) -> None:
        latency_ms = rnd.randrange(100)
        links[a][b] = latency_ms + rnd.randrange(3)
        links[b][a] = latency_ms + rnd.randrange(3)

    for at in range(1, len(nodes)):
        join(nodes[at], nodes[rnd.randrange(at)])
    for _ in range(extra):
        join(*rnd.sample(nodes, 2))
    return links


def random_zones(rnd: Random) -> Links:
    """Return a graph of nodes in several zones, sub-zones and groups, each connected in itself."""
    links: Links = {}
    parts = [[rnd.randrange(256) for _ in range(4)]]
    nodes: set[int] = set()
    while len(nodes) < 24:
        part = list(rnd.choice(parts))
        for layer in range(rnd.randrange(4) + 1):
            part[layer] = rnd.randrange(256)
        node = int.from_bytes(bytes(reversed(part)), "big")
        if node != wire.NO_NODE:
            parts.append(part)
            nodes.add(node)
    links = {node: {} for node in nodes}
    for shift in (0, 8, 16, 24):
        _join_parts(rnd, links, shift)
    return links


def _join_parts(rnd: Random, links: Links, shift: int) -> None:
    """Connect the parts that differ in one layer only, each to one before it."""
    outer: dict[int, list[list[int]]] = {}
    parts: dict[int, list[int]] = {}
    for node in sorted(links):
        parts.setdefault(node >> shift, []).append(node)
    for prefix, members in parts.items():
        outer.setdefault(prefix >> 8, []).append(members)
    for siblings in outer.values():
        for at in range(1, len(siblings)):
            for _ in range(1 + rnd.randrange(2)):
                a, b = rnd.choice(siblings[at]), rnd.choice(siblings[rnd.randrange(at)])
                links[a][b] = links[b][a] = rnd.randrange(100)
