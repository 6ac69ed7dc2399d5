"""What a ``LayeredRouter`` knows, for people: every way to every place, and why one was chosen.

Facts first:

- A router does not know nodes but *places*: a slot stands for all nodes behind one byte of the id,
  only in the lowest layer for a single one. A way to a slot is a way to the node that it ends at,
  which knows the others. So which nodes exist is known as far as they appear on a way.
- Each neighbour announces one way to a service: to the provider that is nearest to it. So one
  provider per link is known at most, and a farther one may be offering the service unseen.
- Ways are listed here in the order of travel, the neighbour first; metrics and announcements list
  them from the destination.
- A suspect link adds ``wire.SUSPECT_LATENCY_MS`` to a way. That is in its score and not in the
  latency that is shown.
"""

from __future__ import annotations

from . import wire
from ._typing import TYPE_CHECKING, Final, Literal, final
from .ids import ServiceId, check_node_id
from .router import FIRST_SERVICE, Path, candidate_of
from .values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .routing import LayeredRouter

__all__ = [
    "KnownNode",
    "KnownService",
    "Route",
    "RouteCandidate",
    "dump_places",
    "known_nodes",
    "known_routes",
    "known_services",
    "services_at",
]

Role = Literal["best", "alternate", "spare"]

_LAST_RESORT: Final = "the last resort, a link on the way is suspect"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RouteCandidate:
    """One way to a destination.

    Attributes:
        via: The neighbour it begins with.
        conn_id: The link to that neighbour.
        path: The nodes it visits, ``via`` first, the destination last.
        latency_ms: Of the whole way: the round trips of its links, as their nodes measured them.
        bandwidth_kbps: Of its narrowest link; None: not known.
        score: What it was judged by; lower is better.
        role: "best" is used; "alternate" takes over when the best one goes, and for messages that
            come from the best one's neighbour; "spare" is neither.
        why: The reason, for example "score 35 > 12".
    """

    via: int
    conn_id: int
    path: tuple[int, ...]
    latency_ms: int
    bandwidth_kbps: int | None
    score: int
    role: Role
    why: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where messages for one destination go, and what else there would be.

    Attributes:
        destination: In words: "node 7", "nodes 512..767", "service 30".
        nodes: The ids that the destination stands for: whoever of them is there is reached this
            way. Empty for a service.
        service_id: The service; None for nodes.
        is_local: This node offers the service: messages stay here, the candidates only wait.
        via: The neighbour that messages go to; None: they stay here.
        alternate: The neighbour that takes over, None: there is none.
        latency_ms: Of the way in use; likewise the next two. None when messages stay here.
        bandwidth_kbps: None: not known.
        score: Lower is better.
        candidates: All ways, the best first.
    """

    destination: str
    nodes: range
    service_id: int | None
    is_local: bool
    via: int | None
    alternate: int | None
    latency_ms: int | None
    bandwidth_kbps: int | None
    score: int | None
    candidates: tuple[RouteCandidate, ...]

    def lines(self) -> list[str]:
        """Return it as text: the choice, then a line for each candidate with its reason."""
        if self.is_local:
            head = "offered here"
        else:
            path = self.candidates[0].path
            head = f"over {_names(path)}, score {self.score}"
            head += "" if self.alternate is None else f"; else over node {self.alternate}"
        return [f"{self.destination}: {head}", *(_line(way) for way in self.candidates)]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KnownNode:
    """A node that is there, as far as this node's ways show.

    Attributes:
        node_id: The node.
        is_neighbour: There is a link to it that routes use.
        via: The neighbour that messages for it go to.
        path: The nodes they visit, as far as is known from here. It ends with ``node_id``, or with
            the node that knows more.
        latency_ms: Of that path; None when it is not known up to ``node_id``.
        services: Those known to be offered there; maybe not all.
    """

    node_id: int
    is_neighbour: bool
    via: int
    path: tuple[int, ...]
    latency_ms: int | None
    services: tuple[int, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KnownService:
    """A service that can be reached.

    Attributes:
        service_id: The service.
        is_local: This node offers it.
        via: The neighbour that messages for it go to; None: they stay here.
        nodes: The providers that are known, the one in use first; maybe not all.
    """

    service_id: int
    is_local: bool
    via: int | None
    nodes: tuple[int, ...]


def known_routes(router: LayeredRouter) -> list[Route]:
    """Return a row for every destination: nodes ascending by layer, then services."""
    return [_route(router, place) for place in router.places()]


def known_nodes(router: LayeredRouter) -> list[KnownNode]:
    """Return every node that some way visits, ascending; this one is not among them."""
    ways = [way for place in router.places() for way in router.ways(place)]
    offers = _providers_by_service(router)
    neighbours = {way.node_id for way in ways if len(way.metric.hops) == 1}
    found = []
    for node_id in sorted({hop for way in ways for hop in way.metric.hops}):
        way = router.next_path(node_id)
        if way is None:
            continue  # what was said of it does not fit together, at this moment
        path = way.metric.hops[::-1]
        latency_ms = _latency_ms(way) if path[-1] == node_id else None
        if node_id in path:
            path = path[: path.index(node_id) + 1]
        found.append(
            KnownNode(
                node_id=node_id,
                is_neighbour=node_id in neighbours,
                via=way.node_id,
                path=path,
                latency_ms=latency_ms,
                services=tuple(s for s, providers in offers.items() if node_id in providers),
            )
        )
    return found


def known_services(router: LayeredRouter) -> list[KnownService]:
    """Return every service that can be reached, ascending, those of this node included."""
    found = []
    for service_id, providers in _providers_by_service(router).items():
        is_local = providers[0] == router.node_id
        best, _ = router.chosen(FIRST_SERVICE + service_id)
        found.append(
            KnownService(
                service_id=service_id,
                is_local=is_local,
                via=None if is_local or best is None else best.node_id,
                nodes=providers,
            )
        )
    return found


def services_at(router: LayeredRouter, node_id: int) -> tuple[ServiceId, ...]:
    """Return the services that a node is known to offer, ascending.

    Raises:
        LocalError: It is no node id.
    """
    check_node_id(node_id)
    offers = _providers_by_service(router)
    return tuple(ServiceId(s) for s, providers in offers.items() if node_id in providers)


def dump_places(router: LayeredRouter) -> dict[str, object]:
    """Return the slots and services as ``LayeredRouter.dump`` has them."""
    places = router.places()
    return {
        "slots": [
            {"layer": place >> 8, "index": place & 0xFF, "candidates": _dump(router, place)}
            for place in places
            if place < FIRST_SERVICE
        ],
        "services": [
            {
                "service_id": place - FIRST_SERVICE,
                "local": router.offers(place - FIRST_SERVICE),
                "candidates": _dump(router, place),
            }
            for place in places
            if place >= FIRST_SERVICE
        ],
    }


# -- the parts -----------------------------------------------------------------------------------


def _dump(router: LayeredRouter, place: int) -> list[dict[str, object]]:
    best, other = router.chosen(place)
    return [
        {
            "conn_id": way.conn_id,
            "node_id": way.node_id,
            "latency_ms": way.metric.latency_ms,
            "hops": list(way.metric.hops),
            "bandwidth_kbps": way.metric.bandwidth_kbps,
            "score": way.metric.score,
            "role": _role(way, best, other),
        }
        for way in router.ways(place)
    ]


def _providers_by_service(router: LayeredRouter) -> dict[int, tuple[int, ...]]:
    """Return the nodes that offer each service, the one in use first."""
    found = {}
    for place in router.places():
        if place >= FIRST_SERVICE:
            here = [router.node_id] if router.offers(place - FIRST_SERVICE) else []
            ends = [way.metric.hops[0] for way in router.ways(place)]
            found[place - FIRST_SERVICE] = tuple(dict.fromkeys([*here, *ends]))
    return found


def _route(router: LayeredRouter, place: int) -> Route:
    best, other = router.chosen(place)
    is_local = place >= FIRST_SERVICE and router.offers(place - FIRST_SERVICE)
    nodes = range(0) if place >= FIRST_SERVICE else _nodes_of(router.node_id, place)
    used = None if is_local else best
    return Route(
        destination=_destination(place, nodes),
        nodes=nodes,
        service_id=place - FIRST_SERVICE if place >= FIRST_SERVICE else None,
        is_local=is_local,
        via=None if used is None else used.node_id,
        alternate=None if used is None or other is None else other.node_id,
        latency_ms=None if used is None else _latency_ms(used),
        bandwidth_kbps=None if used is None else used.metric.bandwidth_kbps or None,
        score=None if used is None else used.metric.score,
        candidates=tuple(
            _candidate(way, _role(way, best, other), best, is_local) for way in router.ways(place)
        ),
    )


def _nodes_of(local_node: int, place: int) -> range:
    """Return the ids in a slot, which share the higher layers with this node."""
    shift = 8 * (place >> 8)
    first = (local_node >> shift >> 8 << 8 | place & 0xFF) << shift
    return range(first, min(first + (1 << shift), wire.NO_NODE))


def _destination(place: int, nodes: range) -> str:
    if place >= FIRST_SERVICE:
        return f"service {place - FIRST_SERVICE}"
    return f"node {nodes[0]}" if len(nodes) == 1 else f"nodes {nodes[0]}..{nodes[-1]}"


def _role(way: Path, best: Path | None, other: Path | None) -> Role:
    # Not by identity: a link that is set again with the metric it has makes a new, equal path.
    return "best" if way == best else "alternate" if way == other else "spare"


def _candidate(way: Path, role: Role, best: Path | None, is_local: bool) -> RouteCandidate:
    metric = way.metric
    return RouteCandidate(
        via=way.node_id,
        conn_id=way.conn_id,
        path=metric.hops[::-1],
        latency_ms=_latency_ms(way),
        bandwidth_kbps=metric.bandwidth_kbps or None,
        score=metric.score,
        role=role,
        why=_why(way, role, best, is_local),
    )


def _latency_ms(way: Path) -> int:
    return way.metric.latency_ms % wire.SUSPECT_LATENCY_MS


def _why(way: Path, role: Role, best: Path | None, is_local: bool) -> str:
    """Return what a way lost by, and what keeps it from being the alternate."""
    if role == "best" or best is None:
        if is_local:
            return "waits: this node offers the service"
        return f"best: {_LAST_RESORT}" if way.metric.is_last_resort else "best"
    if role == "spare" and candidate_of(way) < candidate_of(best):
        return "makes a hop that is said to be lost"
    reason = _lost_by(way, best)
    if role == "alternate":
        return f"alternate: {reason}"
    if way.node_id == best.node_id:
        return f"{reason}, over the same neighbour"
    if best.node_id in way.metric.hops:
        return f"{reason}, visits the best one's neighbour"
    return reason


def _lost_by(way: Path, best: Path) -> str:
    """Return what decided between two ways, in the order of ``router.candidate_of``."""
    mine, its = way.metric, best.metric
    if mine.is_last_resort and not its.is_last_resort:
        return _LAST_RESORT
    if mine.score != its.score:
        return f"score {mine.score} > {its.score}"
    if len(mine.hops) != len(its.hops):
        return f"same score, more hops: {len(mine.hops)} > {len(its.hops)}"
    if mine.bandwidth_kbps != its.bandwidth_kbps:
        known = f"{mine.bandwidth_kbps} < {its.bandwidth_kbps} kbps"
        return f"same score, less bandwidth: {known if mine.bandwidth_kbps else 'not known'}"
    if way.node_id != best.node_id:
        return f"as good, higher neighbour id: {way.node_id} > {best.node_id}"
    return "as good, younger link"


def _names(path: Iterable[int]) -> str:
    first, *rest = path
    return f"node {first}" if not rest else f"nodes {' '.join(map(str, (first, *rest)))}"


def _line(way: RouteCandidate) -> str:
    path = " ".join(map(str, way.path))
    bandwidth = "" if way.bandwidth_kbps is None else f", {way.bandwidth_kbps} kbps"
    return f"  over {path}: {way.latency_ms} ms{bandwidth}, score {way.score}: {way.why}"
