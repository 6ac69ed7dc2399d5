"""Plants: bugs on purpose, to show that the campaigns find them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from netcore._pure.broadcast import NEW, DuplicateFilter
from netcore._pure.calls import CallDesk
from netcore._pure.connection import Connection
from netcore._pure.switch import Switch
from netcore.ids import differing_layer
from netcore.learned import Learned, place_of
from netcore.route import Metric
from netcore.router import FIRST_SERVICE
from netcore.routing import LayeredRouter
from netcore.stats import DROP_COUNTERS

__all__ = ["PLANTS", "planted"]


@contextmanager
def _replaced(owner: type, name: str, new: Callable[..., Any]) -> Iterator[None]:
    old = getattr(owner, name)
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, old)


@contextmanager
def _skip_clear() -> Iterator[None]:
    """What was learned over a link outlives it: the next epoch of the neighbour inherits it."""

    def keep(router: LayeredRouter, conn_id: int) -> None:
        """Forget the link itself only."""
        link = router._links.get(conn_id)
        if link is not None and link.direct is not None:
            link.direct = None
            if link.place not in link.received:
                router._choices.remove(link.place, conn_id)
            router._recompute({link.place}, conn_id)

    with _replaced(LayeredRouter, "del_direct", keep):
        yield


@contextmanager
def _skip_split_horizon() -> Iterator[None]:
    """A neighbour is told the best path, also when it leads to that neighbour."""

    def announcement(router: LayeredRouter, place: int, for_node: int) -> Metric | None:
        if place - FIRST_SERVICE in router._offered:
            return Metric(0, ())
        chosen = router._choices.chosen.get(place)
        if chosen is None:
            return None
        if place < FIRST_SERVICE:
            layer = differing_layer(router.node_id, for_node)
            if place >> 8 < layer or place == place_of(router.node_id, for_node):
                return None
        return chosen[0].metric

    with _replaced(LayeredRouter, "announcement", announcement):
        yield


@contextmanager
def _forget_ttl() -> Iterator[None]:
    """A relay neither looks at the TTL nor counts it down; in the pure backend."""
    relay = Switch._relay

    def forget(
        switch: Switch, conn: Connection, kind: int, body: bytes, route: tuple[int, int, int]
    ) -> None:
        relay(switch, conn, kind, bytes((body[0], min(255, body[1] + 1))) + body[2:], route)

    with _replaced(Switch, "_relay", forget):
        yield


@contextmanager
def _forget_drop() -> Iterator[None]:
    """A relay drops in silence; in the pure backend."""
    relay = Switch._relay

    def forget(
        switch: Switch, conn: Connection, kind: int, body: bytes, route: tuple[int, int, int]
    ) -> None:
        before = dict(switch._counts)
        relay(switch, conn, kind, body, route)
        switch._counts.update((name, before[name]) for name in DROP_COUNTERS)

    with _replaced(Switch, "_relay", forget):
        yield


@contextmanager
def _overtake() -> Iterator[None]:
    """Every third frame of data goes ahead of those that wait; in the pure backend."""
    push = Connection._push

    def overtake(conn: Connection, frame: bytes) -> None:
        if conn.frames_sent % 3 == 0:
            conn._push_control(frame)
        else:
            push(conn, frame)

    with _replaced(Connection, "_push", overtake):
        yield


@contextmanager
def _stale_metric() -> Iterator[None]:
    """Paths learned over a link keep the metric that it had then."""

    def keep(router: LayeredRouter, link: Learned, metric: Metric) -> set[int]:
        link.metric = metric
        return set()

    with _replaced(LayeredRouter, "_rebase", keep):
        yield


@contextmanager
def _hear_twice() -> Iterator[None]:
    """Every copy of a broadcast passes for a new one; in the pure backend."""
    check = DuplicateFilter.check

    def forget(known: DuplicateFilter, origin: int, epoch: int, sequence: int) -> int:
        check(known, origin, epoch, sequence)
        return NEW

    with _replaced(DuplicateFilter, "check", forget):
        yield


@contextmanager
def _many_calls() -> Iterator[None]:
    """The bound of calls that wait is forgotten; in the pure backend."""
    bind = CallDesk.bind

    def unbounded(desk: CallDesk, switch: Switch) -> None:
        bind(desk, switch)
        desk._max_pending = 1 << 32

    with _replaced(CallDesk, "bind", unbounded):
        yield


@contextmanager
def _nothing() -> Iterator[None]:
    yield


#: Name -> what plants it while it lasts.
PLANTS: Final = {
    "": _nothing,
    "skip-clear": _skip_clear,
    "skip-split-horizon": _skip_split_horizon,
    "forget-ttl": _forget_ttl,
    "forget-drop": _forget_drop,
    "overtake": _overtake,
    "stale-metric": _stale_metric,
    "hear-twice": _hear_twice,
    "many-calls": _many_calls,
}


def planted(name: str) -> AbstractContextManager[None]:
    """Return the context in which this bug is there."""
    return PLANTS[name]()
