"""What a message asks for, what a router answers, what a way costs."""

from __future__ import annotations

from functools import lru_cache

from . import wire
from ._typing import ClassVar, Final, final
from .errors import LocalError
from .ids import check_conn_id, check_key, check_node_id, key_of
from .values import dataclass

__all__ = [
    "BroadcastLevel",
    "HandlerRoute",
    "Metric",
    "RouteAction",
    "RouteRule",
    "check_level",
    "check_one",
    "check_rule",
]

_KIND_NAMES: Final = ("direct", "node", "service", "closest", "services")


@final
class BroadcastLevel:
    """How far a broadcast goes: the nodes whose id begins like that of the node it comes from.

    Plain ints, and these are all of them.

    Attributes:
        GLOBAL: Every node.
        ZONE: Those with the same highest byte (geo1).
        SUB_ZONE: Those with the same two highest bytes (geo1, geo2).
        GROUP: Those with the same three highest bytes (geo1, geo2, group).
    """

    __slots__ = ()

    GLOBAL: Final = wire.BROADCAST_GLOBAL
    ZONE: Final = wire.BROADCAST_ZONE
    SUB_ZONE: Final = wire.BROADCAST_SUB_ZONE
    GROUP: Final = wire.BROADCAST_GROUP


def check_level(level: int) -> int:
    """Return ``level``.

    Raises:
        LocalError: It is not one of ``BroadcastLevel``.
    """
    if not isinstance(level, int) or not 0 <= level <= wire.BROADCAST_GROUP:
        raise LocalError(f"a broadcast level is an int in 0..{wire.BROADCAST_GROUP}, not {level!r}")
    return level


@final
class RouteRule:
    """Where a message wants to go. Immutable, compared by value.

    Attributes:
        kind: One of ``wire.ROUTE_*``.
        argument: Node id, key, service meta or broadcast level; 0 for direct.
    """

    __slots__ = ("argument", "kind")

    kind: int
    argument: int

    def __init__(self, kind: int, argument: int = 0) -> None:
        for name, value, highest in (
            ("kind", kind, wire.ROUTE_SERVICES),
            ("argument", argument, wire.MAX_U32),
        ):
            if not isinstance(value, int) or not 0 <= value <= highest:
                raise LocalError(f"a route {name} is an int in 0..{highest}, not {value!r}")
        if kind == wire.ROUTE_SERVICES:
            check_level(argument)
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "argument", 0 if kind == wire.ROUTE_DIRECT else argument)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"RouteRule is immutable, {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"RouteRule is immutable, {name} cannot be deleted")

    def __reduce__(self) -> tuple[type[RouteRule], tuple[int, int]]:
        return RouteRule, (self.kind, self.argument)

    @classmethod
    def direct(cls) -> RouteRule:
        """Whoever receives it on the link consumes it: one hop, no routing."""
        return _DIRECT

    @classmethod
    def node(cls, dest: int) -> RouteRule:
        """The node with this id, 0..2**32 - 2."""
        return _node_rule(dest if type(dest) is int else check_node_id(dest))

    @classmethod
    def closest(cls, key: int | str | bytes) -> RouteRule:
        """The node whose id is closest to the key, an int or a name hashed by ``key_of``."""
        return cls(wire.ROUTE_KEY, check_key(key) if isinstance(key, int) else key_of(key))

    @classmethod
    def service(cls, meta: int = 0) -> RouteRule:
        """A node that offers the message's ``to_service``: this one, else the nearest.

        Args:
            meta: Reserved for selectors, 0..2**32 - 1; carried, not interpreted.
        """
        return cls(wire.ROUTE_SERVICE, meta)

    @classmethod
    def services(cls, level: int = BroadcastLevel.GLOBAL) -> RouteRule:
        """Every node within the level that offers the message's ``to_service``: a broadcast.

        Args:
            level: One of ``BroadcastLevel``, seen from the node that sends.
        """
        return cls(wire.ROUTE_SERVICES, level)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RouteRule):
            return NotImplemented
        return self.kind == other.kind and self.argument == other.argument

    def __hash__(self) -> int:
        return hash((self.kind, self.argument))

    def __repr__(self) -> str:
        name = _KIND_NAMES[self.kind]
        return f"RouteRule.{name}({'' if self.kind == wire.ROUTE_DIRECT else self.argument})"


_DIRECT: Final = RouteRule(wire.ROUTE_DIRECT)


# Programs make the same few rules again and again, one for each send: making a rule takes longer
# than the send.
@lru_cache(maxsize=1024)
def _node_rule(dest: int) -> RouteRule:
    return RouteRule(wire.ROUTE_NODE, check_node_id(dest))


def check_rule(rule: RouteRule) -> RouteRule:
    """Return ``rule``.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(rule, RouteRule):
        raise TypeError(f"a rule is a RouteRule, not {type(rule).__name__}")
    return rule


def check_one(rule: RouteRule) -> RouteRule:
    """Return ``rule``.

    Raises:
        LocalError: It leads to more than one node, so that a call would have many answers.
    """
    if rule.kind == wire.ROUTE_SERVICES:
        raise LocalError(f"a call goes to one node: {rule!r} leads to many")
    return rule


@final
@dataclass(frozen=True, slots=True)
class RouteAction:
    """What a router answers: reject, deliver here, or the next hop. Compared by value.

    Attributes:
        action: One of ``wire.ACTION_*``.
        conn_id: The link to use, 0 unless ``is_next``.
        node_id: The neighbour at its other end, 0 unless ``is_next``.
    """

    action: int
    conn_id: int = 0
    node_id: int = 0

    REJECT: ClassVar[RouteAction]
    LOCAL: ClassVar[RouteAction]

    @classmethod
    def next_hop(cls, conn_id: int, node_id: int) -> RouteAction:
        """Relay over this link to this neighbour."""
        return cls(wire.ACTION_NEXT, conn_id, node_id)

    @property
    def is_reject(self) -> bool:
        """Whether there is no way."""
        return self.action == wire.ACTION_REJECT

    @property
    def is_local(self) -> bool:
        """Whether this node is the destination."""
        return self.action == wire.ACTION_LOCAL

    @property
    def is_next(self) -> bool:
        """Whether ``conn_id`` and ``node_id`` name the next hop."""
        return self.action == wire.ACTION_NEXT

    def __repr__(self) -> str:
        if self.is_next:
            return f"RouteAction.next_hop({self.conn_id:#x}, {self.node_id})"
        return "RouteAction.LOCAL" if self.is_local else "RouteAction.REJECT"


RouteAction.REJECT = RouteAction(wire.ACTION_REJECT)
RouteAction.LOCAL = RouteAction(wire.ACTION_LOCAL)


@final
@dataclass(frozen=True, slots=True)
class Metric:
    """What a way costs.

    Attributes:
        latency_ms: Milliseconds, 0..2**32 - 1.
        hops: Node ids from the destination to the first hop; this node is not included.
        bandwidth_kbps: Of the narrowest link, 0 = unknown.
    """

    latency_ms: int
    hops: tuple[int, ...]
    bandwidth_kbps: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "hops", tuple(self.hops))
        for value in (self.latency_ms, self.bandwidth_kbps, *self.hops):
            if not isinstance(value, int):
                raise TypeError(f"a metric is made of ints, not of {value!r}")
        object.__setattr__(self, "latency_ms", max(0, min(self.latency_ms, wire.MAX_U32)))
        object.__setattr__(self, "bandwidth_kbps", max(0, min(self.bandwidth_kbps, wire.MAX_U32)))

    @property
    def score(self) -> int:
        """Latency plus 10 ms a hop plus a smooth penalty for known, narrow bandwidth."""
        penalty = min(1000, 10_000 // self.bandwidth_kbps) if self.bandwidth_kbps else 0
        return self.latency_ms + wire.HOP_COST_MS * len(self.hops) + penalty

    @property
    def is_last_resort(self) -> bool:
        """Whether a link on the way is suspect; then any other way is better."""
        return self.latency_ms >= wire.SUSPECT_LATENCY_MS

    def over(self, link: Metric) -> Metric:
        """Return this way prolonged by a link: what it costs from one hop further away.

        Latencies add up and saturate; bandwidth is the smaller known one.
        """
        latency_ms = self.latency_ms + link.latency_ms
        mine, its = self.bandwidth_kbps, link.bandwidth_kbps
        return metric_of_checked(
            latency_ms if latency_ms < wire.MAX_U32 else wire.MAX_U32,
            self.hops + link.hops,
            min(mine, its) if mine and its else mine or its,
        )


_new = object.__new__
_put_latency_ms, _put_hops, _put_bandwidth_kbps = (
    vars(Metric)[name].__set__ for name in ("latency_ms", "hops", "bandwidth_kbps")
)


def metric_of_checked(latency_ms: int, hops: tuple[int, ...], bandwidth_kbps: int) -> Metric:
    """Return a metric of numbers that need no check, which would be most of what it costs.

    Routers make one for every place that a neighbour announces, and one more for the way there.
    """
    metric = _new(Metric)
    _put_latency_ms(metric, latency_ms)
    _put_hops(metric, hops)
    _put_bandwidth_kbps(metric, bandwidth_kbps)
    return metric


@final
@dataclass(frozen=True, slots=True)
class HandlerRoute:
    """Which handler of the same service an event goes to.

    Attributes:
        conn_id: That link, or None.
        node_id: The best link to that node, or None.
    """

    conn_id: int | None = None
    node_id: int | None = None

    def __post_init__(self) -> None:
        if self.conn_id is not None:
            check_conn_id(self.conn_id)
        if self.node_id is not None:
            check_node_id(self.node_id)

    @classmethod
    def conn(cls, conn_id: int) -> HandlerRoute:
        """The handler on this link."""
        return cls(conn_id=conn_id)

    @classmethod
    def node(cls, node_id: int) -> HandlerRoute:
        """The handler on the best link (lowest RTT, then oldest) to this node."""
        return cls(node_id=node_id)
