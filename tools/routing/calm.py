"""Calm: what holds while nothing breaks: short paths, little talk, no flapping, quick moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from netcore import wire
from netcore.sim.paths import Quality

from .lab import Lab

__all__ = ["Calm", "Moves", "look", "move", "shake"]

STEADY_MS: Final = 60_000
SHAKE_MS: Final = 300_000
SHAKE_EVERY_MS: Final = 250
FAST_MS, SLOW_MS = 2, 40  # one way; about 5 and 80 ms there and back
MOVE_MS: Final = 4_000


@final
@dataclass(slots=True)
class Calm:
    """A network at rest.

    Attributes:
        stretches: Of each pair: what messages take by the tables, over the shortest path.
        bytes_per_s: Of routing messages, per link, both directions together.
    """

    stretches: list[float]
    bytes_per_s: float


@final
@dataclass(slots=True)
class Moves:
    """Links that went from 5 to 80 ms; ``moved_ms``: when the traffic had left each."""

    moved_ms: list[int]


def look(lab: Lab) -> Calm:
    """Compare all paths with Dijkstra's, and listen for a while."""
    best = lab.oracle()
    stretches = [
        _walked(lab, source, dest) / must[0]
        for source, row in best.items()
        for dest, must in row.items()
    ]
    lab.clear()
    lab.network.run(STEADY_MS)
    size = lab.traffic.size + lab.traffic.digests
    return Calm(stretches, size / len(lab.network.links) / (STEADY_MS / 1_000))


def _walked(lab: Lab, source: int, dest: int) -> float:
    """Return the score of the way that a message takes; infinite when it does not arrive."""
    routers = lab.routers()
    at, before, score = source, wire.NO_NODE, 0
    for _ in range(len(routers)):
        router = routers[at]
        action, conn, peer = router.table.path_to_node(dest, before)
        if action != wire.ACTION_NEXT:
            break
        score += router.direct_ms(conn) + wire.HOP_COST_MS
        at, before = peer, at
        if at == dest:
            return score
    return float("inf")


def shake(lab: Lab) -> int:
    """Let all round trips vary by 15 % for five minutes; return the most changes of a metric."""
    network = lab.network
    means = {}
    for link in network.links:
        means[link.a, link.b] = lab.rng.randint(10, 100)
        lab.set_latency(link.a, link.b, means[link.a, link.b])
    network.run(5_000)
    lab.settle()
    lab.clear()
    for _ in range(SHAKE_MS // SHAKE_EVERY_MS):
        for (a, b), mean in means.items():
            quality = Quality(latency_ms=round(mean * lab.rng.uniform(0.85, 1.15)))
            network.path(a, b).quality = network.path(b, a).quality = quality
        network.run(SHAKE_EVERY_MS)
    ends = [(node_id, peer) for _, node_id, peer in lab.causes]
    return max(map(ends.count, set(ends)), default=0)


def move(lab: Lab, count: int) -> Moves:
    """Slow links down whose traffic has another way; return when it had left each of them."""
    network, moved = lab.network, []
    for link in lab.rng.sample(network.links, min(4 * count, len(network.links))):
        a, b = link.a, link.b
        latency_ms = network.path(a, b).quality.latency_ms
        lab.set_latency(a, b, FAST_MS)
        network.run(5_000)
        lab.settle()
        if lab.routers()[a].best_hop(b) == b and _around(lab, a, b) < 2 * SLOW_MS:
            network.run(lab.rng.randrange(1_000))
            begin_ms = network.now_ms
            lab.set_latency(a, b, SLOW_MS)
            while lab.routers()[a].best_hop(b) == b and network.now_ms - begin_ms < MOVE_MS:
                network.run(10)
            moved.append(network.now_ms - begin_ms)
        lab.set_latency(a, b, latency_ms)
        if len(moved) == count:
            break
    return Moves(moved)


def _around(lab: Lab, a: int, b: int) -> float:
    """Return the score of the best way from a to b that is not the link."""
    ways = lab.routers()[a].ways(b)
    return min((way.metric.score for way in ways if way.node_id != b), default=float("inf"))
