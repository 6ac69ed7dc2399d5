"""Oracle: what the tables must be, computed from the whole network at once.

Facts first:

- It shares nothing with ``LayeredRouter`` but the metrics of direct links, which it takes from
  there: how good a link is, is measured, and counts as used by the node that measured it.
- A slot (layer, index) of a node stands for all nodes with that byte which share the higher bytes
  with it; its paths stay among nodes that share those. So each slot is a shortest-path problem in a
  part of the network, towards a set of nodes. A service is one in all of it.
- What is compared: which places there are, the best path's score, its number of hops, and its next
  hop, which is unique: fewer hops and then the lower neighbour decide between equal scores.
- What is not: which of several paths of equal score a hop list shows further on, and the alternate,
  of which the protocol allows more than one fixed point. Of it must hold that it is a live link.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import Any

from netcore import LayeredRouter, wire
from netcore.sim import Network

from .violation import Violation

__all__ = ["Best", "Metrics", "best_paths", "check_owners", "compare", "owner_of"]

#: node -> neighbour -> latency that the node uses
Metrics = dict[int, dict[int, int]]
#: score, hops, next hop
Best = tuple[int, int, int]
#: a slot (layer, index) or a service (-1, id)
Place = tuple[int, int]


def best_paths(
    metrics: Metrics, services: Mapping[int, Iterable[int]]
) -> dict[int, dict[Any, Best]]:
    """Return node -> place -> best path."""
    found: dict[int, dict[Any, Best]] = {node: {} for node in metrics}
    for layer in range(wire.LAYERS):
        shift = 8 * layer
        regions: dict[int, list[int]] = {}
        for node in metrics:
            regions.setdefault(node >> shift + 8, []).append(node)
        for members in regions.values():
            for index in {node >> shift & 0xFF for node in members}:
                goal = {node for node in members if node >> shift & 0xFF == index}
                for node, best in _towards(goal, metrics, set(members)).items():
                    found[node][layer, index] = best
    for service in {service for offered in services.values() for service in offered}:
        goal = {node for node in metrics if service in services[node]}
        for node, best in _towards(goal, metrics, set(metrics)).items():
            found[node][-1, service] = best
    return found


def _towards(goal: set[int], metrics: Metrics, members: set[int]) -> dict[int, Best]:
    """Return the best paths of these members to the nearest of some nodes; by Dijkstra."""
    cost: dict[int, tuple[int, int]] = {}
    heap = [(0, 0, node) for node in goal]
    while heap:
        score, hops, node = heapq.heappop(heap)
        if node in cost:
            continue
        cost[node] = score, hops
        for other in members:
            # What a hop costs is what the node that makes it has measured.
            if other not in cost and node in metrics[other]:
                step = metrics[other][node] + wire.HOP_COST_MS
                heapq.heappush(heap, (score + step, hops + 1, other))
    return {
        node: (*cost[node], _next_hop(node, cost, metrics))
        for node in members - goal
        if node in cost
    }


def _next_hop(node: int, cost: dict[int, tuple[int, int]], metrics: Metrics) -> int:
    return min(
        other
        for other, latency_ms in metrics[node].items()
        if other in cost
        and (cost[other][0] + latency_ms + wire.HOP_COST_MS, cost[other][1] + 1) == cost[node]
    )


def owner_of(key: int, nodes: Iterable[int]) -> int:
    """Return whose a key is: byte by byte, the highest first, the least XOR."""
    return min(nodes, key=lambda node: node ^ key)


def compare(network: Network, services: Mapping[int, Iterable[int]]) -> str | None:
    """Return in which way the tables are not what they must be; None: in none."""
    routers: dict[int, LayeredRouter] = {}
    for node_id in network.node_ids:
        router = network.node(node_id).router
        if isinstance(router, LayeredRouter):
            routers[node_id] = router
    dumps: dict[int, Any] = {node_id: router.dump() for node_id, router in routers.items()}
    metrics = {
        node_id: {link["node_id"]: link["latency_ms"] for link in dump["links"] if link["direct"]}
        for node_id, dump in dumps.items()
    }
    wanted = best_paths(metrics, services)
    for node_id, dump in dumps.items():
        shown = _shown(dump)
        must = wanted[node_id]
        if shown != must:
            place = min(p for p in {*shown, *must} if shown.get(p) != must.get(p))
            return f"node {node_id}, {place}: {shown.get(place)}, must be {must.get(place)}"
        if _written(routers[node_id]) != {place: best[2] for place, best in must.items()}:
            return f"node {node_id}: the table is not what the router has chosen"
    return None


def _shown(dump: dict[str, Any]) -> dict[Place, Best]:
    """Return the best paths that a router has."""
    shown: dict[Place, Best] = {}
    places = [((slot["layer"], slot["index"]), slot) for slot in dump["slots"]]
    places += [((-1, item["service_id"]), item) for item in dump["services"] if not item["local"]]
    for place, entry in places:
        best = next(c for c in entry["candidates"] if c["role"] == "best")
        shown[place] = best["score"], len(best["hops"]), best["node_id"]
    return shown


def _written(router: LayeredRouter) -> dict[Place, int]:
    """Return the next hops in the table."""
    slots = {(layer, index): peer for layer, index, _, peer, *_ in router.table.slots()}
    services = {(-1, s): peer for s, local, _, peer, *_ in router.table.services() if not local}
    return {**slots, **services}


def check_owners(network: Network, keys: Iterable[int]) -> None:
    """Follow the tables to the owner of each key, from everywhere.

    Raises:
        Violation: Somebody ends elsewhere.
    """
    for key in keys:
        owner = owner_of(key, network.node_ids)
        for start in network.node_ids:
            end = _walk(network, start, key)
            if end != owner:
                raise Violation("owner", f"key {key:#x} is {owner}'s; from {start} it is {end}'s")


def _walk(network: Network, start: int, key: int) -> int | None:
    at, before = start, wire.NO_NODE
    for _ in range(wire.MAX_PATH_HOPS * wire.LAYERS):
        router = network.node(at).router
        if not isinstance(router, LayeredRouter):
            return None
        action, _, peer = router.table.path_to_key(key, before)
        if action == wire.ACTION_LOCAL:
            return at
        if action != wire.ACTION_NEXT:
            return None
        at, before = peer, at
    return None
