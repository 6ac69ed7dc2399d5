"""What a router is, the two trivial ones, and the values that routers exchange.

A *place* is anything a path can lead to, as one number: the slot of ``layer`` and ``index`` is
``layer << 8 | index`` (0..1023), a service is ``FIRST_SERVICE`` + its id (1024..1279).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType

from . import wire
from ._typing import Final, Protocol, final
from .errors import LocalError
from .ids import check_conn_id, check_node_id
from .route import Metric, RouteAction, RouteRule
from .values import dataclass, field

__all__ = [
    "FIRST_SERVICE",
    "PLACES",
    "Candidate",
    "ForceLocalRouter",
    "ForceNodeRouter",
    "Path",
    "RouterSync",
    "RouterTable",
    "as_alternate",
    "candidate_of",
    "choose",
    "offer_service",
]

FIRST_SERVICE: Final = wire.LAYERS * wire.SLOTS
PLACES: Final = FIRST_SERVICE + wire.SERVICES


class RouterTable(Protocol):
    """What a node asks for the next hop. Derive from it, or offer the same methods."""

    def path_to_node(self, dest: int) -> RouteAction:
        """Return the way to the node with this id."""
        raise NotImplementedError

    def path_to_key(self, key: int) -> RouteAction:
        """Return the way to the node closest to this key."""
        raise NotImplementedError

    def path_to_service(self, service_id: int) -> RouteAction:
        """Return the way to a node that offers this service."""
        raise NotImplementedError

    def path_to(self, rule: RouteRule, service_id: int) -> RouteAction:
        """Return the way for a message to ``service_id`` under this rule."""
        if rule.kind == wire.ROUTE_NODE:
            return self.path_to_node(rule.argument)
        if rule.kind == wire.ROUTE_KEY:
            return self.path_to_key(rule.argument)
        if rule.kind == wire.ROUTE_SERVICE:
            return self.path_to_service(service_id)
        return RouteAction.LOCAL

    def register_service(self, service_id: int) -> None:
        """This node offers a service; called for each behavior when the node is made."""
        return None


def offer_service(router: RouterTable, service_id: int, is_offered: bool) -> None:
    """Tell a router that its node offers a service, or no longer.

    Args:
        router: One of any kind. It may lack ``unregister_service``.
        service_id: 0..239.
        is_offered: Which.

    Raises:
        LocalError: The service is a reserved one, or the router cannot take it back.
    """
    if service_id >= wire.FIRST_RESERVED_SERVICE:
        raise LocalError(f"service {service_id} is netcore's own: it is never announced")
    if is_offered:
        router.register_service(service_id)
        return
    take_back: Callable[[int], object] | None = getattr(router, "unregister_service", None)
    if take_back is None:
        name = type(router).__name__
        raise LocalError(f"{name} cannot take a service back: it has no unregister_service()")
    take_back(service_id)


@final
class ForceLocalRouter(RouterTable):
    """Delivers everything here."""

    def path_to_node(self, dest: int) -> RouteAction:
        """Return LOCAL."""
        return RouteAction.LOCAL

    def path_to_key(self, key: int) -> RouteAction:
        """Return LOCAL."""
        return RouteAction.LOCAL

    def path_to_service(self, service_id: int) -> RouteAction:
        """Return LOCAL."""
        return RouteAction.LOCAL


@final
class ForceNodeRouter(RouterTable):
    """Sends everything to one neighbour.

    Args:
        conn_id: The link to it.
        node_id: The neighbour.
    """

    def __init__(self, conn_id: int, node_id: int) -> None:
        self._action = RouteAction.next_hop(check_conn_id(conn_id), check_node_id(node_id))

    def path_to_node(self, dest: int) -> RouteAction:
        """Return that neighbour."""
        return self._action

    def path_to_key(self, key: int) -> RouteAction:
        """Return that neighbour."""
        return self._action

    def path_to_service(self, service_id: int) -> RouteAction:
        """Return that neighbour."""
        return self._action


@final
@dataclass(frozen=True, slots=True)
class Path:
    """One way to a place.

    Attributes:
        conn_id: The link of the first hop.
        node_id: The neighbour at its other end.
        metric: What the whole way costs.
    """

    conn_id: int
    node_id: int
    metric: Metric


_new = object.__new__
_put_conn_id, _put_node_id, _put_metric = (
    vars(Path)[name].__set__ for name in ("conn_id", "node_id", "metric")
)


def path_of(conn_id: int, node_id: int, metric: Metric) -> Path:
    """Return a path, in half the time of ``Path(...)``."""
    path = _new(Path)
    _put_conn_id(path, conn_id)
    _put_node_id(path, node_id)
    _put_metric(path, metric)
    return path


#: score, hops, -bandwidth, neighbour, conn, path: the smallest is the best, and no two are equal.
Candidate = tuple[int, int, int, int, int, Path]


def candidate_of(path: Path) -> Candidate:
    """Return a path with all that decides about it, in the order in which it decides."""
    metric = path.metric
    order = metric.score, len(metric.hops), -metric.bandwidth_kbps
    return *order, path.node_id, path.conn_id, path


def as_alternate(candidate: Candidate, best: Path) -> tuple[bool, bool, Candidate]:
    """Return the order of alternates: those around the best one's neighbour come first.

    Ways over suspect links come last all the same.
    """
    metric = candidate[5].metric
    return metric.is_last_resort, best.node_id in metric.hops, candidate


def choose(candidates: Collection[Candidate]) -> tuple[Path, Path | None] | None:
    """Return the best path, and the best one over another neighbour; None without candidates."""
    if not candidates:
        return None
    best = min(candidates)[5]
    others = [c for c in candidates if c[3] != best.node_id]
    if not others:
        return best, None
    return best, min(others, key=lambda c: as_alternate(c, best))[5]


def _no_layers() -> tuple[Mapping[int, Metric], ...]:
    return ({}, {}, {}, {})


@final
@dataclass(frozen=True, slots=True)
class RouterSync:
    """Everything that one neighbour is told: a full snapshot.

    Attributes:
        layers: For each layer, lowest first, index -> metric of the announced path.
        services: Service id -> metric; no hops when the sender itself offers it.
    """

    layers: tuple[Mapping[int, Metric], ...] = field(default_factory=_no_layers)
    services: Mapping[int, Metric] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.layers) != wire.LAYERS:
            raise LocalError(f"a sync has {wire.LAYERS} layers, not {len(self.layers)}")
        for mapping in (*self.layers, self.services):
            for index in mapping:
                if not 0 <= index < wire.SLOTS:
                    raise LocalError(f"an index or service in a sync is 0..255, not {index}")
        frozen = tuple(MappingProxyType(dict(layer)) for layer in self.layers)
        object.__setattr__(self, "layers", frozen)
        object.__setattr__(self, "services", MappingProxyType(dict(self.services)))

    @classmethod
    def of_places(cls, announced: Mapping[int, Metric]) -> RouterSync:
        """Return the snapshot with these metrics, given by place."""
        parts: list[dict[int, Metric]] = [{} for _ in range(wire.LAYERS + 1)]
        for place, metric in announced.items():
            parts[place >> 8][place & 0xFF] = metric
        return cls(tuple(parts[: wire.LAYERS]), parts[wire.LAYERS])

    def places(self) -> Iterator[tuple[int, Metric]]:
        """Yield (place, metric) of every entry."""
        for row, mapping in enumerate((*self.layers, self.services)):
            for index, metric in mapping.items():
                yield row << 8 | index, metric
